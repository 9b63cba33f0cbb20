use cnnrs::kernels::reduce::{ReduceParts, SumRows};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, assert_close, integers, run, values};

fn sum_rows(isa: Isa, rows: usize, channels: usize, src: &[f32]) -> Vec<f32> {
    let kernel = SumRows::new(isa, rows, channels);
    let parts = kernel.parts();
    let partials = run(&kernel, &[Operand::of(src), Operand::poison::<f32>(parts * channels)]).swap_remove(1);
    if parts == 1 {
        return partials.get();
    }
    let reduce = ReduceParts::new(isa, parts, channels);
    run(&reduce, &[partials, Operand::poison::<f32>(channels)])[1].get()
}

fn reference(rows: usize, channels: usize, src: &[f32]) -> Vec<f64> {
    (0..channels).map(|c| (0..rows).map(|r| f64::from(src[r * channels + c])).sum()).collect()
}

#[test]
fn parts_are_added_in_order() {
    for isa in Isa::available() {
        for (parts, len) in [(0, 5), (1, 9), (3, 1), (16, 37), (7, 9001), (4, 0)] {
            let partials = values(6, parts * len);
            let mut want = vec![0.0f32; len];
            for part in 0..parts {
                for i in 0..len {
                    want[i] += partials[part * len + i];
                }
            }
            let operands = [Operand::of(&partials), Operand::poison::<f32>(len)];
            assert_eq!(run(&ReduceParts::new(isa, parts, len), &operands)[1].get::<f32>(), want);
        }
    }
}

#[test]
fn long_sums_stay_precise() {
    // Equal values err alike: a running sum would be off by about 1e-3 of the result, blocks of 64 by 64 roundings.
    let (rows, channels) = (50_176, 6);
    let src = vec![0.1f32; rows * channels];
    for isa in Isa::available() {
        let want = vec![f64::from(0.1f32) * rows as f64; channels];
        assert_close(&sum_rows(isa, rows, channels, &src), &want, 64.0 * 2f64.powi(-24) * want[0], "sum of equal rows");
    }
}

#[test]
fn the_number_of_parts_is_fixed_by_shape() {
    let parts = |rows, channels| SumRows::new(Isa::Portable, rows, channels).parts();
    assert_eq!([parts(0, 4), parts(64, 120), parts(50_176, 6), parts(6400, 16)], [1, 1, 16, 6]);
    assert!(Isa::available().into_iter().all(|isa| SumRows::new(isa, 6400, 16).parts() == 6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn sums_over_rows(rows in 0usize..3000, channels in prop_oneof![0usize..40, 100usize..140, 1020usize..1100]) {
        let rows = if channels > 40 { rows / 8 } else { rows };
        let whole = integers(7, rows * channels);
        for isa in Isa::available() {
            // Whole numbers: every order gives the exact sum.
            assert_close(&sum_rows(isa, rows, channels, &whole), &reference(rows, channels, &whole), 0.0, "whole numbers");
        }
    }
}
