//! The gradient of an activation that passes it on or not, taken where the gradient is read.

use crate::simd::Simd;

/// No activation.
pub(super) const OPEN: u8 = 0;
/// The activation's operand is computed anew, as the forward pass did.
pub(super) const RECOMPUTE: u8 = 1;
/// The activation's result is read.
pub(super) const RESULT: u8 = 2;

/// What is known of an activation when the gradient passes it
/// ([`UnaryKind::gate_limit`](crate::function::UnaryKind::gate_limit)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gate {
    /// Where the operand lies above zero and is at most this, the gradient passes.
    pub limit: f32,
    /// Whether the operand is computed anew from the source, instead of the result read.
    pub recompute: bool,
}

impl Gate {
    pub(super) fn mode(gate: Option<Self>) -> u8 {
        match gate {
            None => OPEN,
            Some(Self { recompute: true, .. }) => RECOMPUTE,
            Some(Self { recompute: false, .. }) => RESULT,
        }
    }

    pub(super) fn limit_of(gate: Option<Self>) -> f32 {
        gate.map_or(f32::INFINITY, |gate| gate.limit)
    }
}

/// `g` where `0 < value ≤ limit`, zero elsewhere and where `value` is NaN.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub(super) unsafe fn pass<S: Simd>(value: S::V, limit: S::V, g: S::V) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let zero = S::splat(0.0);
        S::select(S::and_not(S::gt(value, zero), S::gt(value, limit)), g, zero)
    }
}
