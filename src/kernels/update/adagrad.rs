//! Steps divided by the root of the sum of all squares so far.

use super::{HYPER, Rule, STATES};
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Adagrad, torch's formulas. Hyper: learning rate (after its decay), eps, weight decay, decoupled weight decay.
/// States: sum.
///
/// ```text
/// g     = grad + weight_decay · param
/// param = param · (1 − lr · decoupled)
/// sum   = sum + g²
/// param = param − lr · g / (√sum + eps)
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Adagrad;

/// # Safety
/// `n` elements at every address, which do not overlap.
#[inline(always)]
unsafe fn adagrad_body<S: Simd>(hyper: [f32; 4], grad: *const f32, param: *mut f32, sum: *mut f32, n: usize) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let [lr, eps, decay, decoupled] = hyper;
        let (step, keep, decay) = (S::splat(-lr), S::splat(1.0 - lr * decoupled), S::splat(decay));
        let eps = S::splat(eps);
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let w = load_first::<S>(param.add(i), lanes);
            let g = S::fma(decay, w, load_first::<S>(grad.add(i), lanes));
            let squares = S::fma(g, g, load_first::<S>(sum.add(i), lanes));
            store_first::<S>(sum.add(i), squares, lanes);
            let scaled = S::div(g, S::add(S::sqrt(squares), eps));
            store_first::<S>(param.add(i), S::fma(scaled, step, S::mul(w, keep)), lanes);
        }
    }
}

multiversion! {
    fn adagrad(hyper: [f32; 4], grad: *const f32, param: *mut f32, sum: *mut f32, n: usize) = adagrad_body;
}

impl Rule for Adagrad {
    fn name(&self) -> &'static str {
        "adagrad"
    }

    fn hyper(&self) -> usize {
        4
    }

    fn states(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        10
    }

    unsafe fn apply(
        &self,
        isa: Isa,
        hyper: [f32; HYPER],
        grad: *const f32,
        param: *mut f32,
        states: [*mut f32; STATES],
        n: usize,
    ) {
        // SAFETY: the trait's contract.
        unsafe { adagrad(isa, [hyper[0], hyper[1], hyper[2], hyper[3]], grad, param, states[0], n) };
    }
}
