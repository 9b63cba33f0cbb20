use cnnrs::kernels::cross_entropy::{CrossEntropy, CrossEntropyReduce, CrossEntropyTotals, Targets};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use super::softmax::softmax;
use crate::{Operand, assert_close, run, run_mapped, values};

/// What the three kernels of a loss leave behind.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    losses: Vec<f64>,
    correct: Vec<f32>,
    diff: Vec<f32>,
    /// Mean loss, correct rows, counted rows.
    sums: [f32; 3],
}

fn run_targets(isa: Isa, classes: usize, x: &[f32], labels: &[i64], targets: Targets, weights: &[f32]) -> Outcome {
    let rows = labels.len();
    let mut operands = vec![
        Operand::of(x),
        Operand::of(labels),
        Operand::poison::<f64>(rows),
        Operand::poison::<f32>(rows),
        Operand::poison::<f32>(x.len()),
    ];
    let mut map = vec![0, 1, 2, 3, 0];
    if targets.totals() {
        let kernel = CrossEntropyTotals::new(rows, classes, targets);
        let mut sums = vec![operands[1].clone(), Operand::poison::<f64>(2)];
        if targets.weighted {
            sums.push(Operand::of(weights));
        }
        operands.push(run(&kernel, &sums)[1].clone());
        map.push(5);
    }
    if targets.weighted {
        operands.push(Operand::of(weights));
        map.push(6);
    }
    let kernel = CrossEntropy::new(isa, rows, classes, targets);
    let apart = run(&kernel, &operands);
    let shared = run_mapped(&kernel, &operands, &map);
    assert_eq!(shared[0].get::<u32>(), apart[4].get::<u32>());
    let mut sums = vec![apart[2].clone(), apart[3].clone()];
    sums.extend([Operand::poison::<f32>(1), Operand::poison::<f32>(1), Operand::poison::<f32>(1)]);
    if targets.totals() {
        sums.push(apart[5].clone());
    }
    let total = run(&CrossEntropyReduce::new(rows, targets.totals()), &sums);
    Outcome {
        losses: apart[2].get(),
        correct: apart[3].get(),
        diff: apart[4].get(),
        sums: [2, 3, 4].map(|index: usize| total[index].get::<f32>()[0]),
    }
}

fn run_loss(isa: Isa, classes: usize, x: &[f32], labels: &[i64]) -> Outcome {
    run_targets(isa, classes, x, labels, Targets::PLAIN, &[])
}

/// The outcome and its bounds of rounding by the formulas of torch's documentation.
fn check_formulas(got: &Outcome, classes: usize, x: &[f32], labels: &[i64], targets: Targets, weights: &[f32]) {
    let weight = |class: usize| if targets.weighted { f64::from(weights[class]) } else { 1.0 };
    let smoothing = f64::from(targets.smoothing);
    let counted: Vec<usize> = (0..labels.len()).filter(|&row| targets.ignore != Some(labels[row])).collect();
    let divisor: f64 = counted.iter().map(|&row| weight(labels[row] as usize)).sum();
    let (mut diff, mut total, mut size, mut right) = (vec![0.0; x.len()], 0.0, 0.0, 0.0f32);
    for (row, &label) in labels.iter().enumerate() {
        if !counted.contains(&row) {
            assert!(got.losses[row] == 0.0 && got.correct[row] == 0.0);
            continue;
        }
        let (label, x) = (label as usize, &x[row * classes..][..classes]);
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = x.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
        let target = |class: usize| {
            weight(class) * (smoothing / classes as f64 + if class == label { 1.0 - smoothing } else { 0.0 })
        };
        let surprise = |class: usize| sum.ln() - (f64::from(x[class]) - f64::from(max));
        let part = |class: usize| if target(class) == 0.0 { 0.0 } else { target(class) * surprise(class) };
        let want: f64 = (0..classes).map(part).sum();
        assert!((got.losses[row] - want).abs() <= 2e-6 * want.max(1.0), "loss {} expected {want}", got.losses[row]);
        (total, size) = (total + want, size + want.max(1.0));
        let first = x.iter().position(|&x| x.to_bits() == max.to_bits()) == Some(label);
        right += f32::from(u8::from(first));
        assert_eq!(got.correct[row].to_bits(), f32::from(u8::from(first)).to_bits());
        let all: f64 = (0..classes).map(target).sum();
        for (class, probability) in softmax(x).into_iter().enumerate() {
            diff[row * classes + class] = (probability * all - target(class)) / divisor;
        }
    }
    let tolerance = 2e-6 * weights.iter().copied().map(f64::from).fold(1.0, f64::max) / divisor.min(1.0);
    assert_close(&got.diff, &diff, tolerance, "cross-entropy gradient");
    if counted.is_empty() {
        assert!(got.sums[0].is_nan());
    } else {
        assert!((f64::from(got.sums[0]) - total / divisor).abs() <= 2e-6 * size / divisor);
    }
    assert_eq!(got.sums[1..], [right, counted.len() as f32]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_against_the_formulas(
        rows in 0usize..20,
        classes in prop_oneof![1usize..40, 990usize..1010],
        seed: u64,
        scale in 0u32..4,
        smoothing in prop_oneof![Just(0.0f32), Just(1.0), 0.0f32..1.0],
        ignore in prop_oneof![Just(None), Just(Some(-100)), Just(Some(0))],
        weighted: bool,
    ) {
        let scale = [1.0f32, 10.0, 5000.0, -3.0][scale as usize];
        let x: Vec<f32> = values(seed, rows * classes).into_iter().map(|x| x * scale).collect();
        let draws = values(seed ^ 1, rows);
        let mut labels: Vec<i64> =
            draws.iter().map(|x| ((x + 2.0) / 4.0 * classes as f32) as i64 % classes as i64).collect();
        let weights: Vec<f32> = values(seed ^ 2, classes).into_iter().map(|x| x + 2.5).collect();
        for isa in Isa::available() {
            check_formulas(&run_loss(isa, classes, &x, &labels), classes, &x, &labels, Targets::PLAIN, &[]);
        }
        if ignore == Some(-100) {
            labels.iter_mut().zip(draws).filter(|(_, x)| *x > 0.5).for_each(|(label, _)| *label = -100);
        }
        let targets = Targets { smoothing, ignore, weighted };
        let weights = if weighted { weights } else { vec![] };
        for isa in Isa::available() {
            let got = run_targets(isa, classes, &x, &labels, targets, &weights);
            check_formulas(&got, classes, &x, &labels, targets, &weights);
        }
    }
}

#[test]
fn weights_of_one_change_nothing_but_the_path() {
    for isa in Isa::available() {
        let (x, labels) = (values(3, 70), [0, 6, 2, 3, 3, 1, 5, 4, 0, 2]);
        let plain = run_loss(isa, 7, &x, &labels);
        let targets = Targets { weighted: true, ..Targets::PLAIN };
        assert_eq!(run_targets(isa, 7, &x, &labels, targets, &[1.0; 7]), plain);
        let targets = Targets { ignore: Some(-1), ..Targets::PLAIN };
        assert_eq!(run_targets(isa, 7, &x, &labels, targets, &[]), plain);
    }
}

#[test]
fn nothing_but_ignored_rows() {
    for isa in Isa::available() {
        let targets = Targets { smoothing: 0.1, ignore: Some(-100), weighted: false };
        let got = run_targets(isa, 5, &values(3, 20), &[-100; 4], targets, &[]);
        assert!(got.sums[0].is_nan());
        assert_eq!((&got.diff, &got.sums[1..]), (&vec![0.0; 20], &[0.0, 0.0][..]));
    }
}

#[test]
fn large_logits_are_safe() {
    for isa in Isa::available() {
        let got = run_loss(isa, 2, &[1e4, -1e4, -1e4, 1e4], &[0, 0]);
        assert_eq!((got.losses, got.correct), (vec![0.0, 2e4], vec![1.0, 0.0]));
        assert_eq!((got.diff, got.sums), (vec![0.0, 0.0, -0.5, 0.5], [1e4, 1.0, 2.0]));
    }
}

#[test]
fn undefined_rows_are_nan_and_never_correct() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [[nan, 1.0, 2.0], [0.0, 1.0, nan], [inf, 0.0, 0.0], [-inf; 3], [nan; 3], [0.0, 0.0, 9.0]];
    let x = rows.concat();
    for isa in Isa::available() {
        for label in 0..3 {
            let Outcome { losses, correct, sums, .. } = run_loss(isa, 3, &x, &[label; 6]);
            assert!(losses[..5].iter().all(|loss| loss.is_nan()) && losses[5].is_finite());
            let last = f32::from(u8::from(label == 2));
            assert_eq!((correct, &sums[1..]), (vec![0.0, 0.0, 0.0, 0.0, 0.0, last], &[last, 6.0][..]));
            assert!(sums[0].is_nan());
        }
    }
}

#[test]
fn ties_go_to_the_first_class() {
    for isa in Isa::available() {
        let x = [1.0f32, 3.0, 3.0, 3.0];
        let correct = |label| run_loss(isa, 4, &x, &[label]).correct[0];
        assert_eq!([correct(0), correct(1), correct(2), correct(3)], [0.0, 1.0, 0.0, 0.0]);
    }
}

/// Labels are checked before a run, but the caller's array may be written in between: then the loss is that of another
/// class, and nothing outside the operands is touched (they end in fenced or guarded memory).
#[test]
fn labels_out_of_range_stay_inside_the_row() {
    for isa in Isa::available() {
        let x: Vec<f32> = (0..30).map(|i| (i % 7) as f32).collect();
        for targets in [Targets::PLAIN, Targets { smoothing: 0.1, ignore: Some(7), weighted: true }] {
            let run = |labels| run_targets(isa, 10, &x, labels, targets, &[0.5; 10]);
            assert_eq!(run(&[-5, i64::MAX, i64::MIN]), run(&[0, 9, 0]));
        }
    }
}
