//! Steps divided by the root of a running mean square.

use super::{HYPER, Rule, STATES};
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// RMSProp, torch's formulas. Hyper: learning rate, α' = 1 − α, eps, momentum μ, weight decay, decoupled weight decay.
/// States: square, momentum, and mean if `centered`.
///
/// ```text
/// g        = grad + weight_decay · param
/// param    = param · (1 − lr · decoupled)
/// square   = (1 − α') · square + α' · g²
/// mean     = (1 − α') · mean + α' · g
/// momentum = momentum · μ + g / (√(centered ? max(square − mean², 0) : square) + eps)
/// param    = param − lr · momentum
/// ```
/// Rounding can make `square − mean²` negative, hence the maximum, which torch lacks.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs)] // said above
pub struct RmsProp {
    pub centered: bool,
}

/// # Safety
/// `n` elements at every address, which do not overlap; none at `mean` unless `CENTERED`.
#[inline(always)]
unsafe fn rmsprop_body<S: Simd, const CENTERED: bool>(
    hyper: [f32; 6],
    grad: *const f32,
    param: *mut f32,
    [square, momentum, mean]: [*mut f32; 3],
    n: usize,
) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let [lr, new, eps, mu, decay, decoupled] = hyper;
        let (step, keep, decay) = (S::splat(-lr), S::splat(1.0 - lr * decoupled), S::splat(decay));
        let (new, old, eps, mu) = (S::splat(new), S::splat(1.0 - new), S::splat(eps), S::splat(mu));
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let w = load_first::<S>(param.add(i), lanes);
            let g = S::fma(decay, w, load_first::<S>(grad.add(i), lanes));
            let v = S::fma(load_first::<S>(square.add(i), lanes), old, S::mul(S::mul(g, g), new));
            store_first::<S>(square.add(i), v, lanes);
            let mut spread = v;
            if CENTERED {
                let m = S::fma(load_first::<S>(mean.add(i), lanes), old, S::mul(g, new));
                store_first::<S>(mean.add(i), m, lanes);
                // A NaN, as second operand, is the result.
                spread = S::max(S::splat(0.0), S::sub(v, S::mul(m, m)));
            }
            let scaled = S::div(g, S::add(S::sqrt(spread), eps));
            let buf = S::fma(load_first::<S>(momentum.add(i), lanes), mu, scaled);
            store_first::<S>(momentum.add(i), buf, lanes);
            store_first::<S>(param.add(i), S::fma(buf, step, S::mul(w, keep)), lanes);
        }
    }
}

multiversion! {
    fn rmsprop(hyper: [f32; 6], grad: *const f32, param: *mut f32, states: [*mut f32; 3], n: usize)
        = rmsprop_body, [false];
}
multiversion! {
    fn rmsprop_centered(hyper: [f32; 6], grad: *const f32, param: *mut f32, states: [*mut f32; 3], n: usize)
        = rmsprop_body, [true];
}

impl Rule for RmsProp {
    fn name(&self) -> &'static str {
        if self.centered { "rmsprop_centered" } else { "rmsprop" }
    }

    fn hyper(&self) -> usize {
        6
    }

    fn states(&self) -> usize {
        2 + usize::from(self.centered)
    }

    fn flops(&self) -> u64 {
        if self.centered { 19 } else { 14 }
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
        let function = if self.centered { rmsprop_centered } else { rmsprop };
        let [lr, new, eps, mu, decay, decoupled, ..] = hyper;
        // SAFETY: the trait's contract.
        unsafe { function(isa, [lr, new, eps, mu, decay, decoupled], grad, param, states, n) };
    }
}
