//! Direct convolutions of few pixels by many weights, whose source is copied once: the same results as with a copy
//! per task, to the bit without padding (with it, tiles of other rows put sums aside at other terms).

use cnnrs::function::UnaryKind;
use cnnrs::kernels::conv::{Epilogue, Forward, Geometry, PackForward};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;

use crate::{Operand, assert_close, run, values};

fn check(n: usize, input: [usize; 2], [ic, oc]: [usize; 2], kernel_size: usize, stride: usize, copied: bool) {
    let pad = [[kernel_size / 2; 2]; 2];
    let window = Window2d { kernel: [kernel_size; 2], stride: [stride; 2], dilation: [1; 2], pad };
    let geometry = Geometry::new(n, input, ic, oc, 1, window).unwrap();
    for isa in Isa::available() {
        let weights = Operand::of(&values(1, geometry.weights_len()));
        let pack = PackForward::new(isa, geometry);
        let packed = run(&pack, &[weights, Operand::poison::<f32>(pack.packed_len())])[1].clone();
        let epilogue = Epilogue { bias: true, activation: Some(UnaryKind::Relu), ..Epilogue::default() };
        let src = Operand::of(&values(2, geometry.src_len()));
        let mut operands = vec![src, packed, Operand::of(&values(3, oc)), Operand::poison::<f32>(geometry.dst_len())];
        let expected: Vec<f32> = run(&Forward::new(isa, geometry, epilogue), &operands)[3].get();
        let kernel = Forward::copying_once(isa, geometry, epilogue);
        // Pixels crowd where a tile has more rows than a set has lines.
        let copied = copied && (kernel_size > 1 || isa == Isa::Avx512);
        assert_eq!(kernel.copy_len() > 0, copied, "{} on {}", geometry.describe(), isa.name());
        operands.push(Operand::poison::<f32>(kernel.copy_len()));
        let found: Vec<f32> = run(&kernel, &operands)[3].get();
        if kernel_size == 1 {
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", geometry.describe());
        }
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        let largest = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        assert_close(&found, &expected, 1e-6 * largest, &geometry.describe());
    }
}

#[test]
fn pixels_that_crowd() {
    check(1, [14, 14], [1024, 256], 1, 1, true);
    check(1, [7, 7], [2048, 70], 1, 1, true);
    check(1, [14, 13], [1024, 160], 1, 2, true);
    check(3, [7, 5], [1024, 200], 1, 1, true);
}

#[test]
fn bands() {
    check(1, [14, 14], [128, 160], 3, 2, true);
    check(2, [9, 11], [160, 256], 3, 1, true);
    check(1, [28, 28], [96, 256], 3, 2, true);
}

#[test]
fn without_copies() {
    check(1, [14, 14], [272, 520], 1, 1, false);
    check(1, [30, 30], [64, 64], 3, 1, false);
}
