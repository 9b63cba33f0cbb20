use cnnrs::kernels::cross_entropy::{CrossEntropy, CrossEntropyReduce};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use super::softmax::softmax;
use crate::{Operand, assert_close, run, run_mapped, values};

/// Row losses, correct rows, gradient, mean loss, count.
fn run_loss(isa: Isa, classes: usize, x: &[f32], labels: &[i64]) -> (Vec<f64>, Vec<f32>, Vec<f32>, f32, f32) {
    let rows = labels.len();
    let operands = [
        Operand::of(x),
        Operand::of(labels),
        Operand::poison::<f64>(rows),
        Operand::poison::<f32>(rows),
        Operand::poison::<f32>(x.len()),
    ];
    let kernel = CrossEntropy::new(isa, rows, classes);
    let apart = run(&kernel, &operands);
    let shared = run_mapped(&kernel, &operands[..4], &[0, 1, 2, 3, 0]);
    assert_eq!(shared[0].get::<u32>(), apart[4].get::<u32>());
    let (loss, correct) = (Operand::poison::<f32>(1), Operand::poison::<f32>(1));
    let total = run(&CrossEntropyReduce::new(rows), &[apart[2].clone(), apart[3].clone(), loss, correct]);
    (apart[2].get(), apart[3].get(), apart[4].get(), total[2].get::<f32>()[0], total[3].get::<f32>()[0])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_against_the_formulas(rows in 0usize..20, classes in prop_oneof![1usize..40, 990usize..1010], seed: u64, scale in 0u32..4) {
        let scale = [1.0f32, 10.0, 5000.0, -3.0][scale as usize];
        let x: Vec<f32> = values(seed, rows * classes).into_iter().map(|x| x * scale).collect();
        let labels: Vec<i64> = values(seed ^ 1, rows).into_iter().map(|x| ((x + 2.0) / 4.0 * classes as f32) as i64 % classes as i64).collect();
        let want: Vec<f64> = x.chunks(classes).flat_map(softmax).collect();
        for isa in Isa::available() {
            let (losses, correct, diff, loss, count) = run_loss(isa, classes, &x, &labels);
            let mut expected = want.clone();
            let mut total = 0.0;
            for (row, &label) in labels.iter().enumerate() {
                let x = &x[row * classes..][..classes];
                let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = x.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
                let want = sum.ln() - (f64::from(x[label as usize]) - f64::from(max));
                prop_assert!((losses[row] - want).abs() <= 1e-6 * want.max(1.0), "loss {} expected {want}", losses[row]);
                total += want;
                let first = x.iter().position(|&x| x.to_bits() == max.to_bits());
                prop_assert_eq!(correct[row].to_bits(), f32::from(u8::from(first == Some(label as usize))).to_bits());
                expected[row * classes + label as usize] -= 1.0;
            }
            for value in &mut expected {
                *value /= rows as f64;
            }
            assert_close(&diff, &expected, 1e-6, "cross-entropy gradient");
            if rows == 0 {
                prop_assert!(loss.is_nan());
            } else {
                let mean = total / rows as f64;
                prop_assert!((f64::from(loss) - mean).abs() <= 1e-6 * mean.max(1.0));
            }
            prop_assert_eq!(count.to_bits(), correct.iter().sum::<f32>().abs().to_bits());
        }
    }
}

#[test]
fn large_logits_are_safe() {
    for isa in Isa::available() {
        let (losses, correct, diff, loss, count) = run_loss(isa, 2, &[1e4, -1e4, -1e4, 1e4], &[0, 0]);
        assert_eq!((losses, correct), (vec![0.0, 2e4], vec![1.0, 0.0]));
        assert_eq!((diff, loss, count), (vec![0.0, 0.0, -0.5, 0.5], 1e4, 1.0));
    }
}

#[test]
fn undefined_rows_are_nan_and_never_correct() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [[nan, 1.0, 2.0], [0.0, 1.0, nan], [inf, 0.0, 0.0], [-inf; 3], [nan; 3], [0.0, 0.0, 9.0]];
    let x = rows.concat();
    for isa in Isa::available() {
        for label in 0..3 {
            let (losses, correct, _, loss, count) = run_loss(isa, 3, &x, &[label; 6]);
            assert!(losses[..5].iter().all(|loss| loss.is_nan()) && losses[5].is_finite());
            let last = f32::from(u8::from(label == 2));
            assert_eq!((correct, count), (vec![0.0, 0.0, 0.0, 0.0, 0.0, last], last));
            assert!(loss.is_nan());
        }
    }
}

#[test]
fn ties_go_to_the_first_class() {
    for isa in Isa::available() {
        let x = [1.0f32, 3.0, 3.0, 3.0];
        let correct = |label| run_loss(isa, 4, &x, &[label]).1[0];
        assert_eq!([correct(0), correct(1), correct(2), correct(3)], [0.0, 1.0, 0.0, 0.0]);
    }
}

/// Labels are checked before a run, but the caller's array may be written in between: then the loss is that of another
/// class, and nothing outside the operands is touched (they end in fenced or guarded memory).
#[test]
fn labels_out_of_range_stay_inside_the_row() {
    for isa in Isa::available() {
        let x: Vec<f32> = (0..30).map(|i| (i % 7) as f32).collect();
        let wild = run_loss(isa, 10, &x, &[-5, i64::MAX, i64::MIN]);
        let tame = run_loss(isa, 10, &x, &[0, 9, 0]);
        assert_eq!(wild.0, tame.0);
        assert_eq!(wild.2, tame.2);
    }
}
