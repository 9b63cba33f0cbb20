use cnnrs::kernels::strided::{Axis, StridedCopy};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, run};

/// Different numbers everywhere, so that any misplaced element shows.
fn numbered(len: usize) -> Vec<f32> {
    (0..len).map(|i| i as f32 + 0.5).collect()
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

/// Every index of a shape, in NumPy's order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let place = |flat: usize| strides(shape).iter().zip(shape).map(|(stride, size)| flat / stride % size).collect();
    (0..shape.iter().product()).map(place).collect()
}

fn at(index: &[usize], strides: &[usize]) -> usize {
    index.iter().zip(strides).map(|(i, stride)| i * stride).sum()
}

/// The kernel on every level.
fn copy(axes: &[Axis], src_first: usize, dst_first: usize, fill: f32, src: &[f32], dst: usize) -> Vec<f32> {
    let mut results = Isa::available().into_iter().map(|isa| {
        let kernel = StridedCopy::new(isa, axes, src_first, dst_first, fill);
        run(&kernel, &[Operand::of(src), Operand::poison::<f32>(dst)])[1].get::<f32>()
    });
    let first = results.next().unwrap();
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(results.all(|other| bits(&other) == bits(&first)));
    first
}

fn permuted(shape: &[usize], axes: &[usize]) -> Vec<f32> {
    let sizes: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let (src, dst) = (strides(shape), strides(&sizes));
    let parts: Vec<Axis> =
        axes.iter().enumerate().map(|(i, &axis)| Axis::dense(sizes[i], dst[i], src[axis] as isize)).collect();
    let len = shape.iter().product();
    copy(&parts, 0, 0, 0.0, &numbered(len), len)
}

fn permutation(rank: usize) -> impl Strategy<Value = Vec<usize>> {
    Just((0..rank).collect::<Vec<_>>()).prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn transposed((shape, axes) in (1usize..6).prop_flat_map(|rank| {
        (prop::collection::vec(prop_oneof![Just(1usize), 0usize..4, 5usize..19], rank), permutation(rank))
    })) {
        let sizes: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
        let src = strides(&shape);
        let moved: Vec<usize> = axes.iter().map(|&axis| src[axis]).collect();
        let want: Vec<f32> = indices(&sizes).iter().map(|index| at(index, &moved) as f32 + 0.5).collect();
        prop_assert_eq!(permuted(&shape, &axes), want);
    }

    /// A part of a larger tensor, forwards, backwards or one element repeated along each axis, into a part of another.
    #[test]
    fn from_box_to_box(
        axes in prop::collection::vec((0usize..6, -3isize..4, 0usize..3, 0usize..3), 1..5),
        margins in (0usize..9, 0usize..9),
    ) {
        // Along each axis: elements, step in the source (0 repeats), free elements before and behind in the result.
        let src_shape: Vec<usize> = axes.iter().map(|&(size, step, ..)| size.max(1) * step.unsigned_abs().max(1)).collect();
        let dst_shape: Vec<usize> = axes.iter().map(|&(size, _, before, after)| before + size + after).collect();
        let (src, dst) = (strides(&src_shape), strides(&dst_shape));
        let (mut src_first, mut dst_first) = margins;
        let mut parts = Vec::new();
        for (axis, &(size, step, before, _)) in axes.iter().enumerate() {
            parts.push(Axis::dense(size, dst[axis], step * src[axis] as isize));
            src_first += if step < 0 { (src_shape[axis] - 1) * src[axis] } else { 0 };
            dst_first += before * dst[axis];
        }
        let src_len = src_shape.iter().product::<usize>() + margins.0;
        let dst_len = dst_shape.iter().product::<usize>() + margins.1;
        let got = copy(&parts, src_first, dst_first, 0.0, &numbered(src_len), dst_len);
        let mut want = vec![f32::from_bits(u32::MAX); dst_len];
        let sizes: Vec<usize> = axes.iter().map(|&(size, ..)| size).collect();
        for index in indices(&sizes) {
            let from = index.iter().zip(&parts).map(|(&i, part)| i as isize * part.src_stride).sum::<isize>();
            want[dst_first + at(&index, &dst)] = (src_first as isize + from) as f32 + 0.5;
        }
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&got), bits(&want));
    }

    /// Elements of the source at `first, first + step, …` of each axis, the fill value everywhere else.
    #[test]
    fn between_filled_elements(
        axes in prop::collection::vec((0usize..5, 1usize..4, 0usize..4, 0usize..4, any::<bool>()), 1..5),
        wide in any::<bool>(),
    ) {
        let mut axes = axes;
        if wide {
            // Rows that are cut into several parts.
            axes.truncate(1);
            axes.push((3000, 3, 700, 9000, false));
        }
        let src_shape: Vec<usize> = axes.iter().map(|&(count, ..)| count).collect();
        let dst_shape: Vec<usize> =
            axes.iter().map(|&(count, step, first, after, _)| first + (count.max(1) - 1) * step + 1 + after).collect();
        let (src, dst) = (strides(&src_shape), strides(&dst_shape));
        let (mut src_first, mut parts) = (0, Vec::new());
        for (axis, &(count, step, first, _, back)) in axes.iter().enumerate() {
            let stride = src[axis] as isize;
            src_first += if back { count.saturating_sub(1) * src[axis] } else { 0 };
            let src_stride = if back { -stride } else { stride };
            parts.push(Axis { size: dst_shape[axis], dst_stride: dst[axis], first, step, count, src_stride });
        }
        let (src_len, dst_len) = (src_shape.iter().product(), dst_shape.iter().product());
        let got = copy(&parts, src_first, 0, -7.0, &numbered(src_len), dst_len);
        let mut want = vec![-7.0; dst_len];
        for index in indices(&src_shape) {
            let to = index.iter().zip(&parts).map(|(&i, part)| (part.first + i * part.step) * part.dst_stride).sum::<usize>();
            let from = index.iter().zip(&parts).map(|(&i, part)| i as isize * part.src_stride).sum::<isize>();
            want[to] = (src_first as isize + from) as f32 + 0.5;
        }
        prop_assert_eq!(got, want);
    }
}

#[test]
fn large_transpositions_of_several_tasks() {
    // Whole squares, ragged ones, lines that compete for the cache, few rows or few columns.
    for (rows, columns) in [(64, 64), (70, 33), (1024, 40), (33, 2048), (3, 5000), (5000, 3), (1500, 1300)] {
        let got = permuted(&[2, rows, columns], &[0, 2, 1]);
        let image = rows * columns;
        let place = |i: usize| i / image * image + i % rows * columns + i % image / rows;
        assert!(got.iter().enumerate().all(|(i, &x)| x == place(i) as f32 + 0.5), "{rows} x {columns}");
    }
}

#[test]
fn bits_stay_as_they_are() {
    // A signalling NaN, a NaN with a payload, a denormal number, a negative zero: by rows, single and in squares.
    let odd = [0x7FA0_0001, 0xFFC1_2345, 0x0000_0001, 0x8000_0000].map(f32::from_bits);
    let src: Vec<f32> = odd.iter().copied().cycle().take(64).collect();
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let lines = copy(&[Axis::dense(64, 1, 1)], 0, 0, 0.0, &src, 64);
    assert_eq!(bits(&lines), bits(&src));
    let back = copy(&[Axis::dense(64, 1, -1)], 63, 0, 0.0, &src, 64);
    assert_eq!(bits(&back), bits(&src.iter().copied().rev().collect::<Vec<_>>()));
    let once = copy(&[Axis::dense(8, 8, 1), Axis::dense(8, 1, 8)], 0, 0, 0.0, &src, 64);
    let twice = copy(&[Axis::dense(8, 8, 1), Axis::dense(8, 1, 8)], 0, 0, 0.0, &once, 64);
    assert_eq!(bits(&twice), bits(&src));
}
