use cnnrs::kernels::pool::{AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward, PoolGeometry, Winner};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::{Operand, assert_close, integers, run};

fn geometry(n: usize, input: [usize; 2], c: usize, window: Window2d, ceil: bool) -> Option<PoolGeometry> {
    let [oh, ow] = window.output(input, ceil).ok()?;
    Some(PoolGeometry { n, ih: input[0], iw: input[1], c, oh, ow, window })
}

fn square(kernel: usize, stride: usize, pad: usize, dilation: usize) -> Window2d {
    Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [dilation; 2], pad: [[pad; 2]; 2] }
}

/// The taps of output pixel (oy, ox) that lie on the input, in order.
fn taps(g: &PoolGeometry, oy: usize, ox: usize) -> Vec<(usize, usize)> {
    let on = |axis: usize, o: usize, k: usize, size: usize| {
        let at = (o * g.window.stride[axis] + k * g.window.dilation[axis]) as isize - g.window.pad[axis][0] as isize;
        (at >= 0 && (at as usize) < size).then_some(at as usize)
    };
    let mut list = Vec::new();
    for ky in 0..g.window.kernel[0] {
        for kx in 0..g.window.kernel[1] {
            if let (Some(y), Some(x)) = (on(0, oy, ky, g.ih), on(1, ox, kx, g.iw)) {
                list.push((y, x));
            }
        }
    }
    list
}

/// Calls `f(image, oy, ox, channel, output offset)` for every output element.
fn outputs(g: &PoolGeometry, mut f: impl FnMut(usize, usize, usize, usize, usize)) {
    for image in 0..g.n {
        for oy in 0..g.oh {
            for ox in 0..g.ow {
                for c in 0..g.c {
                    f(image, oy, ox, c, ((image * g.oh + oy) * g.ow + ox) * g.c + c);
                }
            }
        }
    }
}

fn at(g: &PoolGeometry, image: usize, y: usize, x: usize, c: usize) -> usize {
    ((image * g.ih + y) * g.iw + x) * g.c + c
}

/// Maxima and, for each, the position and the tap that won.
fn max_reference(g: &PoolGeometry, src: &[f32]) -> (Vec<f32>, Vec<i32>, Vec<u8>) {
    let len = g.n * g.oh * g.ow * g.c;
    let (mut dst, mut index, mut tap) = (vec![f32::NEG_INFINITY; len], vec![-1; len], vec![255; len]);
    outputs(g, |image, oy, ox, c, out| {
        for (y, x) in taps(g, oy, ox) {
            let value = src[at(g, image, y, x, c)];
            if index[out] < 0 || value > dst[out] || (value.is_nan() && !dst[out].is_nan()) {
                let number = |axis: usize, at: usize, o: usize| {
                    (at + g.window.pad[axis][0] - o * g.window.stride[axis]) / g.window.dilation[axis]
                };
                (dst[out], index[out]) = (value, (y * g.iw + x) as i32);
                tap[out] = (number(0, y, oy) * g.window.kernel[1] + number(1, x, ox)) as u8;
            }
        }
    });
    (dst, index, tap)
}

fn divisor(g: &PoolGeometry, oy: usize, ox: usize, count_include_pad: bool) -> f64 {
    if !count_include_pad {
        return taps(g, oy, ox).len() as f64;
    }
    let length = |axis: usize, o: usize, size: usize| {
        let [before, after] = g.window.pad[axis];
        let start = o * g.window.stride[axis];
        (start + g.window.kernel[axis]).min(size + before + after) - start
    };
    (length(0, oy, g.ih) * length(1, ox, g.iw)) as f64
}

fn check_max(isa: Isa, g: PoolGeometry, src: &[f32]) {
    let (inputs, len) = (g.n * g.ih * g.iw * g.c, g.n * g.oh * g.ow * g.c);
    let (want, want_index, want_tap) = max_reference(&g, src);
    let bits = |list: &[f32]| list.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>();
    let operands = [Operand::of(src), Operand::poison::<f32>(len)];
    let alone = run(&MaxPool::new(isa, g, None), &operands);
    assert_eq!(bits(&alone[1].get::<f32>()), bits(&want), "{g:?}");
    let noting = |winner: Winner, room: Operand| {
        let both = run(&MaxPool::new(isa, g, Some(winner)), &[operands[0].clone(), operands[1].clone(), room]);
        assert!(alone[1] == both[1], "with and without {winner:?}: {g:?}");
        both[2].clone()
    };
    let position = noting(Winner::Position, Operand::of(&vec![i32::MIN; len]));
    assert_eq!(position.get::<i32>(), want_index, "{g:?}");

    let diff_dst = integers(11, len);
    let mut want = vec![0.0; inputs];
    outputs(&g, |image, _, _, c, out| {
        if let Ok(flat) = usize::try_from(want_index[out]) {
            want[at(&g, image, flat / g.iw, flat % g.iw, c)] += f64::from(diff_dst[out]);
        }
    });
    let back = |winner: Winner, index: &Operand, diff_dst: &[f32]| {
        let operands = [Operand::of(diff_dst), index.clone(), Operand::poison::<f32>(inputs)];
        run(&MaxPoolBackward::new(isa, g, winner), &operands)[2].get::<f32>()
    };
    assert_close(&back(Winner::Position, &position, &diff_dst), &want, 0.0, &format!("max_pool_backward {g:?}"));

    if Winner::least(&g.window) == Winner::Position {
        return;
    }
    // By their taps the same, to the bit, for gradients that round, and for those that are no numbers.
    let tap = noting(Winner::Tap, Operand::of(&vec![77u8; len]));
    assert_eq!(tap.get::<u8>(), want_tap, "{g:?}");
    let odd = [-0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
    let rounding: Vec<f32> = diff_dst.iter().map(|x| x / 3.0 + 1e-3).collect();
    let special = rounding.iter().enumerate().map(|(i, &x)| odd.get(i % 11).copied().unwrap_or(x)).collect();
    for diff_dst in [diff_dst, rounding, special] {
        let [by_position, by_tap] =
            [(Winner::Position, &position), (Winner::Tap, &tap)].map(|(winner, index)| back(winner, index, &diff_dst));
        assert_eq!(bits(&by_tap), bits(&by_position), "{g:?}");
    }
}

fn check_avg(isa: Isa, g: PoolGeometry, src: &[f32], count_include_pad: bool) {
    let (inputs, len) = (g.n * g.ih * g.iw * g.c, g.n * g.oh * g.ow * g.c);
    let diff_dst = integers(12, len);
    let (mut want, mut want_diff) = (vec![0.0; len], vec![0.0; inputs]);
    outputs(&g, |image, oy, ox, c, out| {
        let divisor = divisor(&g, oy, ox, count_include_pad);
        for (y, x) in taps(&g, oy, ox) {
            want[out] += f64::from(src[at(&g, image, y, x, c)]) / divisor;
            want_diff[at(&g, image, y, x, c)] += f64::from(diff_dst[out]) / divisor;
        }
    });
    let dst = run(&AvgPool::new(isa, g, count_include_pad), &[Operand::of(src), Operand::poison::<f32>(len)]);
    assert_close(&dst[1].get::<f32>(), &want, 2e-6, &format!("avg_pool {g:?}"));
    let backward = AvgPoolBackward::new(isa, g, count_include_pad);
    let diff_src = run(&backward, &[Operand::of(&diff_dst), Operand::poison::<f32>(inputs)]);
    assert_close(&diff_src[1].get::<f32>(), &want_diff, 1e-5, &format!("avg_pool_backward {g:?}"));
}

fn any_geometry(dilations: std::ops::Range<usize>) -> impl Strategy<Value = PoolGeometry> {
    let axis = (1usize..5, 1usize..4, dilations, 0usize..3, 0usize..3);
    (0usize..4, [0usize..12, 0usize..12], 0usize..40, axis.clone(), axis, any::<bool>()).prop_filter_map(
        "the window exceeds the padded input",
        |(n, input, c, (kh, sh, dh, ph, qh), (kw, sw, dw, pw, qw), ceil)| {
            let window = Window2d {
                kernel: [kh, kw],
                stride: [sh, sw],
                dilation: [dh, dw],
                pad: [[ph.min(kh / 2), qh.min(kh / 2)], [pw.min(kw / 2), qw.min(kw / 2)]],
            };
            geometry(n, input, c, window, ceil)
        },
    )
}

proptest! {
    #[test]
    fn max_pooling(g in any_geometry(1..4), seed: u64, nans: bool) {
        let mut src = integers(seed, g.n * g.ih * g.iw * g.c);
        if nans {
            for (i, x) in src.iter_mut().enumerate() {
                *x = match (i * 31 + seed as usize % 97) % 13 { 0 => f32::NAN, 1 => f32::NEG_INFINITY, 2 => f32::INFINITY, _ => *x };
            }
        }
        for isa in Isa::available() {
            check_max(isa, g, &src);
        }
    }

    #[test]
    fn average_pooling(g in any_geometry(1..2), seed: u64, count_include_pad: bool) {
        let src = integers(seed, g.n * g.ih * g.iw * g.c);
        for isa in Isa::available() {
            check_avg(isa, g, &src, count_include_pad);
        }
    }
}

/// Layers of known networks: several tasks each, whole and ragged vectors.
#[test]
fn layers_of_networks() {
    for (n, size, c, window, ceil) in [
        (9, 28, 6, square(2, 2, 0, 1), false),
        (9, 10, 16, square(2, 2, 0, 1), false),
        (1, 56, 24, square(3, 2, 1, 1), false),
        (1, 27, 33, square(3, 2, 0, 1), true),
        (2, 7, 50, square(7, 7, 0, 1), false),
        (1, 55, 64, square(3, 2, 0, 1), false),
        (1, 28, 64, square(2, 2, 0, 1), false),
    ] {
        let g = geometry(n, [size; 2], c, window, ceil).unwrap();
        let src = integers(13, g.n * g.ih * g.iw * g.c);
        for isa in Isa::available() {
            check_max(isa, g, &src);
            check_avg(isa, g, &src, false);
            check_avg(isa, g, &src, true);
        }
    }
}

#[test]
fn windows_side_by_side_of_any_channels() {
    for (c, size) in (1..=17).flat_map(|c| (2..=9).map(move |size| (c, size))) {
        let g = geometry(2, [size, 11 - size], c, square(2, 2, 0, 1), false).unwrap();
        for isa in Isa::available() {
            check_avg(isa, g, &integers(5, 2 * g.ih * g.iw * c), true);
        }
    }
}

#[test]
fn a_window_on_padding_alone_gives_minus_infinity_and_no_index() {
    // Taps at −1 and 4 of a line of four.
    let window = Window2d { kernel: [1, 2], stride: [1, 1], dilation: [1, 5], pad: [[0, 0], [1, 1]] };
    let g = geometry(1, [1, 4], 3, window, false).unwrap();
    assert_eq!((g.oh, g.ow), (1, 1));
    for isa in Isa::available() {
        let [src, dst] = [Operand::of(&[1.0f32; 12]), Operand::poison::<f32>(3)];
        let operands = [src.clone(), dst.clone(), Operand::poison::<i32>(3)];
        let results = run(&MaxPool::new(isa, g, Some(Winner::Position)), &operands);
        assert_eq!((results[1].get(), results[2].get()), (vec![f32::NEG_INFINITY; 3], vec![-1i32; 3]));
        let results = run(&MaxPool::new(isa, g, Some(Winner::Tap)), &[src, dst, Operand::of(&[0u8; 3])]);
        assert_eq!((results[1].get(), results[2].get()), (vec![f32::NEG_INFINITY; 3], vec![255u8; 3]));
        check_max(isa, g, &[1.0; 12]);
    }
}

/// Up to 255 taps a byte tells the winner, from 256 on a position does; the last tap wins as well as the first.
#[test]
fn windows_of_as_many_taps_as_a_byte_tells_and_more() {
    for (kernel, winner) in [([15, 17], Winner::Tap), ([1, 255], Winner::Tap), ([16, 16], Winner::Position)] {
        for (stride, dilation, pad) in
            [([1, 1], [1, 1], [0, 0]), ([2, 3], [1, 1], kernel.map(|k| k / 2)), ([3, 2], [2, 1], [7, 0])]
        {
            let pad = [0, 1].map(|axis| [pad[axis].min(kernel[axis] / 2); 2]);
            let window = Window2d { kernel, stride, dilation, pad };
            assert_eq!(Winner::least(&window), winner);
            let input = [0, 1].map(|axis| window.extent(axis) + 2);
            let g = geometry(1, input, 5, window, true).unwrap();
            let few = integers(3, g.ih * g.iw * g.c);
            let rising: Vec<f32> = (0..few.len()).map(|i| i as f32).collect();
            let falling: Vec<f32> = rising.iter().map(|x| -x).collect();
            for isa in Isa::available() {
                for src in [&few, &rising, &falling] {
                    check_max(isa, g, src);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "too many taps: [16, 16]")]
fn a_byte_for_more_taps_than_it_tells_is_refused() {
    let g = geometry(1, [16, 16], 1, square(16, 1, 0, 1), false).unwrap();
    MaxPool::new(Isa::Portable, g, Some(Winner::Tap));
}

#[test]
fn huge_windows_over_small_inputs_cost_nothing() {
    let half = 1 << 30;
    let window = Window2d { kernel: [2 * half; 2], stride: [1; 2], dilation: [1; 2], pad: [[half; 2]; 2] };
    let g = PoolGeometry { n: 1, ih: 2, iw: 2, c: 1, oh: 3, ow: 3, window };
    for isa in Isa::available() {
        let src = [1.0f32, 2.0, 3.0, 6.0];
        let results = run(&MaxPool::new(isa, g, None), &[Operand::of(&src), Operand::poison::<f32>(9)]);
        assert_eq!(results[1].get::<f32>()[4], 6.0);
        let results = run(&AvgPool::new(isa, g, false), &[Operand::of(&src), Operand::poison::<f32>(9)]);
        assert_eq!(results[1].get::<f32>()[4], 3.0);
    }
}
