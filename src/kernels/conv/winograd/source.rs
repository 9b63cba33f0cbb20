//! Tiles of pixels into positions.

use super::transform::{IN, ResultTransposed, SMALL, STRIDED, Source, Transform};
use super::{Kind, Scheme, Task, Tile};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use std::hint::black_box;

/// Where positions go. A position's channels are cut into panels: tile `t`, position `q`, channel `c` of a panel `p` lie at
/// `q·plane + p·panel + t·pitch + c`.
#[derive(Debug, Clone, Copy)]
pub struct Positions {
    /// Floats from one tile to the next.
    pub pitch: usize,
    /// Floats from one position to the next.
    pub plane: usize,
    /// Channels of a panel.
    width: usize,
    /// Floats from one panel to the next.
    panel: usize,
    /// How many positions there are.
    count: usize,
}

impl Positions {
    /// Room for `count` positions of `tiles` tiles of `channels` channels, all in one panel. Rows and planes do not start
    /// at the same place of the cache.
    pub fn new(count: usize, tiles: usize, channels: usize) -> Self {
        let pitch = channels.next_multiple_of(16);
        let pitch = if pitch.is_multiple_of(256) { pitch + 16 } else { pitch };
        Self { pitch, plane: tiles * pitch + 16, width: pitch, panel: pitch, count }
    }

    /// The same in panels of `width` channels, each of which is one stretch of memory.
    pub fn in_panels(count: usize, tiles: usize, channels: usize, width: usize) -> Self {
        let panel = tiles * width;
        Self { pitch: width, plane: channels.div_ceil(width) * panel + 16, width, panel, count }
    }

    /// Floats of all positions.
    pub fn floats(&self) -> usize {
        self.count * self.plane
    }

    /// Floats from a tile's place to that of a channel.
    #[inline(always)]
    pub fn channel(&self, channel: usize) -> usize {
        channel / self.width * self.panel + channel % self.width
    }
}

/// The source pixels of one tile.
struct Square {
    /// The first pixel of each row, which need not be inside the image; rows outside are zeros.
    rows: [*const f32; IN],
    /// From the first column inside the image to the one behind the last.
    columns: [usize; 2],
    /// Pixels that are soon wanted: the first of a square.
    ahead: *const f32,
    /// Floats from one pixel to the next, and from one line of the image to the next.
    pitch: [usize; 2],
    channels: usize,
}

/// # Safety
/// Every row is readable for the channels of the columns inside, and every position writable for them rounded up to whole
/// vectors.
#[inline(always)]
unsafe fn transform_body<S: Simd, T: Transform<FROM, TO>, const FROM: usize, const TO: usize, const STEP: usize>(
    square: &Square,
    to: *mut f32,
    places: &Positions,
) {
    // SAFETY: the caller's word.
    unsafe {
        let (mut to, mut left) = (to, places.width);
        for c in (0..square.channels).step_by(S::LANES) {
            // Strides that the compiler knew would make it keep an address per pixel and position, on the stack.
            let [pixel, line, plane] = black_box([square.pitch[0], square.pitch[1], places.plane]);
            for y in 0..STEP {
                for x in 0..STEP {
                    S::prefetch(square.ahead.wrapping_add(c + y * line + x * pixel));
                }
            }
            left -= S::LANES;
            let mut step = S::LANES;
            if left == 0 {
                (step, left) = (places.panel + S::LANES - places.width, places.width);
            }
            half::<S, T, FROM, TO, 0>(square, c, pixel, to, plane, step);
            half::<S, T, FROM, TO, 1>(square, c, pixel, to, plane, step);
            to = to.wrapping_add(step);
        }
    }
}

/// The upper or lower half of the positions of a vector of channels: few enough values for the registers.
///
/// # Safety
/// As [`transform_body`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn half<S: Simd, T: Transform<FROM, TO>, const FROM: usize, const TO: usize, const HALF: usize>(
    square: &Square,
    c: usize,
    pixel: usize,
    to: *mut f32,
    plane: usize,
    step: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let zero = S::splat(0.0);
        let lanes = square.channels - c;
        let (first, end) = (HALF * TO / 2, (HALF + 1) * TO / 2);
        let mut values = [[zero; FROM]; IN / 2];
        for x in 0..FROM {
            let mut column = [zero; FROM];
            if x >= square.columns[0] && x < square.columns[1] {
                let at = c + x * pixel;
                if lanes >= S::LANES {
                    for y in 0..FROM {
                        column[y] = S::load(square.rows[y].wrapping_add(at));
                    }
                } else {
                    for y in 0..FROM {
                        column[y] = S::load_partial(square.rows[y].wrapping_add(at), lanes);
                    }
                }
            }
            let column = T::apply::<S>(column);
            for y in 0..end - first {
                values[y][x] = column[first + y];
            }
        }
        for y in 0..end - first {
            let row = T::apply::<S>(values[y]);
            let to = to.wrapping_add((first + y) * TO * plane);
            for x in 0..TO {
                let position = to.wrapping_add(x * plane);
                S::store(position, row[x]);
                // Positions live in the second-level cache: the next line is wanted before it is written.
                S::prefetch(position.wrapping_add(step));
            }
        }
    }
}

multiversion! {
    /// Transforms the source pixels of one tile of 4×4 results.
    fn source_4(square: &Square, to: *mut f32, places: &Positions) = transform_body, [Source, IN, IN, 4];
}
multiversion! {
    /// The same of 2×2 results under a kernel of 5×5.
    fn source_2(square: &Square, to: *mut f32, places: &Positions) = transform_body, [Source, IN, IN, 2];
}
multiversion! {
    /// The same of 3×3 results under a kernel of 4×4.
    fn source_3(square: &Square, to: *mut f32, places: &Positions) = transform_body, [Source, IN, IN, 3];
}
multiversion! {
    /// The same of 2×2 results under a kernel of 3×3.
    fn source_small(square: &Square, to: *mut f32, places: &Positions) = transform_body, [Source, SMALL, SMALL, 2];
}
multiversion! {
    /// The same with stride 2.
    fn source_strided(square: &Square, to: *mut f32, places: &Positions) = transform_body, [Source, STRIDED, STRIDED, 4];
}
multiversion! {
    /// The same of the gradients by the results with stride 2.
    fn source_strided_back(square: &Square, to: *mut f32, places: &Positions) = transform_body, [Source, 3, STRIDED, 2];
}
multiversion! {
    /// Transforms the gradients by the 4×4 results of one tile.
    fn gradient_4(square: &Square, to: *mut f32, places: &Positions) = transform_body, [ResultTransposed, 4, IN, 4];
}
multiversion! {
    /// The same by 3×3 results.
    fn gradient_3(square: &Square, to: *mut f32, places: &Positions) = transform_body, [ResultTransposed, 3, IN, 3];
}
multiversion! {
    /// The same by 2×2 results.
    fn gradient_2(square: &Square, to: *mut f32, places: &Positions) = transform_body, [ResultTransposed, 2, IN, 2];
}
multiversion! {
    /// The same by 2×2 results with stride 2.
    fn gradient_strided(square: &Square, to: *mut f32, places: &Positions) = transform_body, [ResultTransposed, 2, STRIDED, 2];
}

impl Square {
    /// The square of `side` pixels from `first` on, row and column, of an image of `size` pixels at `image`.
    fn new(
        side: usize,
        image: *const f32,
        size: [usize; 2],
        channels: usize,
        first: [isize; 2],
        zeros: *const f32,
    ) -> Self {
        let inside = |axis: usize| {
            let until = |at: isize| (at - first[axis]).clamp(0, side as isize) as usize;
            [until(0), until(size[axis] as isize)]
        };
        let ([above, below], columns) = (inside(0), inside(1));
        let pitch = [channels, size[1] * channels];
        let start = image.wrapping_offset(first[0] * pitch[1] as isize + first[1] * channels as isize);
        let mut rows = [zeros; IN];
        for (y, row) in rows.iter_mut().enumerate().take(below).skip(above) {
            *row = start.wrapping_add(y * pitch[1]);
        }
        Self { rows, columns, ahead: start, pitch, channels }
    }

    /// The square of `side` pixels from `first` on, all of which are there: floats from one to the next and from line to line.
    fn gathered(side: usize, first: *const f32, pitch: [usize; 2], channels: usize) -> Self {
        let mut rows = [first; IN];
        for (y, row) in rows.iter_mut().enumerate().take(side) {
            *row = first.wrapping_add(y * pitch[1]);
        }
        Self { rows, columns: [0, side], ahead: first, pitch, channels }
    }

    /// The same, asking for the pixels from `first` on, row and column, of `image`.
    fn asking(self, image: *const f32, first: [isize; 2]) -> Self {
        let at = first[0] * self.pitch[1] as isize + first[1] * self.pitch[0] as isize;
        Self { ahead: image.wrapping_offset(at), ..self }
    }
}

/// Tiles whose pixels are gathered at a time.
const STRIP: usize = 12;

/// Floats that the transforms of a tile of a task want: zeros, then room for pixels that are gathered.
pub fn spare_len(task: &Task) -> usize {
    zeros_len(task) + task.space_to_depth.map_or(0, |image| image.room(strip_of(task, STRIP)))
}

/// Lines and columns of the source under so many tiles side by side.
fn strip_of(task: &Task, tiles: usize) -> [usize; 2] {
    let Scheme { side, step, .. } = task.scheme;
    [side, side + (tiles - 1) * step]
}

/// As many zeros as a row of a tile has floats.
fn zeros_len(task: &Task) -> usize {
    (task.scheme.side * task.sc).max(task.scheme.out * task.dc).next_multiple_of(16)
}

/// Transforms the source pixels of `count` tiles to `to`, the place of the first tile's first position.
///
/// # Safety
/// `src` is the whole source of `task`, `spare` was zero before the first tile ([`spare_len`]); the positions are writable.
pub unsafe fn transform_source(
    isa: Isa,
    task: &Task,
    (first, count): (Tile, usize),
    src: *const f32,
    spare: *mut f32,
    to: *mut f32,
    places: &Positions,
) {
    let scheme = task.scheme;
    let transform = match scheme.kind {
        Kind::F4 => source_4,
        Kind::F2 => source_small,
        Kind::F2K5 => source_2,
        Kind::F3K4 => source_3,
        Kind::Strided => source_strided,
        Kind::StridedBack => source_strided_back,
    };
    let at = |tile: Tile| {
        let [y, x] = task.source_of(tile);
        [y as isize - task.pad[0] as isize, x as isize - task.pad[1] as isize]
    };
    let image = |tile: Tile| src.wrapping_add(tile.image * task.image_len());
    let (mut tile, mut row) = (first, 0);
    while row < count {
        // SAFETY: the caller's word.
        unsafe {
            let to = to.wrapping_add(row * places.pitch);
            if let Some(pixels) = &task.space_to_depth {
                let strip = STRIP.min(count - row).min((task.dw - tile.x).div_ceil(scheme.out));
                let gathered = spare.wrapping_add(zeros_len(task));
                let size = strip_of(task, strip);
                pixels.gather(isa, image(tile), task.source_of(tile), size, gathered);
                for number in 0..strip {
                    let first = gathered.wrapping_add(number * scheme.step * pixels.pitch());
                    let square =
                        Square::gathered(scheme.side, first, [pixels.pitch(), size[1] * pixels.pitch()], task.sc);
                    transform(isa, &square, to.wrapping_add(number * places.pitch), places);
                    tile = task.next(tile);
                }
                row += strip;
            } else {
                let next = task.next(tile);
                // Of the next, what this one and the tiles above do not read.
                let ahead = at(next).map(|at| at + (scheme.side - scheme.step) as isize);
                let square = Square::new(scheme.side, image(tile), [task.sh, task.sw], task.sc, at(tile), spare)
                    .asking(image(next), ahead);
                transform(isa, &square, to, places);
                (tile, row) = (next, row + 1);
            }
        }
    }
}

/// Transforms the gradients by the results of a tile to `to`, the place of its first position, and asks for those of the
/// `next`.
///
/// # Safety
/// `diff_dst` is the whole gradient by the results of `task`, `spare` was zero before the first tile ([`spare_len`]); the
/// positions are writable.
pub unsafe fn transform_gradient(
    isa: Isa,
    task: &Task,
    [tile, next]: [Tile; 2],
    diff_dst: *const f32,
    spare: *const f32,
    to: *mut f32,
    places: &Positions,
) {
    let first = |tile: Tile| [tile.y as isize, tile.x as isize];
    let (size, image) = ([task.dh, task.dw], task.dh * task.dw * task.dc);
    let square =
        Square::new(task.scheme.out, diff_dst.wrapping_add(tile.image * image), size, task.dc, first(tile), spare)
            .asking(diff_dst.wrapping_add(next.image * image), first(next));
    let gradient = match task.scheme.kind {
        Kind::F4 => gradient_4,
        Kind::F3K4 => gradient_3,
        Kind::Strided => gradient_strided,
        _ => gradient_2,
    };
    // SAFETY: the caller's word.
    unsafe { gradient(isa, &square, to, places) };
}
