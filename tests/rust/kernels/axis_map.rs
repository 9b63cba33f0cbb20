use cnnrs::function;
use cnnrs::kernels::axis_map::AxisMap;
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, assert_close, integers, run, values};

fn maps(from: usize) -> impl Strategy<Value = function::AxisMap> {
    prop_oneof![
        (1usize..20).prop_map(|to| function::AxisMap::Nearest { to }),
        (1usize..20, any::<bool>()).prop_map(|(to, align_corners)| function::AxisMap::Linear { to, align_corners }),
        (1usize..20).prop_map(|to| function::AxisMap::AdaptiveAvg { to }),
        (0usize..9, 0usize..9).prop_map(|(before, after)| function::AxisMap::PadEdge { before, after }),
        (0..from, 0..from).prop_map(|(before, after)| function::AxisMap::PadReflect { before, after }),
    ]
}

/// The map as a dense matrix, in double precision.
fn matrix(map: function::AxisMap, from: usize) -> Vec<Vec<f64>> {
    let row = |i| {
        let mut row = vec![0.0; from];
        for (j, weight) in map.row(i, from) {
            row[j] += weight;
        }
        row
    };
    (0..map.size(from)).map(row).collect()
}

/// `matrix` applied to every line of `src` (outer, from, inner); transposed with `back`.
fn apply(matrix: &[Vec<f64>], back: bool, outer: usize, inner: usize, src: &[f32]) -> Vec<f64> {
    let (to, from) = if back { (matrix[0].len(), matrix.len()) } else { (matrix.len(), matrix[0].len()) };
    let mut dst = vec![0.0; outer * to * inner];
    for (at, sum) in dst.iter_mut().enumerate() {
        let (o, i, k) = (at / (to * inner), at / inner % to, at % inner);
        for j in 0..from {
            let weight = if back { matrix[j][i] } else { matrix[i][j] };
            *sum += weight * f64::from(src[(o * from + j) * inner + k]);
        }
    }
    dst
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn against_the_dense_matrix(
        (from, map) in (1usize..20).prop_flat_map(|from| (Just(from), maps(from))),
        outer in 0usize..4,
        inner in prop_oneof![Just(1usize), 2usize..40, 60usize..140],
        seed: u64,
    ) {
        let (matrix, to) = (matrix(map, from), map.size(from));
        let (x, g) = (values(seed, outer * from * inner), values(seed ^ 1, outer * to * inner));
        for isa in Isa::available() {
            let forward = AxisMap::forward(isa, map, outer, from, inner).unwrap();
            let y: Vec<f32> = run(&forward, &[Operand::of(&x), Operand::poison::<f32>(g.len())])[1].get();
            assert_close(&y, &apply(&matrix, false, outer, inner, &x), 2e-6, "forward");
            let backward = AxisMap::backward(isa, map, outer, from, inner).unwrap();
            let d: Vec<f32> = run(&backward, &[Operand::of(&g), Operand::poison::<f32>(x.len())])[1].get();
            assert_close(&d, &apply(&matrix, true, outer, inner, &g), 2e-5, "backward");
        }
    }
}

#[test]
fn movement_is_exact_and_means_of_equal_numbers_are_those_numbers() {
    let odd: Vec<f32> = [0x7FA0_0001, 0xFFC1_2345, 0x0000_0001, 0x8000_0000].map(f32::from_bits).repeat(5);
    for isa in Isa::available() {
        let map = function::AxisMap::PadReflect { before: 2, after: 1 };
        let kernel = AxisMap::forward(isa, map, 1, 4, 5).unwrap();
        let y: Vec<u32> = run(&kernel, &[Operand::of(&odd), Operand::poison::<u32>(35)])[1].get();
        let source = [2usize, 1, 0, 1, 2, 3, 2];
        assert!((0..35).all(|i| y[i] == odd[source[i / 5] * 5 + i % 5].to_bits()));
        for inner in [1, 7, 100] {
            let kernel = AxisMap::forward(isa, function::AxisMap::AdaptiveAvg { to: 3 }, 2, 41, inner).unwrap();
            let x = vec![0.7f32; 2 * 41 * inner];
            let y: Vec<f32> = run(&kernel, &[Operand::of(&x), Operand::poison::<f32>(6 * inner)])[1].get();
            assert!(y.iter().all(|&y| (y - 0.7).abs() <= f32::EPSILON));
            let ones = vec![1.0f32; 2 * 41 * inner];
            let y: Vec<f32> = run(&kernel, &[Operand::of(&ones), Operand::poison::<f32>(6 * inner)])[1].get();
            assert!(y.iter().all(|&y| y == 1.0));
        }
    }
}

#[test]
fn long_sums_and_long_rows() {
    for isa in Isa::available() {
        for (from, inner) in [(1000, 1), (1000, 3), (300, 2500)] {
            let map = function::AxisMap::AdaptiveAvg { to: 2 };
            let x = integers(3, from * inner);
            let y = AxisMap::forward(isa, map, 1, from, inner).unwrap();
            let y: Vec<f32> = run(&y, &[Operand::of(&x), Operand::poison::<f32>(2 * inner)])[1].get();
            assert_close(&y, &apply(&matrix(map, from), false, 1, inner, &x), 1e-6, "means of integers");
        }
    }
}

#[test]
fn a_map_that_changes_nothing_is_known() {
    let identity = |map| AxisMap::forward(Isa::Portable, map, 1, 5, 1).unwrap().is_identity();
    assert!(identity(function::AxisMap::Nearest { to: 5 }));
    assert!(identity(function::AxisMap::Linear { to: 5, align_corners: false }));
    assert!(identity(function::AxisMap::Linear { to: 5, align_corners: true }));
    assert!(identity(function::AxisMap::AdaptiveAvg { to: 5 }));
    assert!(identity(function::AxisMap::PadEdge { before: 0, after: 0 }));
    assert!(!identity(function::AxisMap::PadEdge { before: 1, after: 0 }));
    assert!(!identity(function::AxisMap::Nearest { to: 4 }));
    assert!(AxisMap::backward(Isa::Portable, function::AxisMap::Nearest { to: 5 }, 1, 5, 1).unwrap().is_identity());
}
