//! Convolution and its gradients against naive sums in double precision.
//!
//! Inputs are small integers, so that every sum is exact and results must be equal, whatever the order. Outputs and
//! scratch memory are full of NaN before a run, and guarded behind their ends.

#[path = "naive.rs"]
mod naive;

use cnnrs::function::UnaryKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::{BackwardData, BackwardWeights, Epilogue, Forward, Geometry, PackBackwardData, PackForward};
use cnnrs::simd::Isa;
use cnnrs::tensor::{AlignedBuf, Args, Slot};
use cnnrs::window::Window2d;
use naive::passes;
use proptest::prelude::*;

const GUARD: usize = 16;

/// Runs all tasks of `kernel`, in the order of `order`, on a NaN-filled output of `len` floats behind `inputs`.
fn run_in_order(kernel: &dyn Kernel, inputs: &[&[f32]], len: usize, order: &[usize]) -> Vec<f32> {
    let mut out = vec![f32::NAN; len + GUARD];
    let scratch = AlignedBuf::new(kernel.scratch() + GUARD * 4).unwrap();
    let floats = scratch.bytes() / 4;
    let mut slots: Vec<Slot> =
        inputs.iter().map(|input| Slot::new(input.as_ptr().cast_mut().cast(), size_of_val(*input))).collect();
    slots.push(Slot::new(out.as_mut_ptr().cast(), len * 4));
    // SAFETY: the slots outlive the call; the output is this function's.
    let args = unsafe { Args::new(&slots) };
    for &task in order {
        // SAFETY: the buffer is this function's.
        let memory = unsafe { std::slice::from_raw_parts_mut(scratch.ptr().cast::<f32>(), floats) };
        memory.fill(f32::NAN);
        // SAFETY: operands and scratch memory are as long as the kernel says.
        unsafe {
            kernel.prepare(&args, scratch.ptr());
            kernel.run(task, &args, scratch.ptr());
        }
        assert!(memory[kernel.scratch().div_ceil(4)..].iter().all(|x| x.is_nan()), "scratch overrun");
    }
    assert!(out[len..].iter().all(|x| x.is_nan()), "output overrun");
    out.truncate(len);
    out
}

/// Runs the tasks forwards and backwards, which must give the same bits.
fn run(kernel: &dyn Kernel, inputs: &[&[f32]], len: usize) -> Vec<f32> {
    let order: Vec<usize> = (0..kernel.tasks()).collect();
    let out = run_in_order(kernel, inputs, len, &order);
    let reversed: Vec<usize> = order.into_iter().rev().collect();
    let again = run_in_order(kernel, inputs, len, &reversed);
    assert!(out.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{} depends on task order", kernel.name());
    out
}

/// Small integers that differ from call to call and from place to place.
fn integers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..len).map(|_| (next() % 9) as f32 - 4.0).collect()
}

struct Case {
    geometry: Geometry,
    src: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    diff_dst: Vec<f32>,
}

impl Case {
    fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            src: integers(geometry.src_len(), 1),
            weights: integers(geometry.weights_len(), 2),
            bias: integers(geometry.oc, 3),
            diff_dst: integers(geometry.dst_len(), 4),
        }
    }

    fn forward(&self, isa: Isa, epilogue: Epilogue) -> Vec<f32> {
        let pack = PackForward::new(isa, self.geometry);
        let packed = run(&pack, &[&self.weights], pack.packed_len());
        let kernel = Forward::new(isa, self.geometry, epilogue);
        let inputs: &[&[f32]] = if epilogue.bias { &[&self.src, &packed, &self.bias] } else { &[&self.src, &packed] };
        run(&kernel, inputs, self.geometry.dst_len())
    }

    fn backward_data(&self, isa: Isa) -> Vec<f32> {
        let pack = PackBackwardData::new(isa, self.geometry);
        let packed = run(&pack, &[&self.weights], pack.packed_len());
        run(&BackwardData::new(isa, self.geometry), &[&self.diff_dst, &packed], self.geometry.src_len())
    }

    fn backward_weights(&self, isa: Isa) -> Vec<f32> {
        let kernel = BackwardWeights::new(isa, self.geometry);
        let len = self.geometry.weights_len();
        let out = run(&kernel, &[&self.src, &self.diff_dst], kernel.parts() * len);
        (0..len).map(|i| (0..kernel.parts()).map(|part| out[part * len + i]).sum()).collect()
    }

    /// Compares all three kernels on every level with the naive sums, for equality.
    fn check(&self) {
        let g = &self.geometry;
        let [mut dst, diff_src, diff_weights] = passes(g, &self.src, &self.weights, &self.diff_dst);
        dst.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(self.bias[i % g.oc]));
        for isa in Isa::available() {
            let epilogue = Epilogue { bias: true, activation: None, ..Epilogue::default() };
            same(&self.forward(isa, epilogue), &dst, "forward", isa, g);
            same(&self.backward_data(isa), &diff_src, "backward_data", isa, g);
            same(&self.backward_weights(isa), &diff_weights, "backward_weights", isa, g);
        }
    }
}

#[allow(clippy::float_cmp)] // integers: exact or wrong
fn same(found: &[f32], expected: &[f64], what: &str, isa: Isa, g: &Geometry) {
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            f64::from(found) == expected,
            "{what} on {}, {}: element {i} is {found}, expected {expected}",
            isa.name(),
            g.describe()
        );
    }
}

fn window(kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2], pad: [[usize; 2]; 2]) -> Window2d {
    Window2d { kernel, stride, dilation, pad }
}

/// Kernel `k`, stride `s`, padding `p`, square.
fn square(k: usize, s: usize, p: usize) -> Window2d {
    window([k; 2], [s; 2], [1; 2], [[p; 2]; 2])
}

fn check(n: usize, input: [usize; 2], ic: usize, oc: usize, groups: usize, window: Window2d) {
    Case::new(Geometry::new(n, input, ic, oc, groups, window).unwrap()).check();
}

#[test]
fn lenet_layers_are_exact() {
    check(3, [28, 28], 1, 6, 1, square(5, 1, 2));
    check(3, [14, 14], 6, 16, 1, square(5, 1, 0));
    check(64, [1, 1], 400, 120, 1, Window2d::UNIT);
    check(65, [1, 1], 120, 84, 1, Window2d::UNIT);
    check(64, [1, 1], 84, 10, 1, Window2d::UNIT);
    check(1, [1, 1], 84, 10, 1, Window2d::UNIT);
}

#[test]
fn residual_network_layers_are_exact() {
    check(1, [30, 31], 3, 64, 1, square(7, 2, 3));
    check(2, [14, 14], 64, 64, 1, square(3, 1, 1));
    check(2, [15, 14], 64, 96, 1, square(3, 2, 1));
    check(1, [14, 14], 64, 128, 1, square(1, 2, 0));
    check(1, [7, 7], 256, 200, 1, square(3, 1, 1));
}

#[test]
fn weights_beyond_the_cache_are_exact() {
    check(2, [7, 9], 300, 310, 1, square(3, 1, 1));
    check(40, [1, 1], 1030, 500, 1, Window2d::UNIT);
}

#[test]
fn pixels_that_crowd_in_the_cache_are_exact() {
    check(2, [5, 7], 1024, 40, 1, Window2d::UNIT);
    check(1, [9, 10], 512, 33, 1, square(1, 2, 0));
    check(1, [6, 5], 24, 1024, 1, Window2d::UNIT);
    check(1, [5, 4], 2048, 20, 2, Window2d::UNIT);
    // Gradients crowd, of blocks and of parts; then both operands.
    check(2, [7, 9], 250, 1024, 1, Window2d::UNIT);
    check(1, [48, 45], 50, 512, 1, Window2d::UNIT);
    check(1, [9, 10], 512, 1024, 1, square(1, 2, 0));
    check(1, [5, 6], 512, 1024, 1, square(3, 2, 1));
}

#[test]
fn grouped_and_depthwise_convolutions_are_exact() {
    check(2, [9, 8], 32, 32, 32, square(3, 1, 1));
    check(2, [9, 8], 12, 24, 12, square(3, 2, 1));
    check(1, [9, 8], 24, 40, 4, square(3, 1, 1));
    check(1, [5, 5], 96, 80, 2, square(1, 1, 0));
}

#[test]
fn large_strides_dilations_and_kernels_are_exact() {
    check(2, [9, 11], 3, 5, 1, square(2, 5, 0));
    check(1, [13, 12], 2, 3, 1, window([3, 3], [2, 3], [4, 2], [[4, 3], [0, 1]]));
    check(1, [5, 6], 3, 2, 1, window([9, 8], [1, 1], [1, 1], [[3, 1], [0, 2]]));
    check(2, [6, 7], 2, 4, 1, window([3, 2], [7, 9], [1, 1], [[0, 0], [5, 0]]));
    check(1, [3, 3], 2, 2, 1, square(3, 1, 7));
    check(1, [8, 8], 4, 4, 1, window([2, 2], [4, 4], [3, 3], [[0, 0], [0, 0]]));
}

#[test]
fn long_rows_are_exact() {
    check(1, [1, 3000], 1, 2, 1, window([1, 31], [1, 1], [1, 1], [[0, 0], [15, 15]]));
    check(1, [2, 20000], 4, 3, 1, window([2, 3], [1, 2], [1, 1], [[1, 0], [1, 1]]));
}

#[test]
fn an_empty_batch_gives_no_output_and_zero_weight_gradients() {
    check(0, [8, 8], 3, 4, 1, square(3, 1, 1));
    check(0, [1, 1], 300, 200, 1, Window2d::UNIT);
    let geometry = Geometry::new(0, [8, 8], 3, 4, 1, square(3, 1, 1)).unwrap();
    assert_eq!(Forward::new(Isa::detect(), geometry, Epilogue::default()).tasks(), 0);
    assert_eq!(BackwardData::new(Isa::detect(), geometry).tasks(), 0);
}

#[test]
fn many_pixels_make_a_bounded_number_of_parts() {
    for isa in Isa::available() {
        let conv1 = Geometry::new(64, [28, 28], 1, 6, 1, square(5, 1, 2)).unwrap();
        let parts = BackwardWeights::new(isa, conv1).parts();
        assert!((2..=16).contains(&parts), "{parts} parts");
        let linear = Geometry::new(64, [1, 1], 400, 120, 1, Window2d::UNIT).unwrap();
        assert_eq!(BackwardWeights::new(isa, linear).parts(), 1);
    }
}

#[test]
fn activations_follow_the_bias() {
    let case = Case::new(Geometry::new(2, [9, 7], 5, 19, 1, square(3, 1, 1)).unwrap());
    for isa in Isa::available() {
        let plain = case.forward(isa, Epilogue { bias: true, activation: None, ..Epilogue::default() });
        let expect = |kind: UnaryKind, f: &dyn Fn(f32) -> f32| {
            let found = case.forward(isa, Epilogue { bias: true, activation: Some(kind), ..Epilogue::default() });
            for (&x, &y) in plain.iter().zip(&found) {
                assert!((f(x) - y).abs() <= 1e-6, "{kind:?}({x}) is {y} on {}", isa.name());
            }
        };
        expect(UnaryKind::Relu, &|x| x.max(0.0));
        expect(UnaryKind::Tanh, &f32::tanh);
        expect(UnaryKind::Sigmoid, &|x| 1.0 / (1.0 + (-x).exp()));
    }
}

#[test]
fn nan_passes_through_relu_and_stays_in_its_windows() {
    let geometry = Geometry::new(1, [6, 6], 1, 3, 1, square(3, 1, 1)).unwrap();
    let mut case = Case::new(geometry);
    case.src[0] = f32::NAN;
    for isa in Isa::available() {
        let out = case.forward(isa, Epilogue { bias: true, activation: Some(UnaryKind::Relu), ..Epilogue::default() });
        for (i, value) in out.iter().enumerate() {
            let (y, x) = (i / 3 / 6, i / 3 % 6);
            assert_eq!(value.is_nan(), y < 2 && x < 2, "pixel ({y}, {x}) on {}", isa.name());
        }
    }
}

#[test]
fn packed_formats_ignore_batch_and_image_size() {
    let geometry = |n, size, window| Geometry::new(n, [size, size], 6, 16, 1, window).unwrap();
    for isa in Isa::available() {
        let (a, b) = (geometry(1, 14, square(5, 1, 0)), geometry(64, 8, square(5, 1, 0)));
        assert_eq!(PackForward::new(isa, a).format(), PackForward::new(isa, b).format());
        assert_eq!(PackForward::new(isa, a).packed_len(), PackForward::new(isa, b).packed_len());
        assert_eq!(PackBackwardData::new(isa, a).format(), PackBackwardData::new(isa, b).format());
        // Six channels: two pixels share a vector of sixteen lanes, if the width is even.
        let odd = geometry(1, 13, square(5, 1, 0));
        let folds = isa.lanes() >= 12;
        assert_eq!(PackBackwardData::new(isa, a).format() != PackBackwardData::new(isa, odd).format(), folds);
        let strided = geometry(1, 14, square(5, 2, 0));
        assert_ne!(PackBackwardData::new(isa, a).format(), PackBackwardData::new(isa, strided).format());
        assert_ne!(PackForward::new(isa, a).format(), PackBackwardData::new(isa, a).format());
    }
}

#[test]
fn names_tell_the_tile_and_the_level() {
    let geometry = Geometry::new(1, [14, 14], 64, 64, 1, square(3, 1, 1)).unwrap();
    let kernel = Forward::new(Isa::Portable, geometry, Epilogue::default());
    assert_eq!(kernel.name(), "conv_direct_2x16_portable");
    assert_eq!(kernel.flops(), 2 * 14 * 14 * 64 * 64 * 9);
    assert_eq!(geometry.describe(), "n1ih14iw14ic64oc64kh3kw3sh1sw1ph1pw1dh1dw1");
}

fn axis() -> impl Strategy<Value = (usize, usize, usize, [usize; 2], usize)> {
    (1usize..=5, 1usize..=4, 1usize..=3, [0usize..=5, 0usize..=5], 0usize..=9).prop_map(|(k, s, d, pad, room)| {
        // The smallest input the window fits, and some more.
        let size = (d * (k - 1) + 1).saturating_sub(pad[0] + pad[1]).max(1) + room;
        (k, s, d, pad, size)
    })
}

fn channels() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        (1usize..=17, 1usize..=17, Just(1usize)),
        (1usize..=40, 1usize..=70, Just(1usize)),
        (1usize..=5, 1usize..=5, 1usize..=4).prop_map(|(ic, oc, groups)| (ic * groups, oc * groups, groups)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_geometry_is_exact(
        n in 0usize..=3,
        (kh, sh, dh, pad_h, ih) in axis(),
        (kw, sw, dw, pad_w, iw) in axis(),
        (ic, oc, groups) in channels(),
    ) {
        check(n, [ih, iw], ic, oc, groups, window([kh, kw], [sh, sw], [dh, dw], [pad_h, pad_w]));
    }

    #[test]
    fn any_matrix_product_is_exact(n in 0usize..=70, ic in 1usize..=150, oc in 1usize..=150) {
        check(n, [1, 1], ic, oc, 1, Window2d::UNIT);
    }
}
