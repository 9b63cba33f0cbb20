//! A stored tensor drawn towards a value: averages of weights.

use crate::kernels::Kernel;
use crate::kernels::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// `dst + weight · (value − dst)`, or, for a weight of ½ and more, `value − (1 − weight) · (value − dst)`, so that a
/// weight of 1 is a copy. Operands: `value` (`len` floats), `weight` (one float), `dst` (`len` floats, updated in
/// place).
#[derive(Debug, Clone)]
pub struct Blend {
    isa: Isa,
    len: usize,
    chunks: Chunks,
}

impl Blend {
    /// Blend of `len` elements.
    pub fn new(isa: Isa, len: usize) -> Self {
        Self { isa, len, chunks: Chunks::new(len, 1) }
    }
}

/// # Safety
/// `n` elements at both addresses, which do not overlap.
#[inline(always)]
unsafe fn blend_body<S: Simd>(value: *const f32, weight: f32, dst: *mut f32, n: usize) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let near = weight >= 0.5;
        let share = S::splat(if near { weight - 1.0 } else { weight });
        for i in (0..n).step_by(S::LANES) {
            let lanes = S::LANES.min(n - i);
            let (to, from) = (load_first::<S>(value.add(i), lanes), load_first::<S>(dst.add(i), lanes));
            let start = if near { to } else { from };
            store_first::<S>(dst.add(i), S::fma(S::sub(to, from), share, start), lanes);
        }
    }
}

multiversion! { fn blend(value: *const f32, weight: f32, dst: *mut f32, n: usize) = blend_body; }

impl Kernel for Blend {
    fn name(&self) -> String {
        format!("blend_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        3 * self.len as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let value = args.src::<f32>(0).at(range.start, range.len());
        let dst = args.dst::<f32>(2).at(range.start, range.len());
        // SAFETY: the operands hold the chunk, which belongs to this task, and one weight that nobody writes.
        unsafe { blend(self.isa, value, args.src::<f32>(1).get(0), dst, range.len()) };
    }
}
