//! Normalization with residual and activation, and gradients through a gate, are bit for bit what the separate kernels
//! compute.

use cnnrs::function::{BinaryKind, Scalar, UnaryKind};
use cnnrs::kernels::elementwise::{Binary, Unary, UnaryBackward};
use cnnrs::kernels::norm::{Apply, Gate, GradientSums, Segments};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, run, run_mapped, values};

/// Numbers of which some are at the borders of the activations, or none.
fn tensor(seed: u64, len: usize, odd: bool) -> Vec<f32> {
    let mut list: Vec<f32> = values(seed, len).into_iter().map(|x| 3.0 * x).collect();
    if odd {
        for (place, special) in [0.0, -0.0, 6.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
            if let Some(x) = list.get_mut(place * 7 + seed as usize % 5) {
                *x = special;
            }
        }
    }
    list
}

struct Layer {
    isa: Isa,
    shape: Segments,
    len: usize,
    x: Operand,
    weight: Operand,
    bias: Operand,
    mean: Operand,
    rstd: Operand,
}

impl Layer {
    fn new(isa: Isa, rows: usize, channels: usize, seed: u64, odd: bool) -> Self {
        let shape = Segments { segments: 1, rows, channels, bins: channels };
        let per = |seed: u64| Operand::of(&values(seed, channels));
        let rstd: Vec<f32> = values(seed + 4, channels).into_iter().map(|x| 0.5 + x.abs()).collect();
        let x = Operand::of(&tensor(seed, rows * channels, odd));
        let [weight, bias, mean] = [1, 2, 3].map(|i| per(seed + i));
        Self { isa, shape, len: rows * channels, x, weight, bias, mean, rstd: Operand::of(&rstd) }
    }

    fn empty(&self) -> Operand {
        Operand::poison::<f32>(self.len)
    }

    fn forward(&self, extra: &[Operand], kernel: &Apply) -> Operand {
        let own = [&self.x, &self.weight, &self.bias, &self.mean, &self.rstd].map(Clone::clone);
        run(kernel, &[&own[..], &[self.empty()], extra].concat())[5].clone()
    }

    fn apply(&self, backward: bool) -> Apply {
        Apply::new(self.isa, self.shape, backward)
    }

    fn sum(&self, a: &Operand, b: &Operand) -> Operand {
        let shape = [self.shape.rows, self.shape.channels];
        let add = Binary::new(self.isa, BinaryKind::Add, &shape, &shape, &shape).unwrap();
        run(&add, &[a.clone(), b.clone(), self.empty()])[2].clone()
    }
}

fn same(a: &Operand, b: &Operand, what: &str) {
    // NaNs of any pattern are equal.
    let bits = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    let [a, b] = [a, b].map(|operand| operand.get::<f32>().iter().map(|&x| bits(x)).collect::<Vec<_>>());
    assert!(a == b, "{what}");
}

fn same_sums(a: &Operand, b: &Operand, what: &str) {
    let bits = |x: f64| if x.is_nan() { u64::MAX } else { x.to_bits() };
    let [a, b] = [a, b].map(|operand| operand.get::<f64>().iter().map(|&x| bits(x)).collect::<Vec<_>>());
    assert!(a == b, "sums {what}");
}

/// Every form forward: with and without residual, every kind of activation.
fn forward(layer: &Layer, seed: u64, odd: bool, what: &str) {
    let residual = Operand::of(&tensor(seed + 9, layer.len, odd));
    let plain = layer.forward(&[], &layer.apply(false));
    for with in [false, true] {
        let extra = if with { vec![residual.clone()] } else { Vec::new() };
        let sum = if with { layer.sum(&plain, &residual) } else { plain.clone() };
        same(&layer.forward(&extra, &layer.apply(false).then(with, None)), &sum, what);
        for kind in [UnaryKind::Relu, UnaryKind::Relu6, UnaryKind::Tanh, UnaryKind::LeakyRelu(Scalar::new(0.1))] {
            let want = run(&Unary::new(layer.isa, kind, layer.len), &[sum.clone(), layer.empty()])[1].clone();
            let fused = layer.apply(false).then(with, Some(kind));
            same(&layer.forward(&extra, &fused), &want, &format!("{} {what}", kind.name()));
            let own = [&layer.x, &layer.weight, &layer.bias, &layer.mean, &layer.rstd].map(Clone::clone);
            let operands = [&own[..], &extra].concat();
            let places: &[usize] = if with { &[0, 5] } else { &[0] };
            for &place in places {
                let map: Vec<usize> = [0, 1, 2, 3, 4, place].into_iter().chain(with.then_some(5)).collect();
                same(&run_mapped(&fused, &operands, &map)[place], &want, &format!("{} in place {what}", kind.name()));
            }
        }
    }
}

/// Every form backward: a gate that reads or computes anew, one gradient or the sum of two, written or not.
fn backward(layer: &Layer, seed: u64, odd: bool, what: &str) {
    let (isa, len) = (layer.isa, layer.len);
    let [first, other] = [11, 12].map(|i| Operand::of(&tensor(seed + i, len, odd)));
    let residual = Operand::of(&tensor(seed + 9, len, odd));
    let partials = || Operand::poison::<f64>(GradientSums::new(isa, layer.shape).partials());
    let [slope, offset] = [5, 6].map(|i| Operand::of(&values(seed + i, layer.shape.channels)));
    let apply = |grad: &Operand, gate: Option<Gate>, read: &[Operand]| {
        let own = [grad, &layer.x, &layer.weight, &layer.mean, &layer.rstd, &slope, &offset].map(Clone::clone);
        run(&layer.apply(true).behind(gate), &[&own[..], &[layer.empty()], read].concat())[7].clone()
    };
    for kind in [None, Some(UnaryKind::Relu), Some(UnaryKind::Relu6)] {
        for (recompute, sum) in [(true, false), (true, true), (false, false), (false, true)] {
            let what = format!("{kind:?} recompute {recompute} sum {sum} {what}");
            let total = if sum { layer.sum(&first, &other) } else { first.clone() };
            let result = kind.map(|kind| {
                let extra = if recompute { Vec::new() } else { vec![residual.clone()] };
                layer.forward(&extra, &layer.apply(false).then(!recompute, Some(kind)))
            });
            let want = match (kind, &result) {
                (Some(kind), Some(y)) => {
                    run(&UnaryBackward::new(isa, kind, len), &[total, y.clone(), layer.empty()])[2].clone()
                }
                _ => total,
            };
            let plain = [want.clone(), layer.x.clone(), layer.mean.clone(), partials()];
            let want_sums = run(&GradientSums::new(isa, layer.shape), &plain)[3].clone();
            let gate = kind.and_then(UnaryKind::gate_limit).map(|limit| Gate { limit, recompute });
            let read = match result {
                Some(_) if recompute => vec![layer.bias.clone()],
                result => result.into_iter().collect(),
            };
            let mut reads =
                if recompute && gate.is_some() { vec![layer.weight.clone(), layer.rstd.clone()] } else { Vec::new() };
            reads.extend(read.iter().cloned());
            for write in [false, true] {
                if sum && !write || write && !sum && gate.is_none() {
                    continue;
                }
                let kernel = GradientSums::new(isa, layer.shape).behind(gate, write, sum);
                let operands = [&[first.clone(), layer.x.clone(), layer.mean.clone(), partials()][..], &reads].concat();
                let to = operands.len();
                let mut behind = Vec::new();
                if write {
                    behind.push(layer.empty());
                }
                if sum {
                    behind.push(other.clone());
                }
                let found = run(&kernel, &[&operands[..], &behind].concat());
                same_sums(&found[3], &want_sums, &what);
                if write {
                    same(&found[to], &want, &format!("grad {what}"));
                    // In the memory of the gradient, and of the other one.
                    let operands = [&operands[..], &behind[1..]].concat();
                    for place in [Some(0), sum.then_some(to)].into_iter().flatten() {
                        let map: Vec<usize> = (0..to).chain([place]).chain(sum.then_some(to)).collect();
                        let found = run_mapped(&kernel, &operands, &map);
                        same_sums(&found[3], &want_sums, &what);
                        same(&found[place], &want, &format!("grad in place {what}"));
                    }
                }
            }
            if !sum {
                same(&apply(&first, gate, &read), &apply(&want, None, &[]), &format!("diff_src {what}"));
            }
        }
    }
}

fn both(rows: usize, channels: usize, seed: u64, odd: bool) {
    for isa in Isa::available() {
        let layer = Layer::new(isa, rows, channels, seed, odd);
        let what = format!("{rows} x {channels} on {}", isa.name());
        forward(&layer, seed, odd, &what);
        backward(&layer, seed, odd, &what);
    }
}

#[test]
fn fused_kernels_equal_separate_ones_bit_for_bit() {
    for channels in (1..=18).chain([31, 32, 48, 63, 64, 65, 80]) {
        both(37, channels, channels as u64, false);
        both(5, channels, channels as u64, true);
    }
    for (rows, channels) in [(0, 3), (1, 1), (3000, 7), (700, 64), (200, 1030), (64, 16), (1, 40)] {
        both(rows, channels, rows as u64, true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_shape(rows in 1usize..300, channels in 1usize..90, seed in 0u64..1 << 40, odd: bool) {
        both(rows, channels, seed, odd);
    }
}
