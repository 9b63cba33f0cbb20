//! Direct convolution with maximum pooling: to the same bits as one behind the other.

use cnnrs::function::UnaryKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::winograd::{Pack, Product};
use cnnrs::kernels::conv::{Epilogue, Forward, Geometry, PackForward, Pooled};
use cnnrs::kernels::pool::{MaxPool, PoolGeometry};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::{Operand, run, values};

fn square(kernel: usize, stride: usize, pad: usize) -> Window2d {
    Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pad: [[pad; 2]; 2] }
}

fn pooling(geometry: &Geometry, window: Window2d) -> Option<PoolGeometry> {
    let Geometry { n, oh: ih, ow: iw, oc: c, .. } = *geometry;
    let [oh, ow] = window.output([ih, iw], false).ok()?;
    Some(PoolGeometry { n, ih, iw, c, oh, ow, window })
}

/// Some numbers that are not finite, far apart.
fn spoilt(mut src: Vec<f32>) -> Vec<f32> {
    let len = src.len();
    for (part, value) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN].into_iter().enumerate() {
        src[(len - 1) * part / 3] = value;
    }
    src
}

/// Whether every level pools in the kernel; if one does, its results are those of separate steps.
fn check(geometry: Geometry, window: Window2d, activation: Option<UnaryKind>, finite: bool) -> bool {
    let direct = |isa, pooling, epilogue| {
        let kernel = Pooled::new(isa, geometry, pooling, epilogue)?;
        Some((kernel, Forward::new(isa, geometry, epilogue), PackForward::new(isa, geometry)))
    };
    let packed_len = |pack: &PackForward| pack.packed_len();
    check_with(geometry, window, (activation, finite), direct, packed_len)
}

/// The same by transformed tiles.
fn check_tiles(geometry: Geometry, window: Window2d, activation: Option<UnaryKind>, finite: bool) -> bool {
    let tiles = |isa, pooling, epilogue| {
        let kernel = Pooled::by_tiles(isa, geometry, pooling, epilogue)?;
        Some((kernel, Product::forward(isa, &geometry, epilogue, true), Pack::forward(isa, &geometry)))
    };
    check_with(geometry, window, (activation, finite), tiles, Pack::packed_len)
}

/// The same of a kernel, the convolution in a step of its own and the packing for both.
fn check_with<F: Kernel, P: Kernel>(
    geometry: Geometry,
    window: Window2d,
    (activation, finite): (Option<UnaryKind>, bool),
    make: impl Fn(Isa, PoolGeometry, Epilogue) -> Option<(Pooled, F, P)>,
    packed_len: impl Fn(&P) -> usize,
) -> bool {
    let Some(pooling) = pooling(&geometry, window) else { return false };
    let epilogue = Epilogue { bias: true, norm: true, add: false, activation };
    let src = values(1, geometry.src_len());
    let src = Operand::of(&if finite { src } else { spoilt(src) });
    let rstd: Vec<f32> = values(7, geometry.oc).iter().map(|x| x.abs() + 0.25).collect();
    let channels: Vec<Operand> = (3..7).map(|seed| Operand::of(&values(seed, geometry.oc))).collect();
    let mut fused = true;
    for isa in Isa::available() {
        let Some((kernel, forward, pack)) = make(isa, pooling, epilogue) else {
            fused = false;
            continue;
        };
        let weights = Operand::of(&values(2, geometry.weights_len()));
        let packed = run(&pack, &[weights, Operand::of(&vec![0.0f32; packed_len(&pack)])])[1].clone();
        let mut operands = vec![src.clone(), packed];
        operands.extend(channels.iter().cloned());
        operands.push(Operand::of(&rstd));
        let result = operands.len();
        let with = |results: &[usize]| -> Vec<Operand> {
            operands.iter().cloned().chain(results.iter().map(|&len| Operand::poison::<f32>(len))).collect()
        };
        let len = pooling.n * pooling.oh * pooling.ow * pooling.c;
        let sizes = [len, kernel.seams_len()];
        let got = run(&kernel, &with(if sizes[1] > 0 { &sizes } else { &sizes[..1] }))[result].clone();
        let whole = run(&forward, &with(&[geometry.dst_len()]))[result].clone();
        let want = run(&MaxPool::new(isa, pooling, None), &[whole, Operand::poison::<f32>(len)])[1].clone();
        assert!(got == want, "{} of {}, {window:?}", kernel.name(), geometry.describe());
    }
    fused
}

fn conv(n: usize, input: [usize; 2], channels: [usize; 2], window: Window2d) -> Geometry {
    Geometry::new(n, input, channels[0], channels[1], 1, window).unwrap()
}

#[test]
fn first_layers() {
    for n in [1, 3] {
        for finite in [true, false] {
            let relu = Some(UnaryKind::Relu);
            assert!(check(conv(n, [112, 96], [3, 64], square(7, 2, 3)), square(3, 2, 1), relu, finite));
            assert!(check(conv(n, [115, 115], [3, 64], square(11, 4, 2)), square(3, 2, 0), relu, finite));
            assert!(check(conv(n, [64, 64], [3, 40], square(3, 1, 1)), square(2, 2, 0), relu, finite));
            assert!(check_tiles(conv(n, [112, 96], [3, 64], square(7, 2, 3)), square(3, 2, 1), relu, finite));
            assert!(check_tiles(conv(n, [150, 131], [3, 40], square(11, 4, 2)), square(3, 2, 0), None, finite));
            let tanh = Some(UnaryKind::Tanh);
            assert!(check_tiles(conv(n, [250, 60], [5, 33], square(7, 3, 2)), square(5, 1, 2), tanh, finite));
            assert!(check_tiles(conv(n, [120, 60], [3, 40], square(7, 2, 3)), square(2, 4, 1), None, finite));
        }
    }
}

#[test]
fn pictures_of_many_lines_and_whole_pictures() {
    // Several steps in a stretch, and stretches that are pictures.
    assert!(check(conv(1, [150, 200], [8, 64], square(3, 1, 1)), square(3, 1, 1), None, true));
    assert!(check(conv(17, [30, 100], [3, 64], square(5, 1, 2)), square(3, 2, 1), Some(UnaryKind::Tanh), false));
    // Windows that leave lines out, and such that share most.
    assert!(check(conv(1, [90, 120], [4, 40], square(3, 1, 0)), square(2, 5, 0), None, true));
    assert!(check(conv(2, [60, 60], [4, 33], square(3, 1, 1)), square(5, 1, 2), None, false));
}

#[test]
fn what_is_better_in_separate_steps() {
    let refused = |geometry: Geometry, window: Window2d, add: bool| {
        let pooling = pooling(&geometry, window).unwrap();
        Pooled::new(Isa::Portable, geometry, pooling, Epilogue { add, ..Epilogue::default() }).is_none()
    };
    let stem = conv(1, [64, 64], [3, 64], square(7, 2, 3));
    assert!(!refused(stem, square(3, 2, 1), false));
    assert!(refused(stem, square(3, 2, 1), true), "something added");
    assert!(refused(stem, Window2d { dilation: [2; 2], ..square(3, 2, 1) }, false), "dilation");
    assert!(refused(stem, square(16, 16, 0), false), "too few stretches");
    assert!(refused(conv(8, [27, 27], [192, 384], square(3, 1, 1)), square(3, 2, 0), false), "large weights");
    assert!(refused(conv(8, [64, 2000], [3, 64], square(3, 1, 1)), square(2, 2, 0), false), "long lines");
    assert!(refused(conv(0, [64, 64], [3, 64], square(7, 2, 3)), square(3, 2, 1), false), "no pictures");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shape(
        n in 1usize..4,
        input in (12usize..50, 12usize..50),
        channels in (1usize..9, 1usize..70),
        groups in 1usize..3,
        window in (1usize..8, 1usize..4, 0usize..4),
        pool in (1usize..5, 1usize..4, 0usize..3),
        dilation in 1usize..3,
        activation in prop_oneof![Just(None), Just(Some(UnaryKind::Relu)), Just(Some(UnaryKind::Tanh))],
        finite: bool,
    ) {
        let window = square(window.0, window.1, window.2.min(window.0 - 1));
        let window = Window2d { dilation: [dilation, 1], ..window };
        let [ic, oc] = [channels.0 * groups, channels.1 * groups];
        if let Ok(geometry) = Geometry::new(n, [input.0, input.1], ic, oc, groups, window) {
            check(geometry, square(pool.0, pool.1, pool.2.min(pool.0 / 2)), activation, finite);
        }
    }
}
