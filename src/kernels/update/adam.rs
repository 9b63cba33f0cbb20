//! Adam and, with decoupled decay, `AdamW`.

use super::{HYPER, Rule, STATES};
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Adam, torch's formulas. Hyper: learning rate, β₁' = 1 − β₁, β₂' = 1 − β₂, eps, weight decay, decoupled weight decay,
/// 1 − β₁ᵗ, 1 − β₂ᵗ. States: first, second, and largest if `amsgrad`.
///
/// ```text
/// g       = grad + weight_decay · param
/// param   = param · (1 − lr · decoupled)
/// first   = (1 − β₁') · first + β₁' · g
/// second  = (1 − β₂') · second + β₂' · g²
/// largest = max(largest, second)
/// param   = param − lr/(1 − β₁ᵗ) · first / (√(amsgrad ? largest : second)/√(1 − β₂ᵗ) + eps)
/// ```
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // said above
pub struct Adam {
    pub amsgrad: bool,
}

/// # Safety
/// `n` elements at every address, which do not overlap; none at `largest` unless `AMSGRAD`.
#[inline(always)]
unsafe fn adam_body<S: Simd, const AMSGRAD: bool>(
    hyper: [f32; 8],
    grad: *const f32,
    param: *mut f32,
    [first, second, largest]: [*mut f32; 3],
    n: usize,
) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let [lr, new1, new2, eps, decay, decoupled, bias1, bias2] = hyper;
        let (keep, decay) = (S::splat(1.0 - lr * decoupled), S::splat(decay));
        let (new1, old1, new2, old2) = (S::splat(new1), S::splat(1.0 - new1), S::splat(new2), S::splat(1.0 - new2));
        let (step, scale, eps) = (S::splat(-lr / bias1), S::splat(1.0 / bias2.sqrt()), S::splat(eps));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let w = load_first::<S>(param.add(i), lanes);
            let g = S::fma(decay, w, load_first::<S>(grad.add(i), lanes));
            let m = S::fma(load_first::<S>(first.add(i), lanes), old1, S::mul(g, new1));
            let mut v = S::fma(load_first::<S>(second.add(i), lanes), old2, S::mul(S::mul(g, g), new2));
            store_first::<S>(first.add(i), m, lanes);
            store_first::<S>(second.add(i), v, lanes);
            if AMSGRAD {
                // A NaN in `v`, as second operand, is the result; one in `largest` stays because `v` has it too.
                v = S::max(load_first::<S>(largest.add(i), lanes), v);
                store_first::<S>(largest.add(i), v, lanes);
            }
            let denominator = S::fma(S::sqrt(v), scale, eps);
            store_first::<S>(param.add(i), S::fma(S::div(m, denominator), step, S::mul(w, keep)), lanes);
        }
    }
}

multiversion! {
    fn adam(hyper: [f32; 8], grad: *const f32, param: *mut f32, states: [*mut f32; 3], n: usize) = adam_body, [false];
}
multiversion! {
    fn adam_amsgrad(hyper: [f32; 8], grad: *const f32, param: *mut f32, states: [*mut f32; 3], n: usize)
        = adam_body, [true];
}

impl Rule for Adam {
    fn name(&self) -> &'static str {
        if self.amsgrad { "adam_amsgrad" } else { "adam" }
    }

    fn hyper(&self) -> usize {
        8
    }

    fn states(&self) -> usize {
        2 + usize::from(self.amsgrad)
    }

    fn flops(&self) -> u64 {
        if self.amsgrad { 17 } else { 16 }
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
        let function = if self.amsgrad { adam_amsgrad } else { adam };
        // SAFETY: the trait's contract.
        unsafe { function(isa, hyper, grad, param, states, n) };
    }
}
