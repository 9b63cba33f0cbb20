//! The kernels of direct convolution: [`Forward`] and [`BackwardData`].

use std::ops::Range;

use super::calls::{Operands, Results, Taken};
use super::global_pool::ByChannels;
use super::indirect::Indirect;
use super::pack::Problem;
use super::{Epilogue, Geometry, Passed, moments};
use crate::kernels::Kernel;
use crate::simd::Isa;
use crate::tensor::Args;

/// Convolution. Operands: input, packed weights, those of the epilogue ([`Epilogue::operands`]), output, a copy of the
/// input (if [`Forward::copy_len`] is not 0), partial statistics of the output ([`Forward::with_moments`]); what is added
/// may be the memory of the output if [`Forward::adds_in_place`].
#[derive(Debug)]
pub struct Forward {
    inner: Indirect,
    epilogue: Epilogue,
    moments: bool,
}

impl Forward {
    /// A convolution of this geometry.
    pub fn new(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        Self::with(isa, geometry, epilogue, false)
    }

    /// The same with an operand for a copy of the input, if it wants one.
    pub fn copying_once(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        Self::with(isa, geometry, epilogue, true)
    }

    fn with(isa: Isa, geometry: Geometry, epilogue: Epilogue, copy_once: bool) -> Self {
        let problem = Problem::forward(isa, geometry);
        let inner = Indirect::new(problem, [geometry.oh, geometry.ow], geometry.oc, copy_once);
        Self { inner, epilogue, moments: false }
    }

    /// Why [`with_moments`](Self::with_moments) is impossible or does not pay, if it is so: a rule in shape and level only.
    pub fn moments_refusal(&self) -> Option<String> {
        if self.inner.problem.fold > 1 { Some("folded pixels".to_owned()) } else { moments::refusal(&self.parts()) }
    }

    /// The same that also takes the partial statistics of its results, which the last operand holds as that of
    /// [`Moments`](crate::kernels::norm::Moments): per part a mean per output channel, then the squared deviations.
    #[must_use]
    pub fn with_moments(self) -> Self {
        debug_assert_eq!(self.moments_refusal(), None);
        Self { moments: true, ..self }
    }

    /// Pixels of every part of the statistics.
    pub fn parts(&self) -> Vec<usize> {
        self.inner.parts()
    }

    /// Whether every result is written once, so that it may replace what is added to it: folded pixels may be summed
    /// again.
    pub fn adds_in_place(&self) -> bool {
        self.inner.problem.fold == 1
    }

    /// Units of the input that are copied in a phase of their own.
    fn copies(&self) -> usize {
        self.inner.copies().map_or(0, |copies| copies.units)
    }

    /// Floats of the operand that holds a copy of the input: with few pixels and many channels it is made once, in a phase
    /// of its own.
    pub fn copy_len(&self) -> usize {
        self.inner.copies().map_or(0, |copies| copies.units * copies.len)
    }
}

impl ByChannels for Forward {
    fn owns_channels(&self) -> bool {
        self.inner.owns_channels()
    }

    fn channels_of(&self, task: usize) -> Range<usize> {
        task.checked_sub(self.copies()).map_or(0..0, |task| self.inner.channels_of(task))
    }

    fn result(&self) -> usize {
        2 + self.epilogue.operands()
    }

    fn name_with(&self, behind: &str) -> String {
        self.inner.name(&format!("conv_direct{}{behind}", self.epilogue.name()))
    }
}

impl Kernel for Forward {
    fn name(&self) -> String {
        self.name_with(if self.moments { "_moments" } else { "" })
    }

    fn tasks(&self) -> usize {
        self.copies() + self.inner.order.len()
    }

    fn phases(&self) -> usize {
        if self.copies() > 0 { 2 } else { 1 }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        match (self.copies(), number) {
            (0, _) => 0..self.tasks(),
            (copies, 0) => 0..copies,
            (copies, _) => copies..self.tasks(),
        }
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.problem.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let geometry = &self.inner.problem.geometry;
        let (result, copies) = (self.result(), self.copies());
        if task < copies {
            // SAFETY: the caller's word.
            return unsafe { self.inner.copy(task, args.src(0), args.dst(result + 1)) };
        }
        let finish = self.epilogue.finish(args, geometry.oc, geometry.dst_len());
        let operands = Operands {
            src: args.src(0),
            copy: (copies > 0).then(|| args.src(result + 1)),
            packed: args.src(1),
            finish,
            activation: self.epilogue.later(),
            results: Results { view: args.dst(result), before: 0 },
            taken: if self.moments { Taken::Moments(args.dst(args.count() - 1)) } else { Taken::Nothing },
        };
        // SAFETY: the caller's word; copies were made in the phase before.
        unsafe { self.inner.run(task - copies, &operands, scratch) }
    }
}

/// Data gradient. Operands: gradient by the output, packed weights, what is added if it [passes](Self::passing) that,
/// gradient by the input (every element is written), then those of [`Passed`].
#[derive(Debug)]
pub struct BackwardData {
    inner: Indirect,
    passed: Option<Passed>,
}

impl BackwardData {
    /// The data gradient of this convolution.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        let problem = Problem::backward(isa, geometry);
        Self { inner: Indirect::new(problem, [geometry.ih, geometry.iw], geometry.ic, false), passed: None }
    }

    /// Why [`passing`](Self::passing) is impossible or does not pay, if it is so: a rule in shape and level only.
    pub fn sums_refusal(&self) -> Option<String> {
        if self.inner.problem.fold > 1 { Some("folded pixels".to_owned()) } else { moments::refusal(&self.parts()) }
    }

    /// The same on the way into a normalization.
    #[must_use]
    pub fn passing(self, passed: Passed) -> Self {
        debug_assert_eq!(self.sums_refusal(), None);
        Self { passed: Some(passed), ..self }
    }

    /// Pixels of every part of the sums.
    pub fn parts(&self) -> Vec<usize> {
        self.inner.parts()
    }
}

impl Kernel for BackwardData {
    fn name(&self) -> String {
        let passed = self.passed.map_or(String::new(), Passed::name);
        self.inner.name(&format!("conv_backward_data{passed}"))
    }

    fn tasks(&self) -> usize {
        self.inner.order.len()
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.problem.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let Geometry { ic, .. } = self.inner.problem.geometry;
        let (isa, len) = (self.inner.problem.isa, self.inner.problem.geometry.src_len());
        let epilogue = self.passed.map_or(Epilogue::default(), Passed::epilogue);
        let result = 2 + epilogue.operands();
        let operands = Operands {
            src: args.src(0),
            copy: None,
            packed: args.src(1),
            finish: epilogue.finish(args, ic, len),
            activation: None,
            results: Results { view: args.dst(result), before: 0 },
            taken: match self.passed {
                Some(passed) => Taken::Sums(passed.sums(isa, args, result + 1, len, ic)),
                None => Taken::Nothing,
            },
        };
        // SAFETY: the caller's word.
        unsafe { self.inner.run(task, &operands, scratch) }
    }
}
