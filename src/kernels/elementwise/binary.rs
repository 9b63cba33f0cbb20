//! Functions of two numbers, with broadcasting.

use super::broadcast::{Block, Broadcast};
use super::{Chunks, Rows, Zip, narrow_body, zip_body};
use crate::error::Result;
use crate::function::BinaryKind;
use crate::kernels::Kernel;
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::Args;

/// Declares functions of two elements as types, and per type the loops for every level: both operands run along, one
/// of them stays, or one is gathered for short rows.
macro_rules! zips {
    ($($module:ident, $name:ident |$a:ident, $b:ident| $body:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Zip for $name {
            #[inline(always)]
            unsafe fn zip<S: Simd>(self, $a: S::V, $b: S::V) -> S::V {
                // SAFETY: trait contract.
                unsafe { $body }
            }
        }

        mod $module {
            use super::{$name, Rows, multiversion, narrow_body, zip_body};

            multiversion! { fn both(function: $name, rows: Rows) = zip_body, [$name, 1, 1]; }
            multiversion! { fn left(function: $name, rows: Rows) = zip_body, [$name, 1, 0]; }
            multiversion! { fn right(function: $name, rows: Rows) = zip_body, [$name, 0, 1]; }
            multiversion! { fn narrow_left(function: $name, rows: Rows) = narrow_body, [$name, 0]; }
            multiversion! { fn narrow_right(function: $name, rows: Rows) = narrow_body, [$name, 1]; }

            /// # Safety
            /// As for [`zip_body`]; the CPU has `isa`.
            pub unsafe fn run(isa: super::Isa, steps: [usize; 2], rows: Rows) {
                // SAFETY: the caller's word.
                unsafe {
                    match (rows.gathered(isa.lanes(), steps), steps) {
                        (Some(0), _) => narrow_left(isa, $name, rows),
                        (Some(_), _) => narrow_right(isa, $name, rows),
                        (None, [1, 0]) => left(isa, $name, rows),
                        (None, [0, 1]) => right(isa, $name, rows),
                        (None, _) => both(isa, $name, rows),
                    }
                }
            }
        }
    )*};
}

zips! {
    add, Add |a, b| S::add(a, b);
    sub, Sub |a, b| S::sub(a, b);
    mul, Mul |a, b| S::mul(a, b);
    div, Div |a, b| S::div(a, b);
    maximum, Maximum |a, b| math::maximum::<S>(a, b);
    minimum, Minimum |a, b| math::minimum::<S>(a, b);
    share, Share |a, b| {
        let tie = S::select(S::eq(a, b), S::splat(0.5), S::splat(0.0));
        S::select(S::gt(a, b), S::splat(1.0), tie)
    };
    equal, Equal |a, b| S::select(S::eq(a, b), S::splat(1.0), S::splat(0.0));
}

/// A function of two numbers. Operands: `a`, `b` (floats of their shapes), `dst` (floats of the common shape; may be
/// the memory of an operand of that shape).
#[derive(Debug, Clone)]
pub struct Binary {
    isa: Isa,
    kind: BinaryKind,
    broadcast: Broadcast,
    chunks: Chunks,
}

impl Binary {
    /// `kind` of operands of the shapes `a` and `b`, which broadcast to `shape`.
    pub fn new(isa: Isa, kind: BinaryKind, shape: &[usize], a: &[usize], b: &[usize]) -> Result<Self> {
        let broadcast = Broadcast::new(shape, [a, b])?;
        let chunks = Chunks::new(broadcast.len(), 1);
        Ok(Self { isa, kind, broadcast, chunks })
    }
}

impl Kernel for Binary {
    fn name(&self) -> String {
        format!("{}_{}", self.kind.name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.chunks.count() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let function = match self.kind {
            BinaryKind::Add => add::run,
            BinaryKind::Sub => sub::run,
            BinaryKind::Mul => mul::run,
            BinaryKind::Div => div::run,
            BinaryKind::Maximum => maximum::run,
            BinaryKind::Minimum => minimum::run,
            BinaryKind::Share => share::run,
            BinaryKind::Equal => equal::run,
        };
        let (a, b, dst) = (args.src::<f32>(0), args.src::<f32>(1), args.dst::<f32>(2));
        let steps = self.broadcast.steps();
        self.broadcast.walk(self.chunks.range(task), |Block { at, from, rows, n, pitch }| {
            let extent = |i: usize| (rows - 1) * pitch[i] + (n - 1) * steps[i] + 1;
            let call = Rows {
                a: a.at(from[0], extent(0)),
                b: b.at(from[1], extent(1)),
                dst: dst.at(at, rows * n),
                count: rows,
                n,
                pitch,
            };
            // SAFETY: the operands hold the block; in the result it belongs to this task.
            unsafe { function(self.isa, steps, call) };
        });
    }
}
