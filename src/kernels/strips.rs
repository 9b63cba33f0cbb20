//! What follows a gradient strip by strip, while that is in cache: the gradient of an activation, and the sum of its rows. A
//! step of its own would read everything again. The bits are those of separate steps.

use std::ops::Range;

use super::elementwise::Chunks;
use super::reduce::Reduce;
use super::{Kernel, elementwise};
use crate::function::UnaryKind;
use crate::simd::Isa;
use crate::tensor::Args;

/// Elements of a strip: its operands and results stay in the first-level cache.
const STRIP: usize = 4 << 10;
/// Most elements of a part of the sums, unless there are many parts: then threads would have too little to share.
const PART: usize = 64 << 10;
/// So many parts.
const MANY: usize = 16;

/// A gradient that can be made strip by strip.
pub trait Strips: Kernel {
    /// What it is the gradient of, for names.
    fn what(&self) -> String;

    /// The level of its loops.
    fn isa(&self) -> Isa;

    /// How many operands it has.
    fn operands(&self) -> usize;

    /// Which of them is the result.
    fn result(&self) -> usize {
        self.operands() - 1
    }

    /// The lines of its result, as tasks share them.
    fn lines(&self) -> Chunks;

    /// Elements of a line; strips are whole lines.
    fn line(&self) -> usize;

    /// Elements of its result.
    fn count(&self) -> usize {
        self.lines().count() * self.line()
    }

    /// The elements that a task makes.
    fn elements(&self, task: usize) -> Range<usize> {
        let lines = self.lines().range(task);
        lines.start * self.line()..lines.end * self.line()
    }

    /// Makes some elements, whole lines.
    ///
    /// # Safety
    /// As [`run`](Kernel::run); nobody else writes them.
    unsafe fn make(&self, elements: Range<usize>, args: &Args<'_>);
}

/// `elements` cut into strips of whole units.
fn strips(elements: Range<usize>, unit: usize) -> impl Iterator<Item = Range<usize>> {
    let size = unit * (STRIP / unit).max(1);
    elements.clone().step_by(size).map(move |start| start..(start + size).min(elements.end))
}

/// A gradient, and behind it that of an activation, in place. Operands: those of the first, then the activation's operand or
/// result ([`UnaryKind::saved`]), which is not the memory of any of them.
#[derive(Debug)]
pub struct Activated<A> {
    isa: Isa,
    first: A,
    kind: UnaryKind,
}

impl<A: Strips> Activated<A> {
    /// `first` behind `kind` in the forward pass.
    pub fn new(isa: Isa, first: A, kind: UnaryKind) -> Self {
        Self { isa, first, kind }
    }
}

impl<A: Strips> Strips for Activated<A> {
    fn what(&self) -> String {
        format!("{}_{}", self.first.what(), self.kind.name())
    }

    fn isa(&self) -> Isa {
        self.isa
    }

    fn operands(&self) -> usize {
        self.first.operands() + 1
    }

    fn result(&self) -> usize {
        self.first.result()
    }

    fn lines(&self) -> Chunks {
        self.first.lines()
    }

    fn line(&self) -> usize {
        self.first.line()
    }

    unsafe fn make(&self, elements: Range<usize>, args: &Args<'_>) {
        let (start, n) = (elements.start, elements.len());
        // SAFETY: the caller's word.
        unsafe {
            self.first.make(elements, args);
            let gradient = args.dst::<f32>(self.result()).at(start, n);
            let saved = args.src::<f32>(self.first.operands()).at(start, n);
            elementwise::gradient(self.isa, self.kind, [gradient.cast_const(), saved], gradient, n);
        }
    }
}

impl<A: Strips> Kernel for Activated<A> {
    fn name(&self) -> String {
        format!("{}_backward_{}", self.what(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.first.tasks()
    }

    fn flops(&self) -> u64 {
        self.first.flops() + elementwise::backward_flops(self.kind, self.count())
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        for strip in strips(self.elements(task), self.line()) {
            // SAFETY: the caller's word; the strip belongs to this task.
            unsafe { self.make(strip, args) };
        }
    }
}

/// A gradient, and the sums of its rows: a task makes a part of the rows. Operands: those of the first, then the sums
/// (a row for each of the sum's parts).
#[derive(Debug)]
pub struct Summed<A> {
    first: A,
    sum: Reduce,
}

impl<A: Strips> Summed<A> {
    /// `first`, of whose rows `sum` makes the sum.
    pub fn new(first: A, sum: Reduce) -> Self {
        debug_assert!(Self::serves(&first, &sum));
        Self { first, sum }
    }

    /// Whether that is possible, and leaves threads as much to share as separate steps: a rule in shape and level only.
    pub fn serves(first: &A, sum: &Reduce) -> bool {
        let parts = sum.parts();
        sum.sums_rows() && (parts >= MANY || first.tasks() <= 1 || (parts > 1 && first.count() <= parts * PART))
    }
}

impl<A: Strips> Kernel for Summed<A> {
    fn name(&self) -> String {
        format!("{}_backward_sums_{}", self.first.what(), self.first.isa().name())
    }

    fn tasks(&self) -> usize {
        self.sum.parts()
    }

    fn scratch(&self) -> usize {
        self.sum.scratch()
    }

    fn flops(&self) -> u64 {
        self.first.flops() + self.sum.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (rows, width) = (self.sum.part(task), self.sum.result_len());
        let elements = rows.start * width..rows.end * width;
        let gradient = args.dst::<f32>(self.first.result()).at(0, self.first.count()).cast_const();
        let sums = args.dst::<f32>(self.first.operands()).at(0, self.tasks() * width);
        let mut taken = 0;
        for strip in strips(elements, self.first.line().max(width)) {
            let known = strip.end / width - rows.start;
            // SAFETY: the caller's word; the rows of the part and its sums belong to this task.
            unsafe {
                self.first.make(strip, args);
                taken = self.sum.take(task, [taken, known], gradient, sums, scratch.cast());
            }
        }
    }
}
