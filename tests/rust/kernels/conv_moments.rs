//! Statistics that convolutions take of their results: those of the very numbers they wrote, in double precision.

use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::winograd::{Pack, Product};
use cnnrs::kernels::conv::{Epilogue, Forward, Geometry, PackForward};
use cnnrs::kernels::norm::{MomentsFinish, Segments};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::conv_shapes::{geometry, packed, tile_weights};
use crate::{Operand, run, values};

const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// Rounded additions one sum can go through: a run of 64 and the sums side by side, with their products.
const RUN: f64 = 2.0 * (64.0 + 4.0);

const BIAS: Epilogue = Epilogue { bias: true, norm: false, add: false, activation: None };

/// Runs a kernel without and with statistics, on results around `offset`, and checks these.
fn check(
    (plain, taking): (&dyn Kernel, &dyn Kernel),
    (geometry, parts): (&Geometry, Vec<usize>),
    (weights, extra): (Operand, usize),
    offset: f32,
) {
    let (channels, rows) = (geometry.oc, geometry.dst_len() / geometry.oc);
    let bias: Vec<f32> = values(3, channels).iter().map(|x| x + offset).collect();
    let src = Operand::of(&values(1, geometry.src_len()));
    let mut operands = vec![src, weights, Operand::of(&bias), Operand::poison::<f32>(geometry.dst_len())];
    if extra > 0 {
        operands.push(Operand::poison::<f32>(extra));
    }
    let bare = run(plain, &operands);
    operands.push(Operand::poison::<f64>(2 * parts.len() * channels));
    let taken = run(taking, &operands);
    let what = format!("{} of {} around {offset}", taking.name(), geometry.describe());
    assert!(taking.name().contains("_moments_"), "{what}");
    assert!(bare[3] == taken[3], "{what}: the results changed");
    assert_eq!(parts.iter().sum::<usize>(), rows, "{what}");

    let shape = Segments { segments: 1, rows, channels, bins: channels };
    let empty = || Operand::poison::<f32>(channels);
    let got = run(&MomentsFinish::new(shape, parts, 0.0, None), &[taken.last().unwrap().clone(), empty(), empty()]);
    let (means, deviations, results) = (got[1].get::<f32>(), got[2].get::<f32>(), taken[3].get::<f32>());
    for c in 0..channels {
        let column: Vec<f64> = results.iter().skip(c).step_by(channels).map(|&x| f64::from(x)).collect();
        let mean = column.iter().sum::<f64>() / rows as f64;
        let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / rows as f64;
        let bound = UNIT * mean.abs() + RUN * UNIT * variance.sqrt();
        let error = (f64::from(means[c]) - mean).abs();
        assert!(error <= bound, "mean of channel {c} off by {error:e}, {what}");
        let error = (f64::from(deviations[c]).powi(-2) / variance - 1.0).abs();
        assert!(error <= 4.0 * RUN * UNIT, "variance of channel {c} off by {error:e}, {what}");
    }
}

/// Whether the kernel took the statistics.
fn direct(isa: Isa, geometry: Geometry, offset: f32) -> bool {
    let make = || Forward::copying_once(isa, geometry, BIAS);
    if make().moments_refusal().is_some() {
        return false;
    }
    let (plain, taking) = (make(), make().with_moments());
    let pack = PackForward::new(isa, geometry);
    let weights = packed(&pack, &geometry, pack.packed_len());
    check((&plain, &taking), (&geometry, plain.parts()), (weights, plain.copy_len()), offset);
    true
}

fn winograd(isa: Isa, geometry: &Geometry, kept: bool, offset: f32) -> bool {
    let make = || Product::forward(isa, geometry, BIAS, kept);
    if make().moments_refusal().is_some() {
        return false;
    }
    let (plain, taking) = (make(), make().with_moments());
    let pack = Pack::forward(isa, geometry);
    let weights = tile_weights(&plain, &pack, geometry);
    check((&plain, &taking), (geometry, plain.parts()), (weights, plain.positions_len()), offset);
    true
}

#[test]
fn of_direct_convolutions() {
    for isa in Isa::available() {
        for offset in [0.0, 1e4, -3e5, 1e6] {
            // In place, in bands, strided, grouped, of large weights, of one pixel per image, of copied units.
            assert!(direct(isa, geometry(1, 1, 3, [9, 11], [24, 70, 1]), offset));
            assert!(direct(isa, geometry(3, 1, 2, [33, 34], [17, 33, 1]), offset));
            assert!(direct(isa, geometry(3, 2, 3, [53, 54], [20, 48, 1]), offset));
            assert!(direct(isa, geometry(3, 1, 2, [33, 34], [32, 68, 2]), offset));
            assert!(direct(isa, geometry(1, 1, 2, [14, 14], [160, 1025, 1]), offset));
            assert!(direct(isa, geometry(1, 1, 130, [1, 1], [19, 37, 1]), offset));
            assert!(direct(isa, geometry(1, 1, 2, [33, 32], [1024, 34, 1]), offset));
            let copied = geometry(3, 2, 4, [20, 20], [64, 512, 1]);
            assert!(Forward::copying_once(isa, copied, BIAS).copy_len() > 0);
            assert!(direct(isa, copied, offset));
        }
    }
}

#[test]
fn of_transformed_tiles() {
    for isa in Isa::available() {
        for offset in [0.0, 1e4, -3e5, 1e6] {
            // Blocks of tiles and panels, whole and ragged tiles, every kernel and size of tile.
            for kept in [false, true] {
                assert!(winograd(isa, &geometry(3, 1, 2, [17, 18], [33, 37, 1]), kept, offset));
                assert!(winograd(isa, &geometry(3, 1, 5, [21, 26], [32, 70, 1]), kept, offset));
                assert!(winograd(isa, &geometry(3, 1, 2, [7, 8], [40, 33, 1]), kept, offset));
                assert!(winograd(isa, &geometry(5, 1, 3, [15, 14], [33, 36, 1]), kept, offset));
                assert!(winograd(isa, &geometry(3, 2, 3, [25, 28], [33, 36, 1]), kept, offset));
                assert!(winograd(isa, &geometry(3, 2, 3, [35, 38], [65, 40, 1]), kept, offset));
            }
        }
    }
}

#[test]
fn equal_results_have_no_spread() {
    for isa in Isa::available() {
        let shape = geometry(3, 1, 5, [21, 26], [32, 40, 1]);
        let (plain, taking) = (Product::forward(isa, &shape, BIAS, true), Product::forward(isa, &shape, BIAS, true));
        let (parts, taking) = (plain.parts(), taking.with_moments());
        let pack = Pack::forward(isa, &shape);
        let weights = packed(&pack, &shape, pack.packed_len());
        let src = Operand::of(&vec![0.0f32; shape.src_len()]);
        let operands = [src, weights, Operand::of(&[0.1f32; 40]), Operand::poison::<f32>(shape.dst_len())];
        let partials = Operand::poison::<f64>(2 * parts.len() * 40);
        let got = run(&taking, &[&operands[..], &[partials]].concat())[4].get::<f64>();
        for part in got.chunks(80) {
            assert!(part[..40].iter().all(|&mean| mean == f64::from(0.1f32)));
            assert!(part[40..].iter().all(|&m2| m2 == 0.0));
        }
    }
}

#[test]
fn few_pixels_are_left_to_a_pass_of_their_own() {
    for isa in Isa::available() {
        let reason = |geometry| Forward::new(isa, geometry, BIAS).moments_refusal();
        assert_eq!(reason(geometry(1, 1, 1, [7, 9], [64, 64, 1])).as_deref(), Some("63 pixels in 2 parts"));
        assert_eq!(reason(geometry(3, 1, 4, [9, 9], [5, 2, 1])).as_deref(), Some("folded pixels"));
        let added = Epilogue { add: true, ..BIAS };
        let reason = Product::forward(isa, &geometry(3, 1, 2, [17, 18], [33, 37, 1]), added, true).moments_refusal();
        assert_eq!(reason.as_deref(), Some("more than a bias and relu behind"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn of_any_shape(
        kernel in prop_oneof![Just(1usize), Just(3usize), Just(5usize)],
        stride in 1usize..3,
        n in 1usize..5,
        size in (5usize..20, 5usize..20),
        channels in (1usize..50, 8usize..80),
        offset in -1e5f32..1e5,
    ) {
        let shape = geometry(kernel, stride, n, [size.0, size.1], [channels.0, channels.1, 1]);
        for isa in Isa::available() {
            direct(isa, shape, offset);
            if kernel == 3 || stride == 1 && kernel > 1 {
                winograd(isa, &shape, true, offset);
            }
        }
    }
}
