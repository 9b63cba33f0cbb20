//! Convolution by transformed tiles against naive sums in double precision.

use cnnrs::algorithm::Algorithm;
use cnnrs::function::UnaryKind;
use cnnrs::kernels::conv::winograd::{BackwardWeights, Pack, Product, refusal, refusal_of_data, refusal_of_weights};
use cnnrs::kernels::conv::{Epilogue, Geometry};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::naive::passes;
use crate::{Operand, assert_close, run, values};

/// Largest error relative to the largest result.
const TOLERANCE: f64 = 2e-5;

struct Case {
    geometry: Geometry,
    src: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    diff_dst: Vec<f32>,
}

impl Case {
    fn new(kernel: usize, n: usize, input: [usize; 2], ic: usize, oc: usize, pad: [[usize; 2]; 2]) -> Self {
        Self::of(Window2d { kernel: [kernel; 2], stride: [1; 2], dilation: [1; 2], pad }, n, input, ic, oc)
    }

    /// 3×3 with stride 2 and the padding that there are tiles for, of which `end` is that behind the last pixel.
    fn strided(n: usize, input: [usize; 2], ic: usize, oc: usize, end: [usize; 2]) -> Self {
        let window = Window2d { kernel: [3; 2], stride: [2; 2], dilation: [1; 2], pad: end.map(|end| [1, end]) };
        Self::of(window, n, input, ic, oc)
    }

    /// Few channels, with a larger kernel and stride.
    fn first(
        [kernel, stride]: [usize; 2],
        n: usize,
        input: [usize; 2],
        ic: usize,
        oc: usize,
        pad: [[usize; 2]; 2],
    ) -> Self {
        Self::of(Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pad }, n, input, ic, oc)
    }

    fn of(window: Window2d, n: usize, input: [usize; 2], ic: usize, oc: usize) -> Self {
        let geometry = Geometry::new(n, input, ic, oc, 1, window).unwrap();
        Self {
            src: values(1, geometry.src_len()),
            weights: values(2, geometry.weights_len()),
            bias: values(3, oc),
            diff_dst: values(4, geometry.dst_len()),
            geometry,
        }
    }

    fn forward(&self, isa: Isa, activation: Option<UnaryKind>, kept: bool) -> Vec<f32> {
        let kernel =
            Product::forward(isa, &self.geometry, Epilogue { bias: true, activation, ..Epilogue::default() }, kept);
        let weights = self.weights(&kernel, &Pack::forward(isa, &self.geometry));
        product(&kernel, vec![Operand::of(&self.src), weights, Operand::of(&self.bias)], self.geometry.dst_len())
    }

    fn backward_data(&self, isa: Isa, kept: bool) -> Vec<f32> {
        let kernel = Product::backward_data(isa, &self.geometry, kept);
        let weights = self.weights(&kernel, &Pack::backward_data(isa, &self.geometry));
        product(&kernel, vec![Operand::of(&self.diff_dst), weights], self.geometry.src_len())
    }

    /// The weights as the kernel wants them.
    fn weights(&self, kernel: &Product, pack: &Pack) -> Operand {
        let weights = Operand::of(&self.weights);
        if kernel.takes_raw() { weights } else { run(pack, &[weights, zeros(pack.packed_len())])[1].clone() }
    }

    fn backward_weights(&self, isa: Isa) -> Vec<f32> {
        let kernel = BackwardWeights::new(isa, &self.geometry);
        let (parts, len) = (kernel.parts(), self.geometry.weights_len());
        let mut operands = vec![Operand::of(&self.src), Operand::of(&self.diff_dst)];
        if kernel.positions_len() > 0 {
            operands.push(Operand::poison::<f32>(kernel.positions_len()));
        }
        operands.push(Operand::poison::<f32>(parts * len));
        let made: Vec<f32> = run(&kernel, &operands).pop().expect("the gradients come last").get();
        (0..len).map(|i| (0..parts).map(|part| made[part * len + i]).sum()).collect()
    }

    /// All three passes on every level against naive sums.
    fn check(&self) {
        let g = &self.geometry;
        let [mut dst, diff_src, diff_weights] = passes(g, &self.src, &self.weights, &self.diff_dst);
        dst.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(self.bias[i % g.oc]));
        for isa in Isa::available() {
            let what = |pass: &str| format!("{pass} on {}, {}", isa.name(), g.describe());
            let relu: Vec<f64> = dst.iter().map(|&x| x.max(0.0)).collect();
            for kept in [false, true] {
                close(&self.forward(isa, None, kept), &dst, &what("forward"));
                close(&self.forward(isa, Some(UnaryKind::Relu), kept), &relu, &what("forward, relu"));
                // Of few channels it is direct.
                if g.window.stride == [1, 1] || g.window.kernel == [3, 3] {
                    close(&self.backward_data(isa, kept), &diff_src, &what("backward_data"));
                }
            }
            close(&self.backward_weights(isa), &diff_weights, &what("backward_weights"));
        }
    }
}

/// Runs a kernel on operands, positions where it wants them, and a result of `len` numbers.
fn product(kernel: &Product, mut operands: Vec<Operand>, len: usize) -> Vec<f32> {
    let result = operands.len();
    operands.push(Operand::poison::<f32>(len));
    if kernel.positions_len() > 0 {
        operands.push(Operand::poison::<f32>(kernel.positions_len()));
    }
    run(kernel, &operands)[result].get()
}

/// Packed copies have gaps between their planes that nobody reads.
fn zeros(len: usize) -> Operand {
    Operand::of(&vec![0.0f32; len])
}

fn close(got: &[f32], want: &[f64], what: &str) {
    let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert_close(got, want, TOLERANCE * largest, what);
}

#[test]
fn common_layers() {
    Case::new(3, 3, [28, 28], 32, 64, [[1; 2]; 2]).check();
    Case::new(3, 5, [7, 7], 64, 64, [[1; 2]; 2]).check();
    Case::new(3, 1, [7, 7], 64, 96, [[1; 2]; 2]).check();
    Case::new(3, 2, [8, 5], 40, 33, [[0, 2], [1, 2]]).check();
    Case::new(3, 1, [21, 18], 40, 33, [[0, 2], [1, 2]]).check();
    Case::new(3, 2, [13, 14], 64, 96, [[0; 2]; 2]).check();
    Case::new(5, 1, [27, 27], 64, 96, [[2; 2]; 2]).check();
    Case::new(5, 5, [7, 7], 40, 64, [[2; 2]; 2]).check();
    Case::new(5, 1, [12, 15], 40, 33, [[0, 3], [4, 1]]).check();
    Case::strided(2, [28, 28], 64, 96, [1; 2]).check();
    Case::strided(5, [14, 14], 64, 64, [1; 2]).check();
    Case::strided(1, [21, 18], 40, 33, [0, 2]).check();
    Case::strided(12, [28, 28], 32, 33, [1; 2]).check();
}

#[test]
fn first_layers() {
    Case::first([7, 2], 2, [48, 50], 3, 64, [[3; 2]; 2]).check();
    Case::first([8, 2], 1, [37, 30], 5, 33, [[3, 4], [0, 1]]).check();
    Case::first([11, 4], 2, [63, 60], 3, 40, [[2; 2]; 2]).check();
    Case::first([7, 3], 1, [40, 51], 5, 32, [[0, 3], [6, 0]]).check();
    Case::first([5, 2], 13, [25, 22], 8, 96, [[2; 2]; 2]).check();
    Case::first([12, 3], 1, [64, 65], 2, 33, [[7; 2]; 2]).check();
    Case::first([16, 4], 1, [70, 77], 4, 33, [[0; 2]; 2]).check();
    let parts = |n| {
        let Case { geometry, .. } = Case::first([7, 2], n, [96, 96], 3, 64, [[3; 2]; 2]);
        Isa::available().iter().map(|&isa| BackwardWeights::new(isa, &geometry).parts()).collect::<Vec<_>>()
    };
    assert!(parts(2).iter().all(|&parts| parts == 8));
}

/// Many tiles of few channels, which are cut into parts.
#[test]
fn parts_of_a_weight_gradient() {
    for (channels, results) in [(64, 64), (100, 33), (40, 33), (33, 65), (32, 120)] {
        Case::new(3, 3, [27, 26], channels, results, [[1; 2]; 2]).check();
    }
    Case::new(3, 13, [17, 16], 33, 65, [[0, 1], [2, 1]]).check();
    Case::new(5, 3, [14, 13], 70, 40, [[2; 2]; 2]).check();
    Case::strided(3, [27, 26], 64, 65, [1; 2]).check();
    Case::strided(13, [17, 16], 33, 100, [0, 2]).check();
    let cut = |channels, n| {
        let Case { geometry, .. } = Case::new(3, n, [27, 26], channels, 64, [[1; 2]; 2]);
        Isa::available().iter().map(|&isa| BackwardWeights::new(isa, &geometry).parts()).collect::<Vec<_>>()
    };
    for (channels, n, parts) in [(64, 1, 1), (64, 3, 2), (64, 6, 4), (97, 6, 1), (32, 40, 16)] {
        assert!(cut(channels, n).iter().all(|&found| found == parts), "{channels} channels of {n} images");
    }
}

#[test]
fn every_tail_of_channels() {
    for channels in 32..=66 {
        Case::new(3, 1, [13, 15], channels, 98 - channels, [[1; 2]; 2]).check();
        Case::new(3, 1, [7, 8], channels, 98 - channels, [[1; 2]; 2]).check();
        Case::new(5, 1, [7, 8], channels, 98 - channels, [[2; 2]; 2]).check();
        Case::strided(1, [13, 15], channels, 98 - channels, [1; 2]).check();
    }
}

#[test]
fn every_tail_of_tiles() {
    for size in 13..=20 {
        Case::new(3, 1, [size, 33 - size], 33, 34, [[1; 2]; 2]).check();
        Case::new(3, 1, [size - 10, 24 - size], 33, 34, [[1; 2]; 2]).check();
        Case::new(5, 1, [size - 6, 27 - size], 33, 34, [[2; 2]; 2]).check();
        Case::strided(1, [size, 33 - size], 33, 34, [1; 2]).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape(
        kernel in prop_oneof![Just(3usize), Just(5usize)],
        n in 1usize..5,
        input in (3usize..20, 3usize..20),
        channels in (1usize..50, 1usize..50),
        pad in ((0usize..5, 0usize..5), (0usize..5, 0usize..5)),
    ) {
        let pad = [[pad.0.0, pad.0.1], [pad.1.0, pad.1.1]].map(|axis| axis.map(|pad| pad.min(kernel - 1)));
        Case::new(kernel, n, [input.0.max(kernel), input.1.max(kernel)], channels.0, channels.1, pad).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_shape_with_stride_2(
        n in 1usize..9,
        input in (2usize..30, 2usize..30),
        channels in (1usize..50, 1usize..50),
        end in (0usize..3, 0usize..3),
    ) {
        Case::strided(n, [input.0, input.1], channels.0, channels.1, [end.0, end.1]).check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_first_layer(
        shape in (2usize..5).prop_flat_map(|stride| {
            (Just(stride), 2 * stride + 1..4 * stride + 1, 1..16 / stride + 1)
        }),
        n in 1usize..4,
        input in (0usize..40, 0usize..40),
        oc in 1usize..70,
        pad in ((0usize..9, 0usize..9), (0usize..9, 0usize..9)),
    ) {
        let (stride, kernel, ic) = shape;
        let pad = [[pad.0.0, pad.0.1], [pad.1.0, pad.1.1]];
        Case::first([kernel, stride], n, [kernel + input.0, kernel + input.1], ic, oc, pad).check();
    }
}

#[test]
fn the_rule_gives_its_reasons() {
    let geometry = |kernel: usize, size: usize, channels: usize, stride: usize, pad: usize| {
        let window = Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pad: [[pad; 2]; 2] };
        Geometry::new(1, [size; 2], channels, channels, 1, window).unwrap()
    };
    let reason = |geometry| refusal(Algorithm::Auto, &geometry).unwrap_or_default();
    assert_eq!(reason(geometry(3, 16, 32, 1, 1)), "");
    assert_eq!(refusal(Algorithm::Direct, &geometry(3, 16, 32, 1, 1)).unwrap(), "algorithm is direct");
    assert_eq!(reason(geometry(3, 16, 64, 2, 1)), "");
    assert_eq!(reason(geometry(3, 16, 63, 2, 1)), "fewer than 64 channels");
    assert_eq!(reason(geometry(3, 14, 64, 2, 1)), "");
    assert_eq!(
        refusal_of_weights(Algorithm::Auto, &geometry(3, 14, 64, 2, 1)).unwrap(),
        "tiles of 64 results for 49, more than a fifth too many"
    );
    for (stride, pad) in [(2, 0), (2, 2), (3, 1)] {
        let reason = reason(geometry(3, 16, 64, stride, pad));
        assert_eq!(reason, "neither stride 1 nor 3x3 with stride 2 and padding 1");
    }
    assert_eq!(reason(geometry(5, 16, 64, 2, 2)), "neither stride 1 nor 3x3 with stride 2 and padding 1");
    assert_eq!(reason(geometry(3, 16, 32, 1, 3)), "padding above 2");
    assert_eq!(reason(geometry(3, 16, 31, 1, 1)), "fewer than 32 channels");
    assert_eq!(reason(geometry(3, 12, 32, 1, 1)), "");
    assert_eq!(reason(geometry(3, 6, 32, 1, 1)), "9 tiles, fewer than 12");
    assert_eq!(refusal_of_weights(Algorithm::Auto, &geometry(3, 12, 32, 1, 1)).unwrap(), "9 tiles, fewer than 16");
    assert_eq!(reason(geometry(5, 16, 32, 1, 4)), "");
    assert_eq!(reason(geometry(5, 16, 32, 1, 5)), "padding above 4");
    assert_eq!(reason(geometry(5, 6, 32, 1, 2)), "9 tiles, fewer than 12");
    let first = |ic, oc| {
        Geometry::new(1, [64; 2], ic, oc, 1, Case::first([7, 2], 1, [64; 2], 3, 64, [[3; 2]; 2]).geometry.window)
    };
    let first = |ic, oc| first(ic, oc).unwrap();
    assert_eq!(reason(first(3, 32)), "");
    assert_eq!(refusal_of_weights(Algorithm::Auto, &first(3, 32)), None);
    assert_eq!(refusal_of_data(Algorithm::Auto, &first(3, 32)).unwrap(), "few channels");
    assert_eq!(reason(first(3, 31)), "12 channels of 2x2 pixels to 31, fewer than 12 or 32");
    assert_eq!(reason(first(2, 32)), "8 channels of 2x2 pixels to 32, fewer than 12 or 32");
    assert_eq!(reason(first(9, 32)), "not 3x3 or 5x5 with dilation 1 and one group");
    assert_eq!(reason(geometry(7, 16, 32, 1, 3)), "not 3x3 or 5x5 with dilation 1 and one group");
}
