use cnnrs::function::ReduceKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::reduce::{Reduce, of_totals};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, assert_close, integers, run, values};

const KINDS: [ReduceKind; 5] =
    [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max, ReduceKind::Min, ReduceKind::SumSquares];

fn reduce(isa: Isa, kind: ReduceKind, shape: [usize; 3], src: &[f32]) -> Vec<f32> {
    let len = shape[0] * shape[2];
    let divisor = (kind == ReduceKind::Mean).then_some(shape[1] as f32);
    let kernel = Reduce::new(isa, kind, shape, divisor);
    let parts = kernel.parts();
    let partials = run(&kernel, &[Operand::of(src), Operand::poison::<f32>(parts * len)]).swap_remove(1);
    if parts == 1 {
        return partials.get();
    }
    let joining = Reduce::new(isa, of_totals(kind), [1, parts, len], divisor);
    run(&joining, &[partials, Operand::poison::<f32>(len)])[1].get()
}

fn reference(kind: ReduceKind, [outer, reduced, inner]: [usize; 3], src: &[f32]) -> Vec<f64> {
    let of = |o: usize, i: usize| {
        let line = (0..reduced).map(move |r| f64::from(src[(o * reduced + r) * inner + i]));
        let nan = line.clone().any(f64::is_nan);
        match kind {
            ReduceKind::Sum => line.sum(),
            ReduceKind::Mean => line.sum::<f64>() / reduced as f64,
            ReduceKind::SumSquares => line.map(|x| x * x).sum(),
            _ if nan => f64::NAN,
            ReduceKind::Max => line.fold(f64::NEG_INFINITY, f64::max),
            ReduceKind::Min => line.fold(f64::INFINITY, f64::min),
        }
    };
    (0..outer * inner).map(|at| of(at / inner, at % inner)).collect()
}

/// The mean of whole numbers is rounded once; everything else is exact.
fn check(isa: Isa, kind: ReduceKind, shape: [usize; 3], src: &[f32]) {
    let want: Vec<f64> = reference(kind, shape, src).into_iter().map(|x| f64::from(x as f32)).collect();
    assert_close(&reduce(isa, kind, shape, src), &want, 0.0, &format!("{kind:?} of {shape:?} on {}", isa.name()));
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
            assert_eq!(run(&Reduce::sum_of_parts(isa, parts, len), &operands)[1].get::<f32>(), want);
        }
    }
}

#[test]
fn long_sums_stay_precise() {
    // Equal values err alike: a running sum would be off by about 1e-3 of the result, blocks of 64 by 64 roundings.
    for shape in [[1, 50_176, 6], [1, 300_000, 1], [3, 100_000, 1], [2, 20_000, 20]] {
        let src = vec![0.1f32; shape.iter().product()];
        for isa in Isa::available() {
            for (kind, one) in [(ReduceKind::Sum, 0.1f32), (ReduceKind::SumSquares, 0.1 * 0.1)] {
                let want = vec![f64::from(one) * shape[1] as f64; shape[0] * shape[2]];
                let bound = 64.0 * 2f64.powi(-24) * want[0];
                assert_close(&reduce(isa, kind, shape, &src), &want, bound, &format!("{kind:?} of {shape:?}"));
            }
        }
    }
}

#[test]
fn nothing_and_special_values() {
    for isa in Isa::available() {
        for kind in KINDS {
            for shape in [[3, 0, 2], [4, 0, 1], [0, 5, 3], [2, 7, 0], [1, 0, 1]] {
                check(isa, kind, shape, &[]);
            }
            for shape in [[1, 40, 1], [40, 3, 1], [2, 3, 70], [1, 600, 3], [1, 200_000, 1], [17, 33, 5]] {
                let len: usize = shape.iter().product();
                for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    for at in [0, len / 2, len - 1] {
                        let mut src = integers(8, len);
                        src[at] = special;
                        check(isa, kind, shape, &src);
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_parts_is_fixed_by_shape() {
    let parts = |shape| Reduce::new(Isa::Portable, ReduceKind::Sum, shape, None).parts();
    let sums = [[1, 0, 4], [1, 64, 120], [1, 50_176, 6], [1, 6400, 16], [64, 3136, 64], [1, 1 << 28, 1]];
    assert_eq!(sums.map(parts), [1, 1, 16, 6, 1, 256]);
    for isa in Isa::available() {
        assert_eq!(Reduce::new(isa, ReduceKind::Max, [1, 6400, 16], None).parts(), 6);
        // Global average pooling and long rows have enough tasks for many cores without parts.
        assert!(Reduce::new(isa, ReduceKind::Sum, [64, 49, 512], None).tasks() >= 16);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whole_numbers_are_exact(
        outer in prop_oneof![Just(1usize), 0usize..40],
        reduced in prop_oneof![0usize..20, 0usize..3000],
        inner in prop_oneof![Just(1usize), 0usize..40, 100usize..140, 1020usize..1100],
    ) {
        let outer = outer.min(1 + 200_000 / (reduced * inner).max(1));
        let reduced = if inner > 40 { reduced / 8 } else { reduced };
        let whole = integers(7, outer * reduced * inner);
        for isa in Isa::available() {
            for kind in KINDS {
                check(isa, kind, [outer, reduced, inner], &whole);
            }
        }
    }
}
