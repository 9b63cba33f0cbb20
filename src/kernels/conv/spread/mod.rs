//! Convolutions with stride 1 to few channels, forward or data gradient: every source pixel is *spread* over the result
//! pixels of a line that it meets.
//!
//! What a source pixel adds to a line of results is one stretch of `kw` pixels, so that vectors run along taps and
//! channels and are full although the channels are few. Pixels whose stretches follow each other without meeting go to
//! the same copy of the line: pixel `x` to copy `x mod kw`. A result is the sum over the `kw` copies from its first source
//! pixel to its last, wherever it lies. Padding is neither read nor multiplied, and no product meets a result that is not
//! its own: NaN and infinity go where they belong.

mod backward_weights;
mod join;
mod pack;
mod tile;

pub use backward_weights::BackwardWeights;
pub use pack::Pack;

use std::ops::Range;

use super::epilogue::Finish;
use super::gather::{Axis, reads_rows};
use super::line::Ending;
use super::{Epilogue, Geometry};
use crate::kernels::{Kernel, share, tasks_for};
use crate::simd::Isa;
use crate::tensor::Args;
use join::Join;
use tile::{Tile, most_pixels, tile};

/// Most floats of a stretch.
const WIDTH: usize = 32;
/// Products that an accumulator takes: with more of them the sum would need to be put aside.
const DEPTH: usize = 256;
/// From so many products on, what spreading costs beside them counts little; below the first number, much.
const FEW_PRODUCTS: usize = 5;
const MANY_PRODUCTS: usize = 16;

/// One direction of a convolution: from `sc` channels of `sh`×`sw` pixels to `dc` channels of `dh`×`dw`.
#[derive(Debug, Clone)]
struct Spread {
    isa: Isa,
    geometry: Geometry,
    backward: bool,
    source: [usize; 2],
    result: [usize; 2],
    sc: usize,
    dc: usize,
    /// Result line `y` reads source lines `y + offset`, ascending: the first offset.
    top: isize,
    /// Pixels of a copied line before the first result pixel.
    before: usize,
    tasks: usize,
}

/// Why a direction of a convolution cannot be computed this way; `None` if it can.
fn unfit(isa: Isa, geometry: &Geometry, backward: bool) -> Option<String> {
    let Geometry { ic, oc, groups, window, .. } = *geometry;
    let [kh, kw] = window.kernel;
    let (sc, dc) = if backward { (oc, ic) } else { (ic, oc) };
    if window.stride != [1, 1] || window.dilation != [1, 1] || groups != 1 {
        return Some("not stride 1, dilation 1 and one group".to_owned());
    }
    if window.pad.iter().zip(window.kernel).any(|(pad, kernel)| pad.iter().any(|&pad| pad >= kernel)) {
        return Some("padding as large as the kernel".to_owned());
    }
    if !(2..=join::MOST).contains(&kw) || dc >= isa.lanes() {
        let (channels, taps) = (isa.lanes(), join::MOST);
        return Some(format!("{dc} channels of {kw} taps, expected fewer than {channels} of 2 to {taps}"));
    }
    if kw * dc > WIDTH || kh * sc > DEPTH {
        return Some(format!("a stretch of {} floats or {} products is too long", kw * dc, kh * sc));
    }
    None
}

/// Why a direction of a convolution is not computed this way; `None` if it is. A rule in shape and level only.
pub fn refusal(isa: Isa, geometry: &Geometry, backward: bool) -> Option<String> {
    if let Some(reason) = unfit(isa, geometry, backward) {
        return Some(reason);
    }
    let products_of_pixel = geometry.window.kernel[0] * if backward { geometry.oc } else { geometry.ic };
    let (spread, (fold, direct)) = (vectors(isa, geometry, backward), folded(isa, geometry, backward));
    let most = match products_of_pixel {
        products if fold == 1 || products >= MANY_PRODUCTS => 0.9,
        products if products >= FEW_PRODUCTS => 0.7,
        _ => 0.0,
    };
    (spread as f64 > most * direct).then(|| products(spread, direct))
}

fn products(spread: usize, direct: f64) -> String {
    format!("{spread} products of vectors for a pixel instead of {direct:.2}")
}

/// Vectors of a stretch.
fn vectors(isa: Isa, geometry: &Geometry, backward: bool) -> usize {
    let channels = if backward { geometry.ic } else { geometry.oc };
    (geometry.window.kernel[1] * channels).div_ceil(isa.lanes())
}

/// How many pixels the product through pointers folds, and its products of vectors for a pixel and a channel of a kernel row.
fn folded(isa: Isa, geometry: &Geometry, backward: bool) -> (usize, f64) {
    let (sc, dc) = if backward { (geometry.oc, geometry.ic) } else { (geometry.ic, geometry.oc) };
    let axis = if backward { Axis::backward(geometry, 1, 0) } else { Axis::forward(geometry, 1) };
    let fold = if reads_rows(&axis, sc, 1) { axis.best_fold(dc, isa.lanes()) } else { 1 };
    (fold, (geometry.window.kernel[1] + fold - 1) as f64 / fold as f64)
}

impl Spread {
    fn new(isa: Isa, geometry: Geometry, backward: bool) -> Self {
        let Geometry { n, ih, iw, ic, oc, oh, ow, window, .. } = geometry;
        let ([kh, kw], pad) = (window.kernel, [window.pad[0][0], window.pad[1][0]]);
        let work = geometry.flops() as usize / 2;
        let rows = n * if backward { ih } else { oh };
        let tasks = tasks_for(work).min(rows);
        if backward {
            let top = pad[0] as isize - (kh as isize - 1);
            let (source, result) = ([oh, ow], [ih, iw]);
            Self { isa, geometry, backward, source, result, sc: oc, dc: ic, top, before: pad[1], tasks }
        } else {
            let (source, result) = ([ih, iw], [oh, ow]);
            let (top, before) = (-(pad[0] as isize), kw - 1 - pad[1]);
            Self { isa, geometry, backward, source, result, sc: ic, dc: oc, top, before, tasks }
        }
    }

    /// Kernel size.
    fn kernel(&self) -> [usize; 2] {
        self.geometry.window.kernel
    }

    /// Floats that a source pixel adds to a line.
    fn width(&self) -> usize {
        self.kernel()[1] * self.dc
    }

    fn vectors(&self) -> usize {
        vectors(self.isa, &self.geometry, self.backward)
    }

    /// Floats of one kernel row's weights.
    fn row_len(&self) -> usize {
        self.sc * self.vectors() * self.isa.lanes()
    }

    /// Floats from one copy of a line to the next; vectors that begin inside the line may end behind it.
    fn pitch(&self) -> usize {
        ((self.source[1] + self.kernel()[1]) * self.dc + 2 * self.isa.lanes()).next_multiple_of(16) + 16
    }

    /// Floats of a line's copies.
    fn lines_len(&self) -> usize {
        self.kernel()[1] * self.pitch()
    }

    fn scratch(&self) -> usize {
        let len = self.result[1] * self.dc;
        (self.lines_len() + Join::scratch(self.kernel()[1], len) + Ending::scratch(len, self.isa)) * size_of::<f32>()
    }

    /// Kernel rows, by ascending source line, of which result line `y` finds the source line inside.
    fn reached(&self, y: usize) -> Range<usize> {
        let first = y as isize + self.top;
        let low = (-first).clamp(0, self.kernel()[0] as isize) as usize;
        let high = (self.source[0] as isize - first).clamp(low as isize, self.kernel()[0] as isize) as usize;
        low..high
    }

    /// Operands: source, packed weights, those of the epilogue, results.
    ///
    /// # Safety
    /// As for [`Kernel::run`]; `finish` is the epilogue's.
    unsafe fn run(&self, task: usize, args: &Args<'_>, epilogue: Epilogue, finish: Finish, scratch: *mut u8) {
        let [_, kw] = self.kernel();
        let ([dh, dw], [sh, sw]) = (self.result, self.source);
        let rows = share(task, self.tasks, self.geometry.n * dh);
        let (src, packed, dst) = (args.src::<f32>(0), args.src::<f32>(1), args.dst::<f32>(2 + epilogue.operands()));
        let (lines, line_len, pitch) = (scratch.cast::<f32>(), dw * self.dc, self.pitch());
        let weights = packed.at(0, self.kernel()[0] * self.row_len());
        // SAFETY: scratch is as large as `scratch()` says; source lines and result lines lie inside their operands, and
        // the result lines belong to this task.
        unsafe {
            std::ptr::write_bytes(lines, 0, self.lines_len());
            let numbers = lines.add(self.lines_len());
            let mut ending = Ending::new(self.isa, (epilogue, finish), (dst, rows.clone()), self.dc, line_len, numbers);
            let room = numbers.add(Ending::scratch(line_len, self.isa));
            let join = Join::new(self.isa, [kw, self.before, self.dc], line_len, room);
            for row in rows {
                let (image, y) = (row / dh, row % dh);
                let reached = self.reached(y);
                let line = image as isize * sh as isize + y as isize + self.top + reached.start as isize;
                let source = src.at(0, 0).wrapping_offset(line * (sw * self.sc) as isize);
                // Stretches of a copy that what a vector writes behind its own ends in.
                let behind = (self.vectors() * self.isa.lanes() - self.width()).div_ceil(self.width());
                let tiles = sw.div_ceil(most_pixels(self.isa, self.vectors()));
                for number in 0..tiles {
                    let pixels = share(number, tiles, sw);
                    let call = Tile {
                        src: source.wrapping_add(pixels.start * self.sc),
                        channels: self.sc,
                        line: sw * self.sc,
                        rows: reached.len(),
                        weights: weights.wrapping_add(reached.start * self.row_len()),
                        lines,
                        pitch,
                        first: pixels.start,
                        copies: kw,
                        step: self.dc,
                        width: self.width(),
                        whole: sw.saturating_sub(kw * behind),
                    };
                    tile(self.isa, pixels.len(), self.vectors(), &call);
                }
                let first = lines.wrapping_add(self.before * self.dc);
                ending.write(join.sum(first, pitch));
            }
        }
    }

    fn name(&self, what: &str) -> String {
        let (pixels, floats) = (most_pixels(self.isa, self.vectors()), self.vectors() * self.isa.lanes());
        format!("{what}_spread_{pixels}x{floats}_{}", self.isa.name())
    }
}

/// Convolution. Operands: input, packed weights, those of the epilogue ([`Epilogue::operands`]), output.
#[derive(Debug)]
pub struct Forward {
    inner: Spread,
    epilogue: Epilogue,
}

impl Forward {
    /// A convolution that is not refused.
    pub fn new(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        Self { inner: Spread::new(isa, geometry, false), epilogue }
    }
}

impl Kernel for Forward {
    fn name(&self) -> String {
        self.inner.name(&format!("conv{}", self.epilogue.name()))
    }

    fn tasks(&self) -> usize {
        self.inner.tasks
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let geometry = &self.inner.geometry;
        let finish = self.epilogue.finish(args, geometry.oc, geometry.dst_len());
        // SAFETY: the caller's word.
        unsafe { self.inner.run(task, args, self.epilogue, finish, scratch) }
    }
}

/// Data gradient. Operands: gradient by the output, packed weights, gradient by the input.
#[derive(Debug)]
pub struct BackwardData(Spread);

impl BackwardData {
    /// The data gradient of a convolution that is not refused.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        Self(Spread::new(isa, geometry, true))
    }
}

impl Kernel for BackwardData {
    fn name(&self) -> String {
        self.0.name("conv_backward_data")
    }

    fn tasks(&self) -> usize {
        self.0.tasks
    }

    fn scratch(&self) -> usize {
        self.0.scratch()
    }

    fn flops(&self) -> u64 {
        self.0.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word.
        unsafe { self.0.run(task, args, Epilogue::default(), Finish::NONE, scratch) }
    }
}
