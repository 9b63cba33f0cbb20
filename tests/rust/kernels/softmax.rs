use cnnrs::kernels::softmax::{Lines, Softmax, SoftmaxBackward};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, assert_close, run, run_mapped, values};

pub fn softmax(x: &[f32]) -> Vec<f64> {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = x.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

fn run_softmax(isa: Isa, rows: usize, classes: usize, x: &[f32]) -> Vec<f32> {
    let kernel = Softmax::new(isa, Lines::rows(rows, classes), false);
    let apart = run(&kernel, &[Operand::of(x), Operand::poison::<f32>(x.len())]);
    assert_eq!(run_mapped(&kernel, &[Operand::of(x)], &[0, 0])[0].get::<u32>(), apart[1].get::<u32>());
    apart[1].get()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_against_the_formulas(rows in 0usize..20, classes in prop_oneof![1usize..40, 990usize..1010], seed: u64, scale in 0u32..4) {
        let scale = [1.0f32, 10.0, 5000.0, -3.0][scale as usize];
        let x: Vec<f32> = values(seed, rows * classes).into_iter().map(|x| x * scale).collect();
        let want: Vec<f64> = x.chunks(classes).flat_map(softmax).collect();
        for isa in Isa::available() {
            let y = run_softmax(isa, rows, classes, &x);
            assert_close(&y, &want, 1e-6, "softmax");

            let g = values(seed ^ 2, x.len());
            let backward = SoftmaxBackward::new(isa, Lines::rows(rows, classes), false);
            let operands = [Operand::of(&g), Operand::of(&y), Operand::poison::<f32>(x.len())];
            let apart = run(&backward, &operands);
            let expected: Vec<f64> = g.chunks(classes).zip(y.chunks(classes)).flat_map(|(g, y)| {
                let dot: f64 = g.iter().zip(y).map(|(&g, &y)| f64::from(g) * f64::from(y)).sum();
                g.iter().zip(y).map(move |(&g, &y)| f64::from(y) * (f64::from(g) - dot)).collect::<Vec<_>>()
            }).collect();
            assert_close(&apart[2].get::<f32>(), &expected, 1e-6, "softmax backward");
            for map in [[0, 1, 0], [0, 1, 1]] {
                prop_assert_eq!(run_mapped(&backward, &operands[..2], &map)[map[2]].get::<u32>(), apart[2].get::<u32>());
            }
        }
    }
}

#[test]
fn large_logits_and_masked_classes_are_safe() {
    let inf = f32::INFINITY;
    for isa in Isa::available() {
        let y = run_softmax(isa, 3, 3, &[1e4, -1e4, 1e4, -1e4, -1e4, -1e4, -inf, 0.0, -inf]);
        let third = 1.0f32 / 3.0;
        assert_eq!(y, [0.5, 0.0, 0.5, third, third, third, 0.0, 1.0, 0.0]);
        // All negative, fewer than a vector: lanes beyond the row must not win the maximum.
        assert_eq!(run_softmax(isa, 1, 2, &[-500.0, -500.0]), [0.5, 0.5]);
    }
}

#[test]
fn undefined_rows_are_nan() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows = [[nan, 1.0, 2.0], [0.0, 1.0, nan], [inf, 0.0, 0.0], [-inf; 3], [nan; 3], [0.0, 0.0, 9.0]];
    let x = rows.concat();
    for isa in Isa::available() {
        let y = run_softmax(isa, 6, 3, &x);
        assert!((0..4).all(|row| y[row * 3..][..3].iter().any(|y| y.is_nan())));
    }
}

/// A tensor of lines with neighbours side by side, and the same lines one after the other.
fn turned(x: &[f32], lines: Lines) -> Vec<f32> {
    let Lines { outer, classes, inner } = lines;
    let at = |row: usize, i: usize| x[(row / inner * classes + i) * inner + row % inner];
    (0..outer * inner).flat_map(|row| (0..classes).map(move |i| (row, i))).map(|(row, i)| at(row, i)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_axis_and_its_logarithm(
        outer in 0usize..4,
        classes in prop_oneof![0usize..20, 100usize..110],
        inner in prop_oneof![Just(1usize), 2usize..20, 60usize..140],
        seed: u64,
        scale in 0usize..3,
    ) {
        let lines = Lines { outer, classes, inner };
        let scale = [1.0f32, 30.0, 5000.0][scale];
        let x: Vec<f32> = values(seed, lines.volume()).into_iter().map(|x| x * scale).collect();
        let g = values(seed ^ 1, lines.volume());
        let rows = turned(&x, lines);
        let want: Vec<f64> = if classes == 0 { vec![] } else { rows.chunks(classes).flat_map(softmax).collect() };
        for isa in Isa::available() {
            for log in [false, true] {
                let kernel = Softmax::new(isa, lines, log);
                let apart = run(&kernel, &[Operand::of(&x), Operand::poison::<f32>(x.len())]);
                prop_assert_eq!(run_mapped(&kernel, &[Operand::of(&x)], &[0, 0])[0].get::<u32>(), apart[1].get::<u32>());
                let y: Vec<f32> = apart[1].get();
                if log {
                    let logs: Vec<f64> = rows.chunks(classes.max(1)).flat_map(|row| {
                        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
                        row.iter().map(|&x| f64::from(x) - max - sum.ln()).collect::<Vec<_>>()
                    }).collect();
                    assert_close(&turned(&y, lines), &logs, 1e-6 * f64::from(scale), "log softmax");
                } else {
                    assert_close(&turned(&y, lines), &want, 1e-6, "softmax");
                }

                let backward = SoftmaxBackward::new(isa, lines, log);
                let operands = [Operand::of(&g), Operand::of(&y), Operand::poison::<f32>(x.len())];
                let apart = run(&backward, &operands);
                let (g, y) = (turned(&g, lines), turned(&y, lines));
                let expected: Vec<f64> = g.chunks(classes.max(1)).zip(y.chunks(classes.max(1))).flat_map(|(g, y)| {
                    let term = |(&g, &y): (&f32, &f32)| f64::from(g) * if log { 1.0 } else { f64::from(y) };
                    let sum: f64 = g.iter().zip(y).map(term).sum();
                    let one = |(&g, &y): (&f32, &f32)| {
                        let (g, y) = (f64::from(g), f64::from(y));
                        if log { g - y.exp() * sum } else { y * (g - sum) }
                    };
                    g.iter().zip(y).map(one).collect::<Vec<_>>()
                }).collect();
                assert_close(&turned(&apart[2].get::<f32>(), lines), &expected, 1e-4, "gradient");
                for map in [[0, 1, 0], [0, 1, 1]] {
                    prop_assert_eq!(run_mapped(&backward, &operands[..2], &map)[map[2]].get::<u32>(), apart[2].get::<u32>());
                }
            }
        }
    }
}

#[test]
fn undefined_lines_spoil_themselves_alone() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    // Lines side by side: NaN, +∞, nothing but −∞, −∞ among numbers, numbers.
    let x = [nan, inf, -inf, -inf, 1.0, 0.0, 0.0, -inf, 0.0, 1.0];
    for isa in Isa::available() {
        for log in [false, true] {
            let kernel = Softmax::new(isa, Lines { outer: 1, classes: 2, inner: 5 }, log);
            let y: Vec<f32> = run(&kernel, &[Operand::of(&x), Operand::poison::<f32>(10)])[1].get();
            assert!((0..3).all(|line| y[line].is_nan() && y[line + 5].is_nan()));
            let half = if log { -std::f32::consts::LN_2 } else { 0.5 };
            assert_eq!([y[3], y[8], y[4], y[9]], if log { [-inf, 0.0, half, half] } else { [0.0, 1.0, half, half] });
        }
    }
}
