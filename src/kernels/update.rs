//! The optimizer's update, over all parameters in one call.

use std::ops::Range;

use super::Kernel;
use super::elementwise::{load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// Most elements of one task.
const CHUNK: usize = 16 << 10;

/// Elements `range` of parameter `tensor`.
#[derive(Debug, Clone)]
struct Piece {
    tensor: usize,
    range: Range<usize>,
}

/// Stochastic gradient descent with momentum, torch's formulas. Operands: `hyper` (per parameter four floats: learning
/// rate, momentum, weight decay, decoupled weight decay), then for each parameter `grad`, `param`, `momentum` (floats of
/// its length; the last two are updated in place).
///
/// ```text
/// g        = grad + weight_decay · param
/// param    = param · (1 − lr · decoupled)
/// momentum = momentum · μ + g
/// param    = param − lr · (nesterov ? g + μ · momentum : momentum)
/// ```
/// Large tensors are cut into tasks of 16 Ki elements, small neighbours share one.
#[derive(Debug, Clone)]
pub struct Sgd {
    isa: Isa,
    nesterov: bool,
    pieces: Vec<Piece>,
    /// The pieces of each task.
    tasks: Vec<Range<usize>>,
}

impl Sgd {
    /// Update of parameters with `lens` elements.
    pub fn new(isa: Isa, lens: Vec<usize>, nesterov: bool) -> Self {
        let (mut pieces, mut tasks) = (Vec::new(), Vec::new());
        let (mut first, mut filled) = (0, 0);
        for (tensor, len) in lens.into_iter().enumerate() {
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
        Self { isa, nesterov, pieces, tasks }
    }
}

/// # Safety
/// `n` elements at every address, which do not overlap.
#[inline(always)]
unsafe fn sgd_body<S: Simd, const NESTEROV: bool>(
    hyper: [f32; 4],
    grad: *const f32,
    param: *mut f32,
    momentum: *mut f32,
    n: usize,
) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let [lr, mu, decay, decoupled] = hyper;
        let (step, mu, decay, keep) = (S::splat(-lr), S::splat(mu), S::splat(decay), S::splat(1.0 - lr * decoupled));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let (w, buf) = (load_first::<S>(param.add(i), lanes), load_first::<S>(momentum.add(i), lanes));
            let g = S::fma(decay, w, load_first::<S>(grad.add(i), lanes));
            let buf = S::add(S::mul(buf, mu), g);
            let direction = if NESTEROV { S::fma(mu, buf, g) } else { buf };
            store_first::<S>(momentum.add(i), buf, lanes);
            store_first::<S>(param.add(i), S::fma(direction, step, S::mul(w, keep)), lanes);
        }
    }
}

multiversion! {
    fn sgd(hyper: [f32; 4], grad: *const f32, param: *mut f32, momentum: *mut f32, n: usize) = sgd_body, [false];
}
multiversion! {
    fn sgd_nesterov(hyper: [f32; 4], grad: *const f32, param: *mut f32, momentum: *mut f32, n: usize)
        = sgd_body, [true];
}

impl Kernel for Sgd {
    fn name(&self) -> String {
        format!("sgd{}_{}", if self.nesterov { "_nesterov" } else { "" }, self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.tasks.len()
    }

    fn flops(&self) -> u64 {
        let elements: usize = self.pieces.iter().map(|piece| piece.range.len()).sum();
        (elements * if self.nesterov { 9 } else { 7 }) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let hyper = args.src::<f32>(0);
        for Piece { tensor, range } in &self.pieces[self.tasks[task].clone()] {
            let grad = args.src::<f32>(3 * tensor + 1).at(range.start, range.len());
            let param = args.dst::<f32>(3 * tensor + 2).at(range.start, range.len());
            let momentum = args.dst::<f32>(3 * tensor + 3).at(range.start, range.len());
            let function = if self.nesterov { sgd_nesterov } else { sgd };
            // SAFETY: `hyper` has four numbers per parameter; the operands hold the piece, which belongs to this task.
            unsafe {
                let numbers = std::array::from_fn(|i| hyper.get(4 * tensor + i));
                function(self.isa, numbers, grad, param, momentum, range.len());
            }
        }
    }
}
