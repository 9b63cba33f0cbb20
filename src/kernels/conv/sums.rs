//! What a data gradient passes on its way into the normalization before the convolution, while it is in cache: the
//! activation's gate, and the sums per channel that the normalization's gradients are made of.
//!
//! Every task adds the gradients it has finished to the sums of its *part*, a range of pixels that shape and level alone
//! determine, for its own channels; [`GradientSumsFinish`](crate::kernels::norm::GradientSumsFinish) adds up the parts.

use std::ops::Range;

use super::Epilogue;
use crate::kernels::ahead::ask;
use crate::kernels::norm::{BLOCK, Gate, PerChannel, Rows, add_lines};
use crate::kernels::share;
use crate::simd::Isa;
use crate::tensor::{Args, Dst};

/// What a data gradient passes. The gradient, to which another may have been added, goes through the gate, if there is
/// one; the sums are those of what is written.
///
/// Operands, behind all others of the kernel: the normalization's source and its `mean`; for a gate `weight`, `rstd` and
/// `bias` if it computes anew, or the activation's result; then the partial sums, as those of
/// [`GradientSums`](crate::kernels::norm::GradientSums). The other gradient stands before the result, may be its memory, and
/// lies like it, as the source and the activation's result do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passed {
    /// The gate.
    pub gate: Option<Gate>,
    /// Whether another gradient is added first.
    pub add: bool,
}

impl Passed {
    /// What a kernel's name says of it.
    pub(super) fn name(self) -> String {
        format!("{}{}_sums", self.epilogue().name(), if self.gate.is_some() { "_gate" } else { "" })
    }

    /// What happens to results in registers.
    pub fn epilogue(self) -> Epilogue {
        Epilogue { add: self.add, ..Epilogue::default() }
    }

    /// The operands, which begin at number `first`, of a result of `len` numbers.
    pub(super) fn sums<'a>(self, isa: Isa, args: &Args<'a>, first: usize, len: usize, channels: usize) -> Sums<'a> {
        let whole = |index: usize| args.src::<f32>(index).at(0, len);
        let each = |index: usize| args.src::<f32>(index).at(0, channels);
        let null = std::ptr::null();
        let mut numbers = PerChannel { mean: each(first + 1), weight: null, rstd: null, bias: null };
        let mut result = null;
        // What finishes the sums may have operands behind these.
        let partials = match self.gate {
            Some(Gate { recompute: true, .. }) => {
                [numbers.weight, numbers.rstd, numbers.bias] = [2, 3, 4].map(|i| each(first + i));
                first + 5
            }
            Some(_) => {
                result = whole(first + 2);
                first + 3
            }
            None => first + 2,
        };
        let partials = args.dst(partials);
        Sums { isa, gate: self.gate, source: whole(first), result, numbers, partials, channels }
    }
}

/// The operands of a [`Passed`].
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    isa: Isa,
    gate: Option<Gate>,
    source: *const f32,
    result: *const f32,
    numbers: PerChannel,
    partials: Dst<'a, f64>,
    channels: usize,
}

impl Sums<'_> {
    /// The sums of part number `part`.
    pub fn part(&self, part: usize) -> Part {
        let &Self { isa, gate, source, result, numbers, partials, channels } = self;
        let sums = partials.at(2 * part * channels, 2 * channels);
        Part { isa, gate, source, result, numbers, sums, channels, fresh: true }
    }
}

/// The sums of one part, and what gradients pass before; for the channels of one task.
#[derive(Clone, Copy)]
pub(super) struct Part {
    isa: Isa,
    gate: Option<Gate>,
    source: *const f32,
    result: *const f32,
    numbers: PerChannel,
    sums: *mut f64,
    channels: usize,
    /// Whether nothing was added to the sums yet.
    fresh: bool,
}

impl Part {
    /// Asks for what [`add`](Self::add) will read beside these pixels' `channels` numbers each, from number `index` of the
    /// result on.
    pub fn ask(&self, index: usize, size: [usize; 2], pitch: [usize; 2], channels: usize) {
        for from in [self.source, self.result].into_iter().filter(|from| !from.is_null()) {
            // SAFETY: hints.
            unsafe { ask(self.isa, from.wrapping_add(index), size, pitch, channels) };
        }
    }

    /// Takes lines of pixels through the gate, where they are, and adds them to the sums of these channels. Lines and pixels
    /// lie `pitch` apart; `at` is the first one's first of these channels, which is number `index` of the result.
    ///
    /// # Safety
    /// The pixels are finished; they and the sums of these channels belong to the running task.
    pub unsafe fn add(
        &mut self,
        (at, index): (*mut f32, usize),
        [lines, pixels]: [usize; 2],
        pitch: [usize; 2],
        channels: Range<usize>,
    ) {
        let blocks = pixels.div_ceil(BLOCK);
        let lines_of_block = if blocks == 1 { (BLOCK / pixels).min(lines) } else { 1 };
        let to = self.sums.wrapping_add(channels.start);
        for line in (0..lines).step_by(lines_of_block.max(1)) {
            for block in 0..blocks {
                let columns = share(block, blocks, pixels);
                let start = line * pitch[0] + columns.start * pitch[1];
                let [src, result] = [self.source, self.result].map(|from| from.wrapping_add(index + start));
                let dst = at.wrapping_add(start);
                let rows = Rows { diff: dst, other: dst, src, result, dst };
                let size = [lines_of_block.min(lines - line), columns.len()];
                let (numbers, width) = (self.numbers.at(channels.start), channels.len());
                let to = [to, to.wrapping_add(self.channels)];
                // SAFETY: the caller's word; source and activation's result lie as the result does.
                unsafe { add_lines(self.isa, self.gate, rows, size, pitch, width, numbers, to, self.fresh) };
                self.fresh = false;
            }
        }
    }
}
