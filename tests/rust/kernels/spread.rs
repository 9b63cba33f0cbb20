//! Convolution by spread pixels, and by planes of pixels, against naive sums: whole numbers, so that every sum is exact.

use cnnrs::function::UnaryKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::planes::{self, Planes};
use cnnrs::kernels::conv::spread::{BackwardData, BackwardWeights, Forward, Pack, refusal};
use cnnrs::kernels::conv::{Epilogue, Geometry};
use cnnrs::kernels::pool::{AvgPool, MaxPool, PoolGeometry, PoolKind};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::naive::passes;
use crate::{Operand, assert_close, integers, run};

struct Case {
    geometry: Geometry,
    src: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    diff_dst: Vec<f32>,
}

impl Case {
    fn new(n: usize, input: [usize; 2], channels: [usize; 2], kernel: [usize; 2], pad: [[usize; 2]; 2]) -> Self {
        let window = Window2d { kernel, stride: [1; 2], dilation: [1; 2], pad };
        let geometry = Geometry::new(n, input, channels[0], channels[1], 1, window).unwrap();
        Self {
            src: integers(1, geometry.src_len()),
            weights: integers(2, geometry.weights_len()),
            bias: integers(3, geometry.oc),
            diff_dst: integers(4, geometry.dst_len()),
            geometry,
        }
    }

    /// Three values that are not finite in the source and in the gradient, at places that `at` chooses.
    fn broken(mut self, at: usize) -> Self {
        for (i, value) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            for values in [&mut self.src, &mut self.diff_dst] {
                let place = (at + i * 7919) % values.len();
                values[place] = value;
            }
        }
        self
    }

    fn packed(&self, isa: Isa, backward: bool) -> Operand {
        let pack = Pack::new(isa, self.geometry, backward);
        run(&pack, &[Operand::of(&self.weights), Operand::poison::<f32>(pack.packed_len())])[1].clone()
    }

    fn forward(&self, isa: Isa, bias: bool, activation: Option<UnaryKind>) -> Vec<f32> {
        let kernel = Forward::new(isa, self.geometry, Epilogue { bias, activation, ..Epilogue::default() });
        let mut operands = vec![Operand::of(&self.src), self.packed(isa, false)];
        operands.extend(bias.then(|| Operand::of(&self.bias)));
        operands.push(Operand::poison::<f32>(self.geometry.dst_len()));
        run(&kernel, &operands).pop().unwrap().get()
    }

    fn planes(&self, isa: Isa, bias: bool, activation: Option<UnaryKind>) -> Vec<f32> {
        let kernel = Planes::new(isa, self.geometry, Epilogue { bias, activation, ..Epilogue::default() });
        let mut operands = vec![Operand::of(&self.src), Operand::of(&self.weights)];
        operands.extend(bias.then(|| Operand::of(&self.bias)));
        operands.push(Operand::poison::<f32>(self.geometry.dst_len()));
        run(&kernel, &operands).pop().unwrap().get()
    }

    /// The bits of the pooled kernel are those of the pooling kernels on its results.
    fn check_pooled(&self) {
        let Geometry { n, oc: c, oh, ow, .. } = self.geometry;
        let window = Window2d { kernel: [2; 2], stride: [2; 2], dilation: [1; 2], pad: [[0; 2]; 2] };
        let geometry = PoolGeometry { n, ih: oh, iw: ow, c, oh: oh / 2, ow: ow / 2, window };
        let len = n * oh * ow * c / 4;
        let numbers = [5, 6, 7, 8].map(|seed| integers(seed, c));
        let cases = [(false, false, None), (true, false, Some(UnaryKind::Tanh)), (true, true, Some(UnaryKind::Relu))];
        for (isa, (bias, norm, activation)) in
            Isa::available().into_iter().flat_map(|isa| cases.map(|case| (isa, case)))
        {
            let epilogue = Epilogue { bias, norm, activation, ..Epilogue::default() };
            assert!(Planes::pools(&self.geometry, epilogue));
            let mut operands = vec![Operand::of(&self.src), Operand::of(&self.weights)];
            operands.extend(bias.then(|| Operand::of(&self.bias)));
            operands.extend(numbers.iter().filter(|_| norm).map(|numbers| Operand::of(numbers)));
            let of = |kernel: Planes, len: usize| -> Vec<f32> {
                let mut operands = operands.clone();
                operands.push(Operand::poison::<f32>(len));
                run(&kernel, &operands).pop().unwrap().get()
            };
            let whole = of(Planes::new(isa, self.geometry, epilogue), 4 * len);
            for (pool, kernel) in [
                (PoolKind::Mean, &AvgPool::new(isa, geometry, true) as &dyn Kernel),
                (PoolKind::Max, &MaxPool::new(isa, geometry, None)),
            ] {
                let want: Vec<f32> = run(kernel, &[Operand::of(&whole), Operand::poison::<f32>(len)])[1].get();
                let got = of(Planes::new(isa, self.geometry, epilogue).pooled(pool), len);
                let same = got.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()));
                assert!(same, "{pool:?} of {epilogue:?} on {}, {}", isa.name(), self.geometry.describe());
            }
        }
    }

    fn backward_data(&self, isa: Isa) -> Vec<f32> {
        let kernel = BackwardData::new(isa, self.geometry);
        let diff_src = Operand::poison::<f32>(self.geometry.src_len());
        run(&kernel, &[Operand::of(&self.diff_dst), self.packed(isa, true), diff_src])[2].get()
    }

    fn backward_weights(&self, isa: Isa) -> Vec<f32> {
        let kernel = BackwardWeights::new(isa, self.geometry);
        let len = self.geometry.weights_len();
        let parts = Operand::poison::<f32>(kernel.parts() * len);
        let parts: Vec<f32> = run(&kernel, &[Operand::of(&self.src), Operand::of(&self.diff_dst), parts])[2].get();
        (0..len).map(|i| parts.chunks_exact(len).map(|part| part[i]).sum()).collect()
    }

    /// All three passes on every level against naive sums.
    fn check(&self) {
        let g = &self.geometry;
        let [dst, diff_src, diff_weights] = passes(g, &self.src, &self.weights, &self.diff_dst);
        let biased: Vec<f64> = dst.iter().enumerate().map(|(i, sum)| sum + f64::from(self.bias[i % g.oc])).collect();
        let relu: Vec<f64> = biased.iter().map(|&x| if x < 0.0 { 0.0 } else { x }).collect();
        let clipped: Vec<f64> = dst.iter().map(|&x| if x.is_nan() { x } else { x.clamp(0.0, 6.0) }).collect();
        for isa in Isa::available() {
            let check = |got: &[f32], want: &[f64], pass: &str| {
                assert_close(got, want, 0.0, &format!("{pass} on {}, {}", isa.name(), g.describe()));
            };
            check(&self.forward(isa, false, None), &dst, "forward");
            check(&self.forward(isa, true, None), &biased, "forward, bias");
            check(&self.forward(isa, true, Some(UnaryKind::Relu)), &relu, "forward, bias, relu");
            check(&self.forward(isa, false, Some(UnaryKind::Relu6)), &clipped, "forward, relu6");
            if planes::refusal(isa, g).is_none() {
                check(&self.planes(isa, false, None), &dst, "planes");
                check(&self.planes(isa, true, None), &biased, "planes, bias");
                check(&self.planes(isa, true, Some(UnaryKind::Relu)), &relu, "planes, bias, relu");
                check(&self.planes(isa, false, Some(UnaryKind::Relu6)), &clipped, "planes, relu6");
            }
            check(&self.backward_data(isa), &diff_src, "backward_data");
            check(&self.backward_weights(isa), &diff_weights, "backward_weights");
        }
    }
}

#[test]
fn layers_of_lenet() {
    Case::new(3, [28, 28], [1, 6], [5, 5], [[2; 2]; 2]).check();
    Case::new(2, [14, 14], [6, 6], [5, 5], [[0; 2]; 2]).check();
    Case::new(2, [28, 28], [1, 6], [5, 5], [[2; 2]; 2]).broken(28).check();
}

#[test]
fn every_width_of_lines() {
    for width in 1..=30 {
        Case::new(1, [3, width], [2, 3], [2, 5], [[1, 0], [4, 4]]).check();
        Case::new(2, [2, width], [1, 7], [2, 2], [[1, 1], [0, 1]]).broken(width).check();
    }
}

#[test]
fn every_width_of_planes() {
    for width in 1..=70 {
        let channels = [1, width % 8 + 1];
        let case = || Case::new(2, [4, width], channels, [3, 3], [[1, 2], [2, 1]]);
        assert_eq!(planes::refusal(Isa::Avx512, &case().geometry), None);
        case().check();
        case().broken(width).check();
    }
}

#[test]
fn pooled_planes() {
    for width in (2..=70).step_by(2) {
        let case = || Case::new(3, [4, width], [1, width / 2 % 8 + 1], [3, 3], [[1, 1], [1, 1]]);
        case().check_pooled();
        case().broken(width).check_pooled();
    }
    Case::new(64, [28, 28], [1, 6], [5, 5], [[2; 2]; 2]).broken(28).check_pooled();
    Case::new(0, [28, 28], [1, 6], [5, 5], [[2; 2]; 2]).check_pooled();
    let odd = Case::new(1, [28, 27], [1, 6], [5, 5], [[2; 2]; 2]);
    assert!(!Planes::pools(&odd.geometry, Epilogue::default()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_shape(
        n in 0usize..4,
        input in (1usize..14, 1usize..40),
        kernel in (1usize..6, 2usize..6),
        channels in (1usize..16, 1usize..16),
        pads in prop::array::uniform4(0usize..8),
        one in any::<bool>(),
        broken in prop::option::of(0usize..10_000),
    ) {
        let [kh, kw] = [kernel.0, kernel.1];
        let channels = [if one { 1 } else { channels.0.min(32 / kw) }, channels.1.min(32 / kw)];
        let pad = [[pads[0] % kh, pads[1] % kh], [pads[2] % kw, pads[3] % kw]];
        let input = [input.0.max(kh), input.1.max(kw)];
        let case = Case::new(n, input, channels, [kh, kw], pad);
        match broken.filter(|_| n > 0) {
            Some(at) => case.broken(at).check(),
            None => case.check(),
        }
    }
}

#[test]
fn the_rule_gives_its_reasons() {
    let geometry = |channels: [usize; 2], size: usize, stride: usize, pad: usize| {
        let window = Window2d { kernel: [size; 2], stride: [stride; 2], dilation: [1; 2], pad: [[pad; 2]; 2] };
        Geometry::new(1, [28; 2], channels[0], channels[1], 1, window).unwrap()
    };
    let reason = |geometry| refusal(Isa::Avx512, &geometry, false).unwrap_or_default();
    assert_eq!(reason(geometry([1, 6], 5, 1, 2)), "");
    assert_eq!(refusal(Isa::Avx512, &geometry([6, 16], 5, 1, 0), true), None);
    assert_eq!(reason(geometry([1, 6], 5, 2, 2)), "not stride 1, dilation 1 and one group");
    assert_eq!(reason(geometry([1, 6], 5, 1, 5)), "padding as large as the kernel");
    assert_eq!(reason(geometry([6, 16], 5, 1, 0)), "16 channels of 5 taps, expected fewer than 16 of 2 to 5");
    assert_eq!(reason(geometry([1, 7], 5, 1, 2)), "a stretch of 35 floats or 5 products is too long");
    assert_eq!(reason(geometry([16, 8], 3, 1, 1)), "2 products of vectors for a pixel instead of 2.00");
    let reason = |geometry| planes::refusal(Isa::Avx512, &geometry).unwrap_or_default();
    assert_eq!(reason(geometry([1, 6], 5, 2, 2)), "not stride 1, dilation 1 and one group");
    assert_eq!(reason(geometry([2, 6], 5, 1, 2)), "from 2 channels to 6, expected from one to at most 8");
    assert_eq!(reason(geometry([1, 9], 5, 1, 2)), "from 1 channels to 9, expected from one to at most 8");
    let weights = |channels| BackwardWeights::refusal(Isa::Avx512, &geometry(channels, 5, 1, 2)).unwrap_or_default();
    assert_eq!(weights([1, 6]), "");
    assert_eq!(weights([3, 6]), "15 kernel rows of channels, expected 4 to 12");
}
