//! Strided convolutions of few channels, as those of a first layer: `stride`×`stride` pixels become one of as many times the
//! channels, and the convolution one with stride 1 and a kernel of that many pixels, whose last taps may be zero.

use crate::kernels::conv::Geometry;
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Most floats of a line of pixels that become one.
const RUN: usize = 16;
/// Taps along an axis that there are schemes for.
const TAPS: std::ops::RangeInclusive<usize> = 3..=4;
/// Floats behind the square of pixels of a tile that whole vectors may reach.
const OVERRUN: usize = 32;

/// The image and the kernel before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceToDepth {
    /// Pixels along each axis that become one.
    pub stride: usize,
    /// Taps of the kernel along each axis.
    pub kernel: usize,
    /// Height and width of an image.
    pub size: [usize; 2],
    /// Channels of an image.
    pub channels: usize,
    /// Zeros above and to the left of it.
    pub pad: [usize; 2],
}

/// The taps of a channel of the source: where the first one's weights lie, floats from one tap to the next along each
/// axis, and how many there are of them.
#[derive(Debug, Clone, Copy)]
pub struct Taps {
    pub first: usize,
    pub step: [usize; 2],
    pub count: [usize; 2],
}

impl SpaceToDepth {
    /// For this convolution, if it has a stride of 2 to 4, [`TAPS`] of that, and few channels.
    pub fn of(geometry: &Geometry) -> Option<Self> {
        let Geometry { ih, iw, ic, groups, window, .. } = *geometry;
        let ([stride, kernel], [across, wide]) =
            ([window.stride[0], window.kernel[0]], [window.stride[1], window.kernel[1]]);
        let square = across == stride && wide == kernel && groups == 1 && window.dilation == [1, 1];
        let fits = (2..=4).contains(&stride) && TAPS.contains(&kernel.div_ceil(stride)) && stride * ic <= RUN;
        let pad = window.pad.map(|pad| pad[0]);
        (square && fits).then_some(Self { stride, kernel, size: [ih, iw], channels: ic, pad })
    }

    /// Taps of the kernel along an axis afterwards.
    pub fn taps(&self) -> usize {
        self.kernel.div_ceil(self.stride)
    }

    /// Channels afterwards: `(line · stride + column) · channels + channel`.
    pub fn depth(&self) -> usize {
        self.stride * self.run()
    }

    /// Floats of an image.
    pub fn image(&self) -> usize {
        self.size[0] * self.line()
    }

    fn line(&self) -> usize {
        self.size[1] * self.channels
    }

    /// Floats of a line of pixels that become one.
    fn run(&self) -> usize {
        self.stride * self.channels
    }

    /// Floats from one pixel of a square to the next.
    pub fn pitch(&self) -> usize {
        self.depth().next_multiple_of(16)
    }

    /// Floats of a square of so many pixels along each axis.
    pub fn square_len(&self, side: usize) -> usize {
        side * side * self.pitch() + OVERRUN
    }

    /// The taps of a channel, whose weights have `results` numbers each.
    pub fn taps_of(&self, channel: usize, results: usize) -> Taps {
        let (line, rest) = (channel / self.run(), channel % self.run());
        let (column, channel) = (rest / self.channels, rest % self.channels);
        let tap = self.channels * results;
        Taps {
            first: (line * self.kernel + column) * tap + channel * results,
            step: [self.stride * self.kernel * tap, self.stride * tap],
            count: [line, column].map(|first| (self.kernel - first).div_ceil(self.stride)),
        }
    }

    /// Gathers the square of `side` pixels from `first` on, line and column, with zeros around the image.
    ///
    /// # Safety
    /// `image` is readable, `to` writable for [`square_len`](Self::square_len).
    pub unsafe fn gather(&self, isa: Isa, image: *const f32, first: [usize; 2], side: usize, to: *mut f32) {
        let at = [0, 1].map(|axis| (first[axis] * self.stride) as isize - self.pad[axis] as isize);
        let pixels = (side * self.stride) as isize;
        let end = (at[1] + pixels) * self.channels as isize + isa.lanes() as isize;
        let inside = at[0] >= 0
            && at[1] >= 0
            && at[0] + pixels <= self.size[0] as isize
            && end <= self.line() as isize;
        let (square, vectors) = (Square { of: self, image, at, side, to }, self.run().div_ceil(isa.lanes()));
        let gather = match (inside, self.stride, vectors) {
            (true, 2, 1) => gather_2,
            (true, 2, _) => gather_2_wide,
            (true, 3, 1) => gather_3,
            (true, 3, _) => gather_3_wide,
            (true, _, 1) => gather_4,
            (true, _, _) => gather_4_wide,
            (false, ..) => gather_edge,
        };
        // SAFETY: the caller's word; whole vectors stay within the lines of pixels inside the image.
        unsafe { gather(isa, &square) };
    }
}

/// Pixels to gather.
struct Square<'a> {
    of: &'a SpaceToDepth,
    image: *const f32,
    /// The first line and column of pixels before.
    at: [isize; 2],
    side: usize,
    to: *mut f32,
}

/// # Safety
/// All pixels and a vector behind those of every line are inside the image; the CPU has the level's features.
#[inline(always)]
unsafe fn inside_body<S: Simd, const STRIDE: usize, const VECTORS: usize>(square: &Square<'_>) {
    let Square { of, side, mut to, .. } = *square;
    let (run, line, pitch) = (of.run(), of.line(), of.pitch());
    let mut lines = square.image.wrapping_offset(square.at[0] * line as isize + square.at[1] * of.channels as isize);
    for _ in 0..side {
        let mut from = lines;
        for _ in 0..side {
            // What a vector writes too much is written again: by the line below, then by the next pixel.
            for y in 0..STRIDE {
                for v in 0..VECTORS {
                    let (from, to) = (from.wrapping_add(y * line), to.wrapping_add(y * run));
                    // SAFETY: the caller's word.
                    unsafe { S::store(to.wrapping_add(v * S::LANES), S::load(from.wrapping_add(v * S::LANES))) };
                }
            }
            from = from.wrapping_add(run);
            to = to.wrapping_add(pitch);
        }
        lines = lines.wrapping_add(STRIDE * line);
    }
}

/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn edge_body<S: Simd>(square: &Square<'_>) {
    let Square { of, image, at, side, to } = *square;
    let (run, line, pitch, stride) = (of.run(), of.line(), of.pitch(), of.stride as isize);
    let [height, width] = of.size.map(|size| size as isize);
    for pixel in 0..side * side {
        for y in 0..of.stride {
            let to = to.wrapping_add(pixel * pitch + y * run);
            let [row, column] = [at[0] + (pixel / side) as isize * stride + y as isize, at[1] + (pixel % side) as isize * stride];
            let (first, end) = (column.clamp(0, width), (column + stride).clamp(0, width));
            let from = image.wrapping_offset(row * line as isize + column * of.channels as isize);
            let row_inside = row >= 0 && row < height;
            for v in (0..run).step_by(S::LANES) {
                let lanes = S::LANES.min(run - v);
                let (from, to) = (from.wrapping_add(v), to.wrapping_add(v));
                // SAFETY: what is read lies inside the image, what is written inside the square.
                unsafe {
                    if row_inside && end - first == stride {
                        S::store_partial(to, S::load_partial(from, lanes), lanes);
                        continue;
                    }
                    S::store_partial(to, S::splat(0.0), lanes);
                    if row_inside {
                        let [first, end] = [first, end].map(|at| (at - column) as usize * of.channels);
                        for lane in first.max(v)..end.min(v + lanes) {
                            to.wrapping_add(lane - v).write(from.wrapping_add(lane - v).read_unaligned());
                        }
                    }
                }
            }
        }
    }
}

multiversion! {
    fn gather_2(square: &Square<'_>) = inside_body, [2, 1];
}
multiversion! {
    fn gather_2_wide(square: &Square<'_>) = inside_body, [2, 2];
}
multiversion! {
    fn gather_3(square: &Square<'_>) = inside_body, [3, 1];
}
multiversion! {
    fn gather_3_wide(square: &Square<'_>) = inside_body, [3, 2];
}
multiversion! {
    fn gather_4(square: &Square<'_>) = inside_body, [4, 1];
}
multiversion! {
    fn gather_4_wide(square: &Square<'_>) = inside_body, [4, 2];
}
multiversion! {
    fn gather_edge(square: &Square<'_>) = edge_body;
}
