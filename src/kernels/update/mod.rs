//! The optimizers' updates, over all parameters in one call, and the blending of averaged copies.

mod adagrad;
mod adam;
mod blend;
mod rmsprop;
mod sgd;

pub use adagrad::Adagrad;
pub use adam::Adam;
pub use blend::Blend;
pub use rmsprop::RmsProp;
pub use sgd::Sgd;

use std::fmt::Debug;
use std::ops::Range;

use super::Kernel;
use crate::simd::Isa;
use crate::tensor::{Args, Src};

/// Most elements of one task.
const CHUNK: usize = 4 << 10;
/// Most hyperparameters of a parameter.
const HYPER: usize = 8;
/// Most states of a parameter.
const STATES: usize = 3;

/// How the elements of a parameter follow their gradients.
pub trait Rule: Debug + Send + Sync {
    /// The name with its options.
    fn name(&self) -> &'static str;

    /// Hyperparameters of a parameter.
    fn hyper(&self) -> usize;

    /// States beside the parameter.
    fn states(&self) -> usize;

    /// Operations per element.
    fn flops(&self) -> u64;

    /// Updates `n` elements of the parameter and of its states.
    ///
    /// # Safety
    /// `n` floats at `grad`, `param` and the first `states()` of `states`, which do not overlap and, all but `grad`,
    /// belong to the running task; the CPU has `isa`.
    unsafe fn apply(
        &self,
        isa: Isa,
        hyper: [f32; HYPER],
        grad: *const f32,
        param: *mut f32,
        states: [*mut f32; STATES],
        n: usize,
    );
}

/// Updates elements `range` of a parameter by their gradients, with a row of `hyper`. Operands: the parameter, its states.
///
/// # Safety
/// `hyper` has the row, nobody writes it; the operands hold the range, which belongs to the running task; `grad` has its
/// gradients, which overlap none of it; the CPU has `isa`.
pub(super) unsafe fn step<R: Rule>(
    isa: Isa,
    rule: &R,
    (hyper, row): (Src<'_, f32>, usize),
    grad: *const f32,
    args: &Args<'_>,
    range: Range<usize>,
) {
    let mut numbers = [0.0; HYPER];
    for (column, number) in numbers[..rule.hyper()].iter_mut().enumerate() {
        // SAFETY: the table has a row of that many numbers for each parameter.
        *number = unsafe { hyper.get(rule.hyper() * row + column) };
    }
    let mut states = [std::ptr::null_mut(); STATES];
    for (index, state) in states[..rule.states()].iter_mut().enumerate() {
        *state = args.dst::<f32>(1 + index).at(range.start, range.len());
    }
    let param = args.dst::<f32>(0).at(range.start, range.len());
    // SAFETY: the caller's word.
    unsafe { rule.apply(isa, numbers, grad, param, states, range.len()) };
}

/// Elements `range` of parameter `tensor`.
#[derive(Debug, Clone)]
struct Piece {
    tensor: usize,
    range: Range<usize>,
}

/// An optimizer's update. Operands: `hyper` (rows of `Rule::hyper` floats), then for each parameter `grad`,
/// `param` and `Rule::states` states (floats of its length; all but `grad` are updated in place).
///
/// Large tensors are cut into tasks of 4 Ki elements, small neighbours share one.
#[derive(Debug, Clone)]
pub struct Update<R> {
    isa: Isa,
    rule: R,
    /// Each parameter's row of the hyperparameters.
    rows: Vec<usize>,
    pieces: Vec<Piece>,
    /// The pieces of each task.
    tasks: Vec<Range<usize>>,
}

impl<R: Rule> Update<R> {
    /// Update of parameters with `lens` elements, with the first rows of the hyperparameters.
    pub fn new(isa: Isa, rule: R, lens: &[usize]) -> Self {
        Self::with_rows(isa, rule, lens, (0..lens.len()).collect())
    }

    /// [`new`](Self::new), where each parameter has the row that `rows` says.
    pub fn with_rows(isa: Isa, rule: R, lens: &[usize], rows: Vec<usize>) -> Self {
        assert!(rule.hyper() <= HYPER && rule.states() <= STATES);
        let (mut pieces, mut tasks) = (Vec::new(), Vec::new());
        let (mut first, mut filled) = (0, 0);
        for (tensor, &len) in lens.iter().enumerate() {
            for start in (0..len).step_by(CHUNK) {
                let range = start..(start + CHUNK).min(len);
                if filled + range.len() > CHUNK {
                    tasks.push(first..pieces.len());
                    (first, filled) = (pieces.len(), 0);
                }
                filled += range.len();
                pieces.push(Piece { tensor, range });
            }
        }
        if first < pieces.len() {
            tasks.push(first..pieces.len());
        }
        Self { isa, rule, rows, pieces, tasks }
    }
}

impl<R: Rule> Kernel for Update<R> {
    fn name(&self) -> String {
        format!("{}_{}", self.rule.name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.tasks.len()
    }

    fn flops(&self) -> u64 {
        let elements: usize = self.pieces.iter().map(|piece| piece.range.len()).sum();
        elements as u64 * self.rule.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let hyper = args.src::<f32>(0);
        for Piece { tensor, range } in &self.pieces[self.tasks[task].clone()] {
            let first = 1 + (2 + self.rule.states()) * tensor;
            let grad = args.src::<f32>(first).at(range.start, range.len());
            // SAFETY: the operands hold the piece, which belongs to this task.
            unsafe {
                step(self.isa, &self.rule, (hyper, self.rows[*tensor]), grad, &args.from(first + 1), range.clone());
            };
        }
    }
}
