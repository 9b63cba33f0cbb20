use cnnrs::kernels::image::{Horizontal, Interpolation, Taps, Vertical};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, run};

/// The weights of all source pixels for one result pixel, in double precision.
fn weights(interpolation: Interpolation, src: usize, dst: usize, place: usize) -> Vec<f64> {
    let cubic = interpolation == Interpolation::Bicubic;
    let scale = src as f64 / dst as f64;
    let stretch = scale.max(1.0);
    let centre = (place as f64 + 0.5) * scale;
    let support = stretch * if cubic { 2.0 } else { 1.0 };
    let (first, end) = ((centre - support + 0.5).trunc(), (centre + support + 0.5).trunc());
    let weight = |i: usize| {
        let x = ((i as f64 + 0.5 - centre) / stretch).abs();
        match (cubic, x) {
            _ if (i as f64) < first || i as f64 >= end => 0.0,
            (false, _) => (1.0 - x).max(0.0),
            (true, 0.0..1.0) => 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0,
            (true, 1.0..2.0) => -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0,
            _ => 0.0,
        }
    };
    let all: Vec<f64> = (0..src).map(weight).collect();
    let total: f64 = all.iter().sum();
    all.iter().map(|weight| weight / total).collect()
}

/// A pixel may lie on the other side of a half: weights are integers.
fn check(got: &[u8], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&x, &y)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(x) - y.clamp(0.0, 255.0)).abs() <= 0.51, "{what}: element {i} is {x}, expected {y}");
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn rows_and_columns_are_weighted_sums(
        n in 1usize..3, h in 1usize..9, w in 1usize..40, c in 1usize..6, size in 1usize..50,
        cut in (0usize..50, 0usize..50), top in 0usize..9, cubic: bool,
    ) {
        let interpolation = if cubic { Interpolation::Bicubic } else { Interpolation::Bilinear };
        let (start, end) = (cut.0.min(cut.1).min(size), cut.0.max(cut.1).min(size));
        let top = top.min(h - 1);
        let rows = h - top;
        let src = bytes(n * h * w * c);
        let at = |image: usize, y: usize, x: usize, k: usize| f64::from(src[((image * h + y) * w + x) * c + k]);
        let all: Vec<Vec<f64>> = (start..end).map(|place| weights(interpolation, w, size, place)).collect();
        let mut want = Vec::new();
        for line in 0..n * rows {
            for taps in &all {
                for k in 0..c {
                    want.push((0..w).map(|x| taps[x] * at(line / rows, top + line % rows, x, k)).sum());
                }
            }
        }
        for isa in Isa::available() {
            let taps = Taps::new(interpolation, w, size, start..end).unwrap();
            let kernel = Horizontal::new(isa, taps, n, [h, w, c], top, rows);
            let got = run(&kernel, &[Operand::of(&src), Operand::poison::<u8>(want.len())]);
            check(&got[1].get::<u8>(), &want, "horizontal");
        }

        // The same numbers as columns of height w and width h·c.
        let width = h * c;
        let pixel = |image: usize, y: usize, k: usize| f64::from(src[(image * w + y) * width + k]);
        let mut want = Vec::new();
        for image in 0..n {
            for taps in &all {
                for k in 0..width {
                    want.push((0..w).map(|y| taps[y] * pixel(image, y, k)).sum());
                }
            }
        }
        for isa in Isa::available() {
            let taps = Taps::new(interpolation, w, size, start..end).unwrap();
            let kernel = Vertical::new(isa, taps, n, 0, w, width);
            let got = run(&kernel, &[Operand::of(&src), Operand::poison::<u8>(want.len())]);
            check(&got[1].get::<u8>(), &want, "vertical");
        }
    }
}

#[test]
fn taps_lie_in_the_source() {
    for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
        for (src, dst) in [(1, 1), (1, 9), (9, 1), (7, 5), (5, 7), (Taps::MAX_SIZE, 2), (2, Taps::MAX_SIZE)] {
            let taps = Taps::new(interpolation, src, dst, 0..dst).unwrap();
            assert_eq!((taps.len(), taps.span()), (dst, 0..src), "{interpolation:?} {src} {dst}");
        }
        assert!(Taps::new(interpolation, 8, 8, 3..3).unwrap().is_empty());
    }
}

#[test]
fn wide_rows_are_summed_in_blocks() {
    let (rows, width) = (3, 2500);
    let src = bytes(rows * width);
    let taps = Taps::new(Interpolation::Bilinear, rows, 1, 0..1).unwrap();
    let all = weights(Interpolation::Bilinear, rows, 1, 0);
    let sum = |k: usize| (0..rows).map(|y| all[y] * f64::from(src[y * width + k])).sum();
    let want: Vec<f64> = (0..width).map(sum).collect();
    for isa in Isa::available() {
        let kernel = Vertical::new(isa, taps.clone(), 1, 0, rows, width);
        let got = run(&kernel, &[Operand::of(&src), Operand::poison::<u8>(width)]);
        check(&got[1].get::<u8>(), &want, "vertical");
    }
}
