//! Functions of one number.

use super::{Chunks, Map, map_body};
use crate::function::UnaryKind;
use crate::kernels::Kernel;
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::Args;

/// Declares functions of one element as types, and per type a loop for every level.
macro_rules! maps {
    ($($(#[$meta:meta])* $loop:ident, $name:ident $(($($field:ident),+))? |$x:ident| $body:expr;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy)]
        struct $name $(($(maps!(@float $field)),+))?;

        impl Map for $name {
            #[inline(always)]
            unsafe fn map<S: Simd>(self, $x: S::V) -> S::V {
                $(let $name($($field),+) = self;)?
                // SAFETY: trait contract.
                unsafe { $body }
            }
        }
        multiversion! { fn $loop(function: $name, src: *const f32, dst: *mut f32, n: usize) = map_body, [$name]; }
    )*};
    (@float $field:ident) => { f32 };
}

// `max` and `min` return their second operand if it is NaN: x comes second.
maps! {
    relu, Relu |x| S::max(S::splat(0.0), x);
    relu6, Relu6 |x| S::min(S::splat(6.0), S::max(S::splat(0.0), x));
    leaky_relu, LeakyRelu(slope) |x| S::select(S::gt(x, S::splat(0.0)), x, S::mul(x, S::splat(slope)));
    elu, Elu(alpha) |x| {
        // `expm1_negative` holds NaN.
        S::select(S::gt(x, S::splat(0.0)), x, S::mul(math::expm1_negative::<S>(x), S::splat(alpha)))
    };
    tanh, Tanh |x| math::tanh::<S>(x);
    sigmoid, Sigmoid |x| math::sigmoid::<S>(x);
    silu, Silu |x| math::gate::<S>(x, x);
    gelu, Gelu |x| math::gelu::<S>(x);
    gelu_tanh, GeluTanh |x| math::gelu_tanh::<S>(x);
    // The bound from below turns −∞ into the limit, −0; six times the rounded sixth is one.
    hardswish, Hardswish |x| S::mul(S::max(S::splat(-3.0), x), sixth_of_relu6::<S>(x));
    hardsigmoid, Hardsigmoid |x| sixth_of_relu6::<S>(x);
    softplus, Softplus |x| math::softplus::<S>(x);
    exp, Exp |x| math::exp::<S>(x);
    log, Log |x| math::log::<S>(x);
    sqrt, Sqrt |x| S::sqrt(x);
    abs, Abs |x| S::abs(x);
    clip, Clip(low, high) |x| S::min(S::splat(high), S::max(S::splat(low), x));
    scale, Scale(scale) |x| S::mul(x, S::splat(scale));
    shift, Shift(shift) |x| S::add(x, S::splat(shift));
    affine, Affine(scale, shift) |x| S::fma(x, S::splat(scale), S::splat(shift));
}

/// `relu6(x + 3) / 6`.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn sixth_of_relu6<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let shifted = S::add(x, S::splat(3.0));
        S::mul(S::min(S::splat(6.0), S::max(S::splat(0.0), shifted)), S::splat(1.0 / 6.0))
    }
}

/// Applies a function to `n` floats.
///
/// # Safety
/// `src` is readable and `dst` writable for `n` floats, which are this task's own; they are the same memory or do not
/// meet. The CPU has `isa`.
pub unsafe fn activate(isa: Isa, kind: UnaryKind, src: *const f32, dst: *mut f32, n: usize) {
    // SAFETY: the caller's word; each vector is read before it is written.
    unsafe {
        match kind {
            UnaryKind::Relu => relu(isa, Relu, src, dst, n),
            UnaryKind::Relu6 => relu6(isa, Relu6, src, dst, n),
            UnaryKind::LeakyRelu(slope) => leaky_relu(isa, LeakyRelu(slope.get()), src, dst, n),
            UnaryKind::Elu(alpha) => elu(isa, Elu(alpha.get()), src, dst, n),
            UnaryKind::Tanh => tanh(isa, Tanh, src, dst, n),
            UnaryKind::Sigmoid => sigmoid(isa, Sigmoid, src, dst, n),
            UnaryKind::Silu => silu(isa, Silu, src, dst, n),
            UnaryKind::Gelu => gelu(isa, Gelu, src, dst, n),
            UnaryKind::GeluTanh => gelu_tanh(isa, GeluTanh, src, dst, n),
            UnaryKind::Hardswish => hardswish(isa, Hardswish, src, dst, n),
            UnaryKind::Hardsigmoid => hardsigmoid(isa, Hardsigmoid, src, dst, n),
            UnaryKind::Softplus => softplus(isa, Softplus, src, dst, n),
            UnaryKind::Exp => exp(isa, Exp, src, dst, n),
            UnaryKind::Log => log(isa, Log, src, dst, n),
            UnaryKind::Sqrt => sqrt(isa, Sqrt, src, dst, n),
            UnaryKind::Abs => abs(isa, Abs, src, dst, n),
            UnaryKind::Clip(low, high) => clip(isa, Clip(low.get(), high.get()), src, dst, n),
            // One rounding where one operation is enough.
            UnaryKind::Affine(factor, term) => match (factor.get(), term.get()) {
                (factor, 0.0) => scale(isa, Scale(factor), src, dst, n),
                (1.0, term) => shift(isa, Shift(term), src, dst, n),
                (factor, term) => affine(isa, Affine(factor, term), src, dst, n),
            },
        }
    }
}

/// Rough operations per element.
pub(crate) fn cost(kind: UnaryKind) -> u64 {
    match kind {
        UnaryKind::Relu | UnaryKind::Abs | UnaryKind::Relu6 | UnaryKind::Clip(..) => 1,
        UnaryKind::LeakyRelu(_) | UnaryKind::Affine(..) => 2,
        UnaryKind::Hardswish | UnaryKind::Hardsigmoid | UnaryKind::Sqrt => 5,
        UnaryKind::Elu(_) | UnaryKind::Exp | UnaryKind::Log => 20,
        UnaryKind::Tanh | UnaryKind::Sigmoid | UnaryKind::Silu => 30,
        UnaryKind::Gelu | UnaryKind::GeluTanh | UnaryKind::Softplus => 40,
    }
}

/// A function of one number. Operands: `src`, `dst` (`len` floats each; may be the same memory).
#[derive(Debug, Clone)]
pub struct Unary {
    isa: Isa,
    kind: UnaryKind,
    chunks: Chunks,
}

impl Unary {
    /// `kind` over `len` elements.
    pub fn new(isa: Isa, kind: UnaryKind, len: usize) -> Self {
        Self { isa, kind, chunks: Chunks::new(len, 1) }
    }
}

impl Kernel for Unary {
    fn name(&self) -> String {
        format!("{}_{}", self.kind.name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        cost(self.kind) * self.chunks.count() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let src = args.src::<f32>(0).at(range.start, range.len());
        let dst = args.dst::<f32>(1).at(range.start, range.len());
        // SAFETY: the operands hold the chunk, which belongs to this task.
        unsafe { activate(self.isa, self.kind, src, dst, range.len()) };
    }
}
