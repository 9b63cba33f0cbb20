//! Strided convolutions of few channels, as those of a first layer: `stride`×`stride` pixels become one of as many times the
//! channels, and the convolution one with stride 1 and a kernel of that many pixels, whose last taps may be zero.

use crate::kernels::conv::Geometry;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use std::ops::Range;

/// Most floats of a line of pixels that become one.
const RUN: usize = 16;
/// Taps along an axis that there are schemes for.
const TAPS: std::ops::RangeInclusive<usize> = 3..=4;
/// Floats behind gathered pixels that whole vectors may reach.
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

    /// Floats of so many lines and columns of pixels.
    pub fn room(&self, size: [usize; 2]) -> usize {
        size[0] * size[1] * self.pitch() + OVERRUN
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

    /// Gathers `size` lines and columns of pixels, the first of which is `first`, with zeros around the image.
    ///
    /// # Safety
    /// `image` is readable, `to` writable for their [`room`](Self::room).
    pub unsafe fn gather(&self, isa: Isa, image: *const f32, first: [usize; 2], size: [usize; 2], to: *mut f32) {
        let (run, line, stride) = (self.run(), self.line(), self.stride as isize);
        let at = [0, 1].map(|axis| (first[axis] * self.stride) as isize - self.pad[axis] as isize);
        let vectors = run.div_ceil(isa.lanes());
        // Pixels that lie inside the image as far as whole vectors reach.
        let before = (-at[1]).max(0) as usize / self.stride + usize::from(at[1] < 0 && at[1] % stride != 0);
        let start = at[1] * self.channels as isize + (vectors * isa.lanes()) as isize;
        let end = ((line as isize - start).max(-1) + run as isize) as usize / run;
        let before = before.min(size[1]);
        let inside = before..end.clamp(before, size[1]);
        let gather = match (self.stride, vectors) {
            (2, 1) => gather_2,
            (2, _) => gather_2_wide,
            (3, 1) => gather_3,
            (3, _) => gather_3_wide,
            (_, 1) => gather_4,
            _ => gather_4_wide,
        };
        for y in 0..size[0] {
            let row = at[0] + y as isize * stride;
            let to = to.wrapping_add(y * size[1] * self.pitch());
            let edge = |pixels: Range<usize>| {
                for x in pixels {
                    let pixel = Pixels { of: self, image, at: [row, at[1] + x as isize * stride], count: 1 };
                    // SAFETY: the caller's word.
                    unsafe { gather_edge(isa, &pixel, to.wrapping_add(x * self.pitch())) };
                }
            };
            if row < 0 || row + stride > self.size[0] as isize {
                edge(0..size[1]);
                continue;
            }
            edge(0..inside.start);
            let column = at[1] + inside.start as isize * stride;
            let pixels = Pixels { of: self, image, at: [row, column], count: inside.len() };
            // SAFETY: the caller's word; what vectors write too much is written again, by pixels behind.
            unsafe { gather(isa, &pixels, to.wrapping_add(inside.start * self.pitch())) };
            edge(inside.end..size[1]);
        }
    }
}

/// Pixels of a line to gather.
struct Pixels<'a> {
    of: &'a SpaceToDepth,
    image: *const f32,
    /// The first line and column of pixels before.
    at: [isize; 2],
    count: usize,
}

/// # Safety
/// The pixels and as many whole vectors lie inside the lines of the image; `to` is writable for the pixels and whole
/// vectors behind; the CPU has the level's features.
#[inline(always)]
unsafe fn inside_body<S: Simd, const STRIDE: usize, const VECTORS: usize>(pixels: &Pixels<'_>, to: *mut f32) {
    let Pixels { of, at, .. } = *pixels;
    let (run, line, pitch) = (of.run(), of.line(), of.pitch());
    let (mut from, mut to) = (pixels.image.wrapping_offset(at[0] * line as isize + at[1] * of.channels as isize), to);
    for _ in 0..pixels.count {
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
}

/// One pixel, which may lie partly outside the image.
///
/// # Safety
/// `to` is writable for the pixel; the CPU has the level's features.
#[inline(always)]
unsafe fn edge_body<S: Simd>(pixel: &Pixels<'_>, to: *mut f32) {
    let Pixels { of, image, at: [row, column], .. } = *pixel;
    let (run, line) = (of.run(), of.line());
    let [height, width] = of.size.map(|size| size as isize);
    // Columns of the pixel that lie inside the image.
    let stride = of.stride as isize;
    let [first, end] = [-column, width - column].map(|at| at.clamp(0, stride) as usize * of.channels);
    for y in 0..of.stride {
        let (row, to) = (row + y as isize, to.wrapping_add(y * run));
        let from = image.wrapping_offset(row * line as isize + column * of.channels as isize);
        let (first, end) = if row >= 0 && row < height { (first, end) } else { (0, 0) };
        for v in (0..run).step_by(S::LANES) {
            let lanes = S::LANES.min(run - v);
            let (from, to) = (from.wrapping_add(v), to.wrapping_add(v));
            // SAFETY: what is read lies inside the image, what is written inside the pixel.
            unsafe {
                if end - first == run {
                    S::store_partial(to, S::load_partial(from, lanes), lanes);
                    continue;
                }
                S::store_partial(to, S::splat(0.0), lanes);
                for lane in first.max(v)..end.min(v + lanes) {
                    to.wrapping_add(lane - v).write(from.wrapping_add(lane - v).read_unaligned());
                }
            }
        }
    }
}

multiversion! {
    fn gather_2(pixels: &Pixels<'_>, to: *mut f32) = inside_body, [2, 1];
}
multiversion! {
    fn gather_2_wide(pixels: &Pixels<'_>, to: *mut f32) = inside_body, [2, 2];
}
multiversion! {
    fn gather_3(pixels: &Pixels<'_>, to: *mut f32) = inside_body, [3, 1];
}
multiversion! {
    fn gather_3_wide(pixels: &Pixels<'_>, to: *mut f32) = inside_body, [3, 2];
}
multiversion! {
    fn gather_4(pixels: &Pixels<'_>, to: *mut f32) = inside_body, [4, 1];
}
multiversion! {
    fn gather_4_wide(pixels: &Pixels<'_>, to: *mut f32) = inside_body, [4, 2];
}
multiversion! {
    fn gather_edge(pixels: &Pixels<'_>, to: *mut f32) = edge_body;
}
