//! Gradients of functions of one number.

use std::ops::Range;

use super::{Chunks, Rows, Zip, unary::cost, zip_body};
use crate::function::{Saved, UnaryKind};
use crate::kernels::Kernel;
use crate::kernels::strips::Strips;
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::Args;

/// Declares gradients as functions of the gradient by the result and of the value that was saved, and per type a loop
/// for every level.
macro_rules! gradients {
    ($($loop:ident, $name:ident $(($($field:ident),+))? |$g:ident, $v:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name $(($(gradients!(@float $field)),+))?;

        impl Zip for $name {
            #[inline(always)]
            unsafe fn zip<S: Simd>(self, $g: S::V, $v: S::V) -> S::V {
                $(let $name($($field),+) = self;)?
                // SAFETY: trait contract.
                unsafe { $body }
            }
        }
        multiversion! { fn $loop(function: $name, rows: Rows) = zip_body, [$name, 1, 1]; }
    )*};
    (@float $field:ident) => { f32 };
}

// x is the operand, y the result.
gradients! {
    relu, Relu |g, y| S::select(S::gt(y, S::splat(0.0)), g, S::splat(0.0));
    relu6, Relu6 |g, y| inside::<S>(y, 0.0, 6.0, g);
    // The operand or the result: both are positive for the same elements.
    leaky_relu, LeakyRelu(slope) |g, v| S::select(S::gt(v, S::splat(0.0)), g, S::mul(g, S::splat(slope)));
    elu_result, EluResult(alpha) |g, y| {
        S::select(S::gt(y, S::splat(0.0)), g, S::mul(g, S::add(y, S::splat(alpha))))
    };
    elu_operand, EluOperand(alpha) |g, x| {
        S::select(S::gt(x, S::splat(0.0)), g, S::mul(g, S::mul(math::exp::<S>(x), S::splat(alpha))))
    };
    // (1 − y)(1 + y) keeps its precision where 1 − y² cancels.
    tanh, Tanh |g, y| S::mul(g, S::mul(S::sub(S::splat(1.0), y), S::add(S::splat(1.0), y)));
    sigmoid, Sigmoid |g, y| S::mul(g, S::mul(y, S::sub(S::splat(1.0), y)));
    silu, Silu |g, x| S::mul(g, math::silu_slope::<S>(x));
    gelu, Gelu |g, x| S::mul(g, math::gelu_slope::<S>(x));
    gelu_tanh, GeluTanh |g, x| S::mul(g, math::gelu_tanh_slope::<S>(x));
    hardswish, Hardswish |g, x| {
        let between = S::fma(x, S::splat(1.0 / 3.0), S::splat(0.5));
        let below_three = S::select(S::gt(x, S::splat(-3.0)), S::mul(g, between), S::splat(0.0));
        S::select(S::gt(S::splat(3.0), x), below_three, g)
    };
    hardsigmoid, Hardsigmoid |g, y| inside::<S>(y, 0.0, 1.0, S::mul(g, S::splat(1.0 / 6.0)));
    softplus, Softplus |g, x| S::mul(g, math::sigmoid::<S>(x));
    exp, Exp |g, y| S::mul(g, y);
    log, Log |g, x| S::div(g, x);
    sqrt, Sqrt |g, y| S::div(S::mul(g, S::splat(0.5)), y);
    abs, Abs |g, x| {
        let zero = S::splat(0.0);
        S::select(S::gt(x, zero), g, S::select(S::gt(zero, x), S::sub(zero, g), zero))
    };
    clip, Clip(low, high) |g, x| {
        let (low, high) = (S::splat(low), S::splat(high));
        let outside = S::or(S::or(S::gt(low, x), S::gt(x, high)), S::is_nan(x));
        S::select(outside, S::splat(0.0), g)
    };
    affine, Affine(scale) |g, _y| S::mul(g, S::splat(scale));
}

/// `value` where `low < y < high`, 0 elsewhere.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn inside<S: Simd>(y: S::V, low: f32, high: f32, value: S::V) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let zero = S::splat(0.0);
        S::select(S::gt(y, S::splat(low)), S::select(S::gt(S::splat(high), y), value, zero), zero)
    }
}

/// The gradient of `n` elements from those of the result and what was saved ([`UnaryKind::saved`]).
///
/// # Safety
/// `n` elements at each; `dst` is that of an operand or overlaps none; the CPU has `isa`.
pub(in crate::kernels) unsafe fn gradient(isa: Isa, kind: UnaryKind, [a, b]: [*const f32; 2], dst: *mut f32, n: usize) {
    let call = Rows { a, b, dst, count: 1, n, pitch: [0, 0] };
    // SAFETY: the caller's word.
    unsafe {
        match kind {
            UnaryKind::Relu => relu(isa, Relu, call),
            UnaryKind::Relu6 => relu6(isa, Relu6, call),
            UnaryKind::LeakyRelu(slope) => leaky_relu(isa, LeakyRelu(slope.get()), call),
            UnaryKind::Elu(alpha) if kind.saved() == Saved::Result => elu_result(isa, EluResult(alpha.get()), call),
            UnaryKind::Elu(alpha) => elu_operand(isa, EluOperand(alpha.get()), call),
            UnaryKind::Tanh => tanh(isa, Tanh, call),
            UnaryKind::Sigmoid => sigmoid(isa, Sigmoid, call),
            UnaryKind::Silu => silu(isa, Silu, call),
            UnaryKind::Gelu => gelu(isa, Gelu, call),
            UnaryKind::GeluTanh => gelu_tanh(isa, GeluTanh, call),
            UnaryKind::Hardswish => hardswish(isa, Hardswish, call),
            UnaryKind::Hardsigmoid => hardsigmoid(isa, Hardsigmoid, call),
            UnaryKind::Softplus => softplus(isa, Softplus, call),
            UnaryKind::Exp => exp(isa, Exp, call),
            UnaryKind::Log => log(isa, Log, call),
            UnaryKind::Sqrt => sqrt(isa, Sqrt, call),
            UnaryKind::Abs => abs(isa, Abs, call),
            UnaryKind::Clip(low, high) => clip(isa, Clip(low.get(), high.get()), call),
            UnaryKind::Affine(scale, _) => affine(isa, Affine(scale.get()), call),
        }
    }
}

/// Operations of that for `n` elements.
pub(in crate::kernels) fn backward_flops(kind: UnaryKind, n: usize) -> u64 {
    let each = match kind.saved() {
        Saved::Result => 4,
        Saved::Operand => 1 + cost(kind),
    };
    each * n as u64
}

/// Gradient of a function of one number. Operands: `diff_dst`, the operand or the result ([`UnaryKind::saved`]),
/// `diff_src` (`len` floats each; `diff_src` may be the memory of either).
#[derive(Debug, Clone)]
pub struct UnaryBackward {
    isa: Isa,
    kind: UnaryKind,
    chunks: Chunks,
}

impl UnaryBackward {
    /// Gradient of `kind` over `len` elements.
    pub fn new(isa: Isa, kind: UnaryKind, len: usize) -> Self {
        Self { isa, kind, chunks: Chunks::new(len, 1) }
    }
}

impl Kernel for UnaryBackward {
    fn name(&self) -> String {
        format!("{}_{}", self.kind.backward_name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        backward_flops(self.kind, self.count())
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        // SAFETY: the caller's word; the chunk belongs to this task.
        unsafe { self.make(self.chunks.range(task), args) };
    }
}

impl Strips for UnaryBackward {
    fn what(&self) -> String {
        self.kind.name().to_owned()
    }

    fn isa(&self) -> Isa {
        self.isa
    }

    fn operands(&self) -> usize {
        3
    }

    fn lines(&self) -> Chunks {
        self.chunks
    }

    fn line(&self) -> usize {
        1
    }

    unsafe fn make(&self, elements: Range<usize>, args: &Args<'_>) {
        let (start, n) = (elements.start, elements.len());
        let operands = [args.src::<f32>(0).at(start, n), args.src::<f32>(1).at(start, n)];
        // SAFETY: the operands hold the elements, which belong to the caller.
        unsafe { gradient(self.isa, self.kind, operands, args.dst::<f32>(2).at(start, n), n) };
    }
}
