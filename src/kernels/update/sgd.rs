//! Stochastic gradient descent.

use super::{HYPER, Rule, STATES};
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Stochastic gradient descent with momentum, torch's formulas. Hyper: learning rate, momentum μ, weight decay,
/// decoupled weight decay. States: momentum.
///
/// ```text
/// g        = grad + weight_decay · param
/// param    = param · (1 − lr · decoupled)
/// momentum = momentum · μ + g
/// param    = param − lr · (nesterov ? g + μ · momentum : momentum)
/// ```
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // said above
pub struct Sgd {
    pub nesterov: bool,
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

impl Rule for Sgd {
    fn name(&self) -> &'static str {
        if self.nesterov { "sgd_nesterov" } else { "sgd" }
    }

    fn hyper(&self) -> usize {
        4
    }

    fn states(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        if self.nesterov { 9 } else { 7 }
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
        let function = if self.nesterov { sgd_nesterov } else { sgd };
        // SAFETY: the trait's contract.
        unsafe { function(isa, [hyper[0], hyper[1], hyper[2], hyper[3]], grad, param, states[0], n) };
    }
}
