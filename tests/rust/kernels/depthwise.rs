//! Depthwise convolution and its gradients. Integers: every sum is exact, so results are equal or wrong.

use cnnrs::function::UnaryKind;
use cnnrs::kernels::conv::depthwise::{BackwardData, BackwardWeights, Forward, Repeat, SumRepeated, refusal};
use cnnrs::kernels::conv::{self, Epilogue, Geometry};
use cnnrs::kernels::reduce::Reduce;
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::naive::{passes, products};
use crate::{Operand, assert_close, integers, run};

struct Case {
    geometry: Geometry,
    src: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    diff_dst: Vec<f32>,
}

impl Case {
    fn new(n: usize, input: [usize; 2], channels: usize, window: Window2d) -> Self {
        let geometry = Geometry::new(n, input, channels, channels, channels, window).unwrap();
        Self {
            src: integers(1, geometry.src_len()),
            weights: integers(2, geometry.weights_len()),
            bias: integers(3, channels),
            diff_dst: integers(4, geometry.dst_len()),
            geometry,
        }
    }

    fn forward(&self, isa: Isa, activation: Option<UnaryKind>) -> Vec<f32> {
        let kernel = Forward::new(isa, self.geometry, Epilogue { bias: true, activation, ..Epilogue::default() });
        let dst = Operand::poison::<f32>(self.geometry.dst_len());
        let operands = [Operand::of(&self.src), Operand::of(&self.weights), Operand::of(&self.bias), dst];
        run(&kernel, &operands)[3].get()
    }

    fn backward_data(&self, isa: Isa) -> Vec<f32> {
        let diff_src = Operand::poison::<f32>(self.geometry.src_len());
        let operands = [Operand::of(&self.diff_dst), Operand::of(&self.weights), diff_src];
        run(&BackwardData::new(isa, self.geometry), &operands)[2].get()
    }

    fn backward_weights(&self, isa: Isa) -> Vec<f32> {
        let (kernel, len) = (BackwardWeights::new(isa, self.geometry), self.geometry.weights_len());
        let partials = Operand::poison::<f32>(kernel.parts() * len);
        let operands = [Operand::of(&self.src), Operand::of(&self.diff_dst), partials];
        let partials = run(&kernel, &operands)[2].clone();
        run(&Reduce::sum_of_parts(isa, kernel.parts(), len), &[partials, Operand::poison::<f32>(len)])[1].get()
    }

    /// All three passes on every level against naive sums.
    fn check(&self) {
        let g = &self.geometry;
        let [mut dst, diff_src, diff_weights] = passes(g, &self.src, &self.weights, &self.diff_dst);
        dst.iter_mut().enumerate().for_each(|(i, sum)| *sum += f64::from(self.bias[i % g.oc]));
        for isa in Isa::available() {
            let what = |pass: &str| format!("{pass} on {}, {}", isa.name(), g.describe());
            assert_close(&self.forward(isa, None), &dst, 0.0, &what("forward"));
            assert_close(&self.backward_data(isa), &diff_src, 0.0, &what("backward_data"));
            assert_close(&self.backward_weights(isa), &diff_weights, 0.0, &what("backward_weights"));
        }
    }
}

fn window(kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2], pad: [[usize; 2]; 2]) -> Window2d {
    Window2d { kernel, stride, dilation, pad }
}

/// Kernel `k`, stride `s`, padding `p`, square.
fn square(k: usize, s: usize, p: usize) -> Window2d {
    window([k; 2], [s; 2], [1; 2], [[p; 2]; 2])
}

#[test]
fn common_layers_are_exact() {
    Case::new(2, [28, 28], 64, square(3, 1, 1)).check();
    Case::new(1, [29, 28], 96, square(3, 2, 1)).check();
    Case::new(2, [7, 7], 320, square(3, 1, 1)).check();
    Case::new(1, [14, 14], 40, square(5, 1, 2)).check();
    Case::new(1, [15, 14], 24, square(5, 2, 2)).check();
    Case::new(1, [14, 14], 48, square(7, 1, 3)).check();
}

#[test]
fn every_number_of_channels_is_exact() {
    for channels in 1..=70 {
        Case::new(1, [5, 6], channels, square(3, 1, 1)).check();
    }
}

#[test]
fn every_width_of_the_interior_is_exact() {
    for width in 1..=26 {
        Case::new(1, [3, width], 33, square(3, 1, 1)).check();
        Case::new(1, [4, width], 7, square(2, 2, 1)).check();
    }
}

#[test]
fn large_strides_dilations_and_kernels_are_exact() {
    Case::new(2, [9, 11], 5, square(2, 5, 0)).check();
    Case::new(1, [13, 12], 20, window([3, 3], [2, 3], [4, 2], [[4, 3], [0, 1]])).check();
    Case::new(1, [5, 6], 17, window([9, 8], [1, 1], [1, 1], [[3, 1], [0, 2]])).check();
    Case::new(1, [3, 20], 18, window([1, 19], [1, 1], [1, 1], [[0, 0], [9, 9]])).check();
    Case::new(2, [6, 7], 4, window([3, 2], [7, 9], [1, 1], [[0, 0], [5, 0]])).check();
    Case::new(1, [3, 3], 16, square(3, 1, 7)).check();
    Case::new(1, [8, 8], 32, window([2, 2], [4, 4], [3, 3], [[0, 0], [0, 0]])).check();
    Case::new(1, [16, 15], 8, window([3, 3], [4, 6], [6, 4], [[6, 6], [4, 4]])).check();
}

#[test]
fn long_lines_are_cut_into_pieces() {
    Case::new(1, [1, 5000], 16, window([1, 9], [1, 1], [1, 1], [[0, 0], [4, 4]])).check();
    Case::new(2, [2, 3000], 3, window([2, 3], [1, 2], [1, 1], [[1, 0], [1, 1]])).check();
    let window = window([1, 9], [1, 1], [1, 1], [[0, 0], [4, 4]]);
    let line = Geometry::new(1, [1, 5000], 16, 16, 16, window).unwrap();
    let kernel = Forward::new(Isa::detect(), line, Epilogue::default());
    assert!(cnnrs::kernels::Kernel::tasks(&kernel) > 1);
    assert!(BackwardWeights::new(Isa::detect(), line).parts() > 1);
}

#[test]
fn an_empty_batch_gives_no_output_and_zero_weight_gradients() {
    Case::new(0, [8, 8], 20, square(3, 1, 1)).check();
    Case::new(2, [0, 4], 20, square(2, 1, 1)).check();
    Case::new(2, [4, 0], 20, square(2, 1, 1)).check();
}

#[test]
fn many_pixels_make_a_bounded_number_of_parts() {
    for (n, size, channels) in [(8, 56, 128), (8, 14, 512), (1, 7, 960), (256, 112, 32)] {
        let geometry = Geometry::new(n, [size, size], channels, channels, channels, square(3, 1, 1)).unwrap();
        let parts = BackwardWeights::new(Isa::detect(), geometry).parts();
        assert!((1..=16).contains(&parts) && (n == 1) == (parts == 1), "{parts} parts for {}", geometry.describe());
    }
}

#[test]
fn activations_follow_the_bias() {
    for channels in [3, 19, 32] {
        let case = Case::new(2, [9, 7], channels, square(3, 1, 1));
        for isa in Isa::available() {
            let plain = case.forward(isa, None);
            let expect = |kind: UnaryKind, f: &dyn Fn(f64) -> f64| {
                let expected: Vec<f64> = plain.iter().map(|&x| f(f64::from(x))).collect();
                assert_close(&case.forward(isa, Some(kind)), &expected, 1e-6, &format!("{kind:?} on {}", isa.name()));
            };
            expect(UnaryKind::Relu, &|x| x.max(0.0));
            expect(UnaryKind::Tanh, &f64::tanh);
            expect(UnaryKind::Sigmoid, &|x| 1.0 / (1.0 + (-x).exp()));
        }
    }
}

/// The same bits where a special value does not reach, and where it does what a naive sum over the window gives; which is
/// also what the general kernel gives.
#[test]
fn special_values_stay_in_their_windows() {
    for (channels, window) in [(3, square(3, 1, 1)), (20, square(3, 2, 1)), (33, square(5, 1, 2))] {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let clean = Case::new(1, [9, 9], channels, window);
            let mut touched = Case::new(1, [9, 9], channels, window);
            touched.src[(4 * 9 + 4) * channels + channels - 1] = special;
            let g = touched.geometry;
            let mut expected: Vec<f64> = (0..g.dst_len()).map(|i| f64::from(touched.bias[i % channels])).collect();
            products(&g, |s, w, d| expected[d] += f64::from(touched.src[s]) * f64::from(touched.weights[w]));
            for isa in Isa::available() {
                let found = touched.forward(isa, None);
                assert_close(&found, &expected, 0.0, isa.name());
                let relu = touched.forward(isa, Some(UnaryKind::Relu));
                assert!(found.iter().zip(&relu).all(|(x, y)| if x.is_nan() { y.is_nan() } else { *y == x.max(0.0) }));
                let other = clean.forward(isa, None);
                assert!(found.iter().zip(&other).any(|(x, y)| x.to_bits() != y.to_bits()));
                assert_close(&general(&touched, isa), &expected, 0.0, isa.name());
            }
        }
    }
}

fn general(case: &Case, isa: Isa) -> Vec<f32> {
    let pack = conv::PackForward::new(isa, case.geometry);
    let packed = Operand::poison::<f32>(pack.packed_len());
    let packed: Vec<f32> = run(&pack, &[Operand::of(&case.weights), packed])[1].get();
    let kernel =
        conv::Forward::new(isa, case.geometry, Epilogue { bias: true, activation: None, ..Epilogue::default() });
    let dst = Operand::poison::<f32>(case.geometry.dst_len());
    let operands = [&case.src[..], &packed, &case.bias].map(Operand::of);
    run(&kernel, &[&operands[..], &[dst]].concat())[3].get()
}

/// Padding is not multiplied: a weight that is NaN shows where its tap meets a pixel, and nowhere else.
#[test]
fn special_weights_show_where_they_meet_a_pixel() {
    let mut case = Case::new(1, [5, 5], 18, square(3, 1, 1));
    case.weights[..18].fill(f32::NAN); // the tap up and to the left
    for isa in Isa::available() {
        for (i, value) in case.forward(isa, None).iter().enumerate() {
            let (y, x) = (i / 18 / 5, i / 18 % 5);
            assert_eq!(value.is_nan(), y > 0 && x > 0, "output ({y}, {x}) on {}", isa.name());
        }
        for (i, value) in case.backward_data(isa).iter().enumerate() {
            let (y, x) = (i / 18 / 5, i / 18 % 5);
            assert_eq!(value.is_nan(), y < 4 && x < 4, "input ({y}, {x}) on {}", isa.name());
        }
    }
}

#[test]
fn channels_are_repeated_and_summed() {
    for (len, times) in [(0, 3), (1, 1), (7, 2), (1000, 3), (30_000, 2)] {
        let values = integers(7, len);
        let repeated = run(&Repeat::new(len, times), &[Operand::of(&values), Operand::poison::<f32>(len * times)]);
        let expected: Vec<f32> = (0..len * times).map(|i| values[i / times]).collect();
        assert_eq!(repeated[1].get::<f32>(), expected);
        let terms = integers(8, len * times);
        let sums = run(&SumRepeated::new(len, times), &[Operand::of(&terms), Operand::poison::<f32>(len)]);
        let expected: Vec<f32> = (0..len).map(|i| terms[i * times..(i + 1) * times].iter().sum()).collect();
        assert_eq!(sums[1].get::<f32>(), expected);
    }
}

#[test]
fn the_rule_takes_depthwise_convolutions_alone() {
    let refused = |isa, size, ic, oc, groups| {
        refusal(isa, &Geometry::new(1, [size, size], ic, oc, groups, square(3, 1, 1)).unwrap())
    };
    for isa in Isa::ALL {
        for (ic, oc) in [(32, 32), (5, 5), (32, 64), (2, 64)] {
            assert_eq!(refused(isa, 8, ic, oc, ic), None);
        }
        assert_eq!(refused(isa, 8, 1, 1, 1).unwrap(), "one group");
        assert_eq!(refused(isa, 8, 1, 8, 1).unwrap(), "one group");
        assert_eq!(refused(isa, 8, 32, 32, 16).unwrap(), "groups do not equal channels");
        assert_eq!(refused(isa, 8, 4, 4, 4), (isa == Isa::Portable).then(|| "fewer than 5 channels".to_owned()));
        assert!(refused(isa, 2048, 16, 32, 16).unwrap().contains("would take 536870912 bytes"));
        assert_eq!(refused(isa, 2048, 16, 16, 16), None);
    }
}

#[test]
fn images_larger_than_a_cache_are_exact() {
    Case::new(1, [260, 258], 32, window([1, 2], [1, 1], [1, 1], [[0, 0], [0, 0]])).check();
    Case::new(1, [361, 363], 32, window([2, 1], [2, 2], [1, 1], [[1, 0], [0, 0]])).check();
}

fn axis() -> impl Strategy<Value = (usize, usize, usize, [usize; 2], usize)> {
    (1usize..=9, 1usize..=4, 1usize..=4, [0usize..=5, 0usize..=5], 0usize..=20).prop_map(|(k, s, d, pad, room)| {
        // The smallest input the window fits, and some more.
        let size = (d * (k - 1) + 1).saturating_sub(pad[0] + pad[1]).max(1) + room;
        (k, s, d, pad, size)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_geometry_is_exact(
        n in 0usize..=3,
        (kh, sh, dh, pad_h, ih) in axis(),
        (kw, sw, dw, pad_w, iw) in axis(),
        channels in 1usize..=40,
    ) {
        Case::new(n, [ih, iw], channels, window([kh, kw], [sh, sw], [dh, dw], [pad_h, pad_w])).check();
    }
}
