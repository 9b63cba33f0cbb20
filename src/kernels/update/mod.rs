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
use crate::tensor::Args;

/// Most elements of one task.
const CHUNK: usize = 16 << 10;
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

/// Elements `range` of parameter `tensor`.
#[derive(Debug, Clone)]
struct Piece {
    tensor: usize,
    range: Range<usize>,
}

/// An optimizer's update. Operands: `hyper` (per parameter `Rule::hyper` floats), then for each parameter `grad`,
/// `param` and `Rule::states` states (floats of its length; all but `grad` are updated in place).
///
/// Large tensors are cut into tasks of 16 Ki elements, small neighbours share one.
#[derive(Debug, Clone)]
pub struct Update<R> {
    isa: Isa,
    rule: R,
    pieces: Vec<Piece>,
    /// The pieces of each task.
    tasks: Vec<Range<usize>>,
}

impl<R: Rule> Update<R> {
    /// Update of parameters with `lens` elements.
    pub fn new(isa: Isa, rule: R, lens: &[usize]) -> Self {
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
        Self { isa, rule, pieces, tasks }
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
        let (columns, states) = (self.rule.hyper(), self.rule.states());
        for Piece { tensor, range } in &self.pieces[self.tasks[task].clone()] {
            let first = 1 + (2 + states) * tensor;
            let grad = args.src::<f32>(first).at(range.start, range.len());
            let param = args.dst::<f32>(first + 1).at(range.start, range.len());
            let mut state = [std::ptr::null_mut(); STATES];
            for (index, state) in state[..states].iter_mut().enumerate() {
                *state = args.dst::<f32>(first + 2 + index).at(range.start, range.len());
            }
            let mut numbers = [0.0; HYPER];
            for (column, number) in numbers[..columns].iter_mut().enumerate() {
                // SAFETY: the table has a row of that many numbers for each parameter, and nobody writes it.
                *number = unsafe { hyper.get(columns * tensor + column) };
            }
            // SAFETY: the operands hold the piece, which belongs to this task.
            unsafe { self.rule.apply(self.isa, numbers, grad, param, state, range.len()) };
        }
    }
}
