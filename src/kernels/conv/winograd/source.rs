//! Tiles of pixels into positions.

use super::transform::{IN, POSITIONS, ResultTransposed, SMALL, Source, Transform, square};
use super::{Task, Tile};
use crate::simd::{Simd, dispatch::multiversion};

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
        Self { pitch, plane: tiles * pitch + 16, width: pitch, panel: 0, count }
    }

    /// All [`POSITIONS`] in panels of `width` channels, each of which is one stretch of memory.
    pub fn in_panels(tiles: usize, channels: usize, width: usize) -> Self {
        let panel = tiles * width;
        Self { pitch: width, plane: channels.div_ceil(width) * panel + 16, width, panel, count: POSITIONS }
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

/// Pixels of one tile, by row and column; those outside the image point at zeros.
type Pixels = [[*const f32; IN]; IN];

/// # Safety
/// Every pixel is readable for `channels` floats, and every position writable for them rounded up to whole vectors.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn transform_body<S: Simd, T: Transform<FROM, TO>, const FROM: usize, const TO: usize, const OUT: usize>(
    pixels: &Pixels,
    ahead: &Pixels,
    channels: usize,
    to: *mut f32,
    places: &Positions,
) {
    // SAFETY: the caller's word.
    unsafe {
        for c in (0..channels).step_by(S::LANES) {
            let lanes = S::LANES.min(channels - c);
            let zero = S::splat(0.0);
            let mut values = [[zero; FROM]; FROM];
            for y in 0..FROM {
                for x in 0..FROM {
                    let at = pixels[y][x].wrapping_add(c);
                    values[y][x] = if lanes == S::LANES { S::load(at) } else { S::load_partial(at, lanes) };
                }
            }
            for y in 0..OUT {
                for x in 0..OUT {
                    S::prefetch(ahead[y][x].wrapping_add(c));
                }
            }
            let values = square::<S, T, FROM, TO>(values);
            let (here, next) = (places.channel(c), places.channel(c + S::LANES));
            for y in 0..TO {
                for x in 0..TO {
                    let position = to.wrapping_add((y * TO + x) * places.plane);
                    S::store(position.wrapping_add(here), values[y][x]);
                    // Positions live in the second-level cache: the next line is wanted before it is written.
                    S::prefetch(position.wrapping_add(next));
                }
            }
        }
    }
}

/// # Safety
/// As [`transform_body`].
#[inline(always)]
unsafe fn source_body<S: Simd, const SIDE: usize, const OUT: usize>(
    pixels: &Pixels,
    ahead: &Pixels,
    channels: usize,
    to: *mut f32,
    places: &Positions,
) where
    Source: Transform<SIDE, SIDE>,
{
    // SAFETY: the caller's word.
    unsafe { transform_body::<S, Source, SIDE, SIDE, OUT>(pixels, ahead, channels, to, places) }
}

/// # Safety
/// As [`transform_body`].
#[inline(always)]
unsafe fn gradient_body<S: Simd, const OUT: usize>(
    pixels: &Pixels,
    ahead: &Pixels,
    channels: usize,
    to: *mut f32,
    places: &Positions,
) where
    ResultTransposed: Transform<OUT, IN>,
{
    // SAFETY: the caller's word.
    unsafe { transform_body::<S, ResultTransposed, OUT, IN, OUT>(pixels, ahead, channels, to, places) }
}

multiversion! {
    /// Transforms the source pixels of one tile of 4×4 results.
    fn source_4(pixels: &Pixels, ahead: &Pixels, channels: usize, to: *mut f32, places: &Positions) = source_body, [IN, 4];
}
multiversion! {
    /// The same of 2×2 results under a kernel of 5×5.
    fn source_2(pixels: &Pixels, ahead: &Pixels, channels: usize, to: *mut f32, places: &Positions) = source_body, [IN, 2];
}
multiversion! {
    /// The same of 2×2 results under a kernel of 3×3.
    fn source_small(pixels: &Pixels, ahead: &Pixels, channels: usize, to: *mut f32, places: &Positions) = source_body, [SMALL, 2];
}
multiversion! {
    /// Transforms the gradients by the 4×4 results of one tile.
    fn gradient_4(pixels: &Pixels, ahead: &Pixels, channels: usize, to: *mut f32, places: &Positions) = gradient_body, [4];
}
multiversion! {
    /// The same by 2×2 results.
    fn gradient_2(pixels: &Pixels, ahead: &Pixels, channels: usize, to: *mut f32, places: &Positions) = gradient_body, [2];
}

/// The pixels of the square of `side` from (`y`, `x`) of an image of `size` pixels at `image`.
fn pixels(
    side: usize,
    image: *const f32,
    size: [usize; 2],
    channels: usize,
    (y, x): (isize, isize),
    zeros: *const f32,
) -> Pixels {
    let inside = |first: isize, size: usize| {
        let until = |at: isize| (at - first).clamp(0, side as isize) as usize;
        until(0)..until(size as isize)
    };
    let (rows, columns) = (inside(y, size[0]), inside(x, size[1]));
    let mut pixels = [[zeros; IN]; IN];
    for row in rows {
        let line = image.wrapping_offset(((y + row as isize) * size[1] as isize + x) * channels as isize);
        for column in columns.clone() {
            pixels[row][column] = line.wrapping_add(column * channels);
        }
    }
    pixels
}

/// Transforms the source pixels of a tile to `to`, the place of its first position, and asks for those of the `next`.
///
/// # Safety
/// `src` is the whole source of `task`, `zeros` as many zeros as it has channels; the positions are writable.
pub unsafe fn transform_source(
    isa: crate::simd::Isa,
    task: &Task,
    [tile, next]: [Tile; 2],
    src: *const f32,
    zeros: *const f32,
    to: *mut f32,
    places: &Positions,
) {
    // From what the tile before has not read on, of the next.
    let square = |tile: Tile, side: usize, skipped: usize| {
        let image = src.wrapping_add(tile.image * task.sh * task.sw * task.sc);
        let first = |at: usize, axis: usize| (at + skipped) as isize - task.pad[axis] as isize;
        pixels(side, image, [task.sh, task.sw], task.sc, (first(tile.y, 0), first(tile.x, 1)), zeros)
    };
    let (pixels, ahead) = (square(tile, task.side(), 0), square(next, task.out, task.kernel - 1));
    let source = match (task.kernel, task.out) {
        (3, 4) => source_4,
        (3, _) => source_small,
        _ => source_2,
    };
    // SAFETY: the caller's word.
    unsafe { source(isa, &pixels, &ahead, task.sc, to, places) };
}

/// Transforms the gradients by the results of a tile to `to`, the place of its first position, and asks for those of the
/// `next`.
///
/// # Safety
/// `diff_dst` is the whole gradient by the results of `task`, `zeros` as many zeros as it has channels; the positions
/// are writable.
pub unsafe fn transform_gradient(
    isa: crate::simd::Isa,
    task: &Task,
    [tile, next]: [Tile; 2],
    diff_dst: *const f32,
    zeros: *const f32,
    to: *mut f32,
    places: &Positions,
) {
    let square = |tile: Tile| {
        let image = diff_dst.wrapping_add(tile.image * task.dh * task.dw * task.dc);
        pixels(task.out, image, [task.dh, task.dw], task.dc, (tile.y as isize, tile.x as isize), zeros)
    };
    let gradient = if task.kernel == 3 { gradient_4 } else { gradient_2 };
    // SAFETY: the caller's word.
    unsafe { gradient(isa, &square(tile), &square(next), task.dc, to, places) };
}
