//! Dropout: numbers, channels or images are set to zero at random, the others scaled up.
//!
//! Nothing is stored between a layer and its gradient: both draw the same numbers from Philox4x32-10, whose key is the
//! seed and whose counter is (unit / 4, step, low half of the stream, high half of the stream); unit `i` takes word
//! `i mod 4`.

use super::Kernel;
use super::draw::{DRAWS, Key, uniform as draw};
use super::elementwise::{Chunks, load_first, store_first};
use crate::random::philox;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// What one draw decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Each number.
    Element,
    /// Each channel of each image.
    Channel,
    /// Each image.
    Sample,
}

/// `src / (1 − p)` where the unit's uniform number is at least `p`, 0 elsewhere. Operands: `src` (`images` × `pixels` ×
/// `channels` floats), `key` (two int64: seed, step), `dst` (may be the memory of `src`).
#[derive(Debug, Clone)]
pub struct Dropout {
    isa: Isa,
    images: usize,
    pixels: usize,
    channels: usize,
    p: f32,
    unit: Unit,
    stream: u64,
    /// Elements of the tensor, or pixels of an image, or elements of an image, by unit.
    chunks: Chunks,
}

impl Dropout {
    /// Over `images` of `pixels` of `channels` numbers.
    pub fn new(isa: Isa, [images, pixels, channels]: [usize; 3], p: f32, unit: Unit, stream: u64) -> Self {
        let chunks = match unit {
            Unit::Element => Chunks::new(images * pixels * channels, 1),
            Unit::Channel => Chunks::new(pixels, channels),
            Unit::Sample => Chunks::new(pixels * channels, 1),
        };
        Self { isa, images, pixels, channels, p, unit, stream, chunks }
    }
}

/// `x · scale` where the draw is at least `p`.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn keep<S: Simd>(x: S::V, draw: S::V, p: S::V, scale: S::V) -> S::V {
    // SAFETY: the caller's word.
    unsafe { S::select(S::gt(p, draw), S::splat(0.0), S::mul(x, scale)) }
}

/// # Safety
/// `n` floats, the first of which is unit `4 · block`, at both addresses, which are equal or do not overlap.
#[inline(always)]
unsafe fn elements_body<S: Simd>(src: *const f32, dst: *mut f32, n: usize, p: f32, block: usize, key: Key) {
    // SAFETY: every access lies within `n` elements or within the draws.
    unsafe {
        let (p, scale) = (S::splat(p), S::splat(1.0 / (1.0 - p)));
        for start in (0..n).step_by(DRAWS) {
            let draws = draw::<S>(block + start / 4, key);
            let end = DRAWS.min(n - start);
            for i in (0..end).step_by(S::LANES) {
                let lanes = S::LANES.min(end - i);
                let x = load_first::<S>(src.add(start + i), lanes);
                store_first::<S>(dst.add(start + i), keep::<S>(x, S::load(draws.as_ptr().add(i)), p, scale), lanes);
            }
        }
    }
}

/// # Safety
/// `rows` rows of `n` floats at both addresses, which are equal or do not overlap; unit `first` is the first number of
/// each row; `draws` has room for `n + 3 + DRAWS` floats.
#[inline(always)]
unsafe fn channels_body<S: Simd>(
    src: *const f32,
    dst: *mut f32,
    rows: usize,
    n: usize,
    p: f32,
    first: usize,
    key: Key,
    draws: *mut f32,
) {
    // SAFETY: every access lies within a row or within the draws.
    unsafe {
        let (p, scale) = (S::splat(p), S::splat(1.0 / (1.0 - p)));
        for start in (0..first % 4 + n).step_by(DRAWS) {
            draws.add(start).cast::<[f32; DRAWS]>().write(draw::<S>((first + start) / 4, key));
        }
        let draws = draws.add(first % 4);
        for row in 0..rows {
            let (src, dst) = (src.add(row * n), dst.add(row * n));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let (x, draw) = (load_first::<S>(src.add(i), lanes), load_first::<S>(draws.add(i), lanes));
                store_first::<S>(dst.add(i), keep::<S>(x, draw, p, scale), lanes);
            }
        }
    }
}

/// # Safety
/// `n` floats at both addresses, which are equal or do not overlap.
#[inline(always)]
unsafe fn sample_body<S: Simd>(src: *const f32, dst: *mut f32, n: usize, p: f32, draw: f32) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let (p, scale, draw) = (S::splat(p), S::splat(1.0 / (1.0 - p)), S::splat(draw));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            store_first::<S>(dst.add(i), keep::<S>(load_first::<S>(src.add(i), lanes), draw, p, scale), lanes);
        }
    }
}

multiversion! {
    fn elements(src: *const f32, dst: *mut f32, n: usize, p: f32, block: usize, key: Key) = elements_body;
}
multiversion! {
    fn channels(
        src: *const f32, dst: *mut f32, rows: usize, n: usize, p: f32, first: usize, key: Key, draws: *mut f32,
    ) = channels_body;
}
multiversion! { fn sample(src: *const f32, dst: *mut f32, n: usize, p: f32, draw: f32) = sample_body; }

impl Kernel for Dropout {
    fn name(&self) -> String {
        format!("dropout_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks() * if self.unit == Unit::Element { 1 } else { self.images }
    }

    fn scratch(&self) -> usize {
        if self.unit == Unit::Channel { (self.channels + 3 + DRAWS) * size_of::<f32>() } else { 0 }
    }

    fn flops(&self) -> u64 {
        let each = if self.unit == Unit::Element { 12 } else { 2 };
        each * (self.images * self.pixels * self.channels) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (src, dst) = (args.src::<f32>(0), args.dst::<f32>(2));
        // SAFETY: two int64.
        let (seed, step) = unsafe { (args.src::<i64>(1).get(0) as u64, args.src::<i64>(1).get(1)) };
        let counter = [step as u32, self.stream as u32, (self.stream >> 32) as u32];
        let key = ([seed as u32, (seed >> 32) as u32], counter);
        let (image, chunk) = (task / self.chunks.tasks(), self.chunks.range(task % self.chunks.tasks()));
        // SAFETY: the operands hold these elements, which belong to this task; chunks of single elements start on whole
        // blocks; the scratch has room for an image's channels.
        unsafe {
            match self.unit {
                Unit::Element => {
                    let n = chunk.len();
                    let (src, dst) = (src.at(chunk.start, n), dst.at(chunk.start, n));
                    elements(self.isa, src, dst, n, self.p, chunk.start / 4, key);
                }
                Unit::Channel => {
                    let (n, first) = (self.channels, image * self.channels);
                    let (start, count) = ((image * self.pixels + chunk.start) * n, chunk.len() * n);
                    let (src, dst) = (src.at(start, count), dst.at(start, count));
                    channels(self.isa, src, dst, chunk.len(), n, self.p, first, key, scratch.cast());
                }
                Unit::Sample => {
                    let (start, n) = (image * self.pixels * self.channels + chunk.start, chunk.len());
                    let words = philox([(image / 4) as u32, counter[0], counter[1], counter[2]], key.0);
                    let draw = (words[image % 4] >> 8) as f32 / 16_777_216.0;
                    sample(self.isa, src.at(start, n), dst.at(start, n), n, self.p, draw);
                }
            }
        }
    }
}
