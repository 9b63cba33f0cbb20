//! Data gradients that pass a gate and the sums of a normalization on their way: the very numbers that separate steps make,
//! and sums of these in double precision.

use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::winograd::{Pack, Product};
use cnnrs::kernels::conv::{BackwardData, Geometry, PackBackwardData, Passed};
use cnnrs::kernels::norm::{Gate, GradientSums, GradientSumsFinish, Segments};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::conv_shapes::{geometry, packed, tile_weights};
use crate::{Operand, run, values};

const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// Rounded operations on the way of one number into a sum in double precision: a difference and a run of up to 64 additions.
const RUN: f64 = 64.0 + 2.0;

const RELU: Gate = Gate { limit: f32::INFINITY, recompute: false };
const GATES: [Option<Gate>; 4] =
    [None, Some(RELU), Some(Gate { recompute: true, ..RELU }), Some(Gate { limit: 0.5, recompute: false })];

/// Runs a data gradient and the separate sums, and the gradient that passes all that, and compares.
fn check(
    isa: Isa,
    (plain, passing): (&dyn Kernel, &dyn Kernel),
    (geometry, parts): (&Geometry, &[usize]),
    (weights, extra): (&Operand, usize),
    passed: Passed,
) {
    let Passed { gate, add } = passed;
    let (channels, len) = (geometry.ic, geometry.src_len());
    let rows = len / channels;
    let what = format!("{} of {}", passing.name(), geometry.describe());
    assert!(passing.name().contains("_sums_"), "{what}");
    assert_eq!(parts.iter().sum::<usize>(), rows, "{what}");
    let whole = |seed| Operand::of(&values(seed, len));
    let each = |seed| Operand::of(&values(seed, channels));
    let (x, mean, other, result) = (whole(3), each(4), whole(5), whole(6));
    let [weight, rstd, bias] = [7, 8, 9].map(each);
    let gradient = Operand::poison::<f32>(len);
    let positions = (extra > 0).then(|| Operand::poison::<f32>(extra));
    let read = match gate {
        Some(Gate { recompute: true, .. }) => vec![weight.clone(), rstd.clone(), bias],
        Some(_) => vec![result],
        None => Vec::new(),
    };

    let source = [Operand::of(&values(1, geometry.dst_len())), weights.clone()];
    let raw = run(plain, &[&source[..], std::slice::from_ref(&gradient), positions.as_slice()].concat())[2].clone();
    let shape = Segments { segments: 1, rows, channels, bins: channels };
    let apart = GradientSums::new(isa, shape).behind(gate, gate.is_some(), add);
    let mut operands = vec![raw.clone(), x.clone(), mean.clone(), Operand::poison::<f64>(apart.partials())];
    operands.extend(read.clone());
    let to = operands.len();
    if gate.is_some() || add {
        operands.push(gradient.clone());
    }
    if add {
        operands.push(other.clone());
    }
    let separate = run(&apart, &operands);
    let want = if gate.is_some() || add { &separate[to] } else { &raw };

    let mut operands = source.to_vec();
    if add {
        operands.push(other);
    }
    let to = operands.len();
    operands.push(gradient);
    operands.extend(positions);
    operands.extend([x.clone(), mean.clone()]);
    operands.extend(read);
    operands.push(Operand::poison::<f64>(2 * parts.len() * channels));
    let got = run(passing, &operands);
    assert!(got[to] == *want, "{what}: the gradient changed");

    let channel = || Operand::poison::<f32>(channels);
    let ones = Operand::of(&vec![1.0f32; channels]);
    let finish = GradientSumsFinish::new(shape, parts.len(), false, true);
    let sums = run(&finish, &[got.last().unwrap().clone(), weight, ones, channel(), channel()]);
    let (products, sums) = (sums[3].get::<f32>(), sums[4].get::<f32>());
    let (g, x, mean) = (want.get::<f32>(), x.get::<f32>(), mean.get::<f32>());
    for c in 0..channels {
        let [mut sum, mut product, mut size, mut product_size] = [0.0f64; 4];
        for i in (c..len).step_by(channels) {
            let g = f64::from(g[i]);
            let term = g * (f64::from(x[i]) - f64::from(mean[c]));
            sum += g;
            product += term;
            size += g.abs();
            product_size += term.abs();
        }
        let error = (f64::from(sums[c]) - sum).abs();
        assert!(error <= RUN * UNIT * size, "sum of channel {c} off by {error:e}, {what}");
        let error = (f64::from(products[c]) - product).abs();
        assert!(error <= RUN * UNIT * product_size, "products of channel {c} off by {error:e}, {what}");
    }
}

/// What can be passed.
fn ways() -> impl Iterator<Item = Passed> {
    GATES.into_iter().flat_map(|gate| [false, true].map(|add| Passed { gate, add }))
}

/// Whether the kernel takes the sums.
fn direct(isa: Isa, geometry: Geometry) -> bool {
    let plain = BackwardData::new(isa, geometry);
    if plain.sums_refusal().is_some() {
        return false;
    }
    let pack = PackBackwardData::new(isa, geometry);
    let weights = packed(&pack, &geometry, pack.packed_len());
    for passed in ways() {
        let passing = BackwardData::new(isa, geometry).passing(passed);
        check(isa, (&plain, &passing), (&geometry, &plain.parts()), (&weights, 0), passed);
    }
    true
}

fn winograd(isa: Isa, geometry: &Geometry, kept: bool) -> bool {
    let plain = Product::backward_data(isa, geometry, kept);
    if plain.sums_refusal().is_some() {
        return false;
    }
    let pack = Pack::backward_data(isa, geometry);
    let weights = tile_weights(&plain, &pack, geometry);
    for passed in ways() {
        let passing = Product::backward_data(isa, geometry, kept).passing(passed);
        check(isa, (&plain, &passing), (geometry, &plain.parts()), (&weights, plain.positions_len()), passed);
    }
    true
}

#[test]
fn of_direct_convolutions() {
    for isa in Isa::available() {
        // In place, in bands, in groups, of large weights, of one pixel per image, of long lines.
        assert!(direct(isa, geometry(1, 1, 3, [9, 11], [70, 24, 1])));
        assert!(direct(isa, geometry(3, 1, 2, [33, 34], [33, 17, 1])));
        assert!(direct(isa, geometry(3, 1, 2, [33, 34], [68, 32, 2])));
        assert!(direct(isa, geometry(1, 1, 2, [14, 14], [1025, 160, 1])));
        assert!(direct(isa, geometry(1, 1, 130, [1, 1], [37, 19, 1])));
        assert!(direct(isa, geometry(1, 1, 1, [3, 150], [34, 40, 1])));
    }
}

#[test]
fn of_strided_convolutions() {
    for isa in Isa::available() {
        // Every class of pixels, some without a tap; odd sizes; lines longer than a block; in groups.
        assert!(direct(isa, geometry(1, 2, 3, [33, 34], [40, 24, 1])));
        assert!(direct(isa, geometry(3, 2, 3, [53, 54], [48, 20, 1])));
        assert!(direct(isa, geometry(3, 3, 2, [31, 200], [33, 20, 1])));
        assert!(direct(isa, geometry(3, 2, 3, [53, 54], [68, 32, 2])));
    }
}

#[test]
fn of_transformed_tiles() {
    for isa in Isa::available() {
        // Blocks of tiles and panels, whole and ragged tiles, every kernel and size of tile.
        for kept in [false, true] {
            assert!(winograd(isa, &geometry(3, 1, 2, [17, 18], [37, 33, 1]), kept));
            assert!(winograd(isa, &geometry(3, 1, 5, [21, 26], [70, 32, 1]), kept));
            assert!(winograd(isa, &geometry(3, 1, 2, [7, 8], [33, 40, 1]), kept));
            assert!(winograd(isa, &geometry(5, 1, 3, [15, 14], [36, 33, 1]), kept));
            assert!(winograd(isa, &geometry(3, 2, 3, [25, 28], [36, 33, 1]), kept));
            assert!(winograd(isa, &geometry(3, 2, 3, [67, 70], [40, 65, 1]), kept));
        }
    }
}

#[test]
fn few_pixels_are_left_to_a_pass_of_their_own() {
    for isa in Isa::available() {
        let reason = |geometry| BackwardData::new(isa, geometry).sums_refusal();
        assert_eq!(reason(geometry(1, 1, 1, [7, 9], [64, 64, 1])).as_deref(), Some("63 pixels in 2 parts"));
        assert_eq!(reason(geometry(3, 1, 4, [9, 9], [2, 5, 1])).as_deref(), Some("folded pixels"));
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
        channels in (8usize..80, 1usize..50),
    ) {
        let shape = geometry(kernel, stride, n, [size.0, size.1], [channels.0, channels.1, 1]);
        for isa in Isa::available() {
            direct(isa, shape);
            if kernel == 3 || stride == 1 && kernel > 1 {
                winograd(isa, &shape, true);
            }
        }
    }
}
