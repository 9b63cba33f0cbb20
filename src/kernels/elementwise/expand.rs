//! Copies of a tensor along new or repeated axes.

use super::broadcast::{Block, Broadcast};
use super::{Chunks, load_first, store_first};
use crate::error::Result;
use crate::kernels::Kernel;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;

/// A tensor broadcast to a shape, every element divided by a number if one is given. Operands: `src`, `dst` (floats of their shapes).
#[derive(Debug, Clone)]
pub struct Expand {
    isa: Isa,
    broadcast: Broadcast,
    divisor: Option<f32>,
    chunks: Chunks,
}

impl Expand {
    /// From the shape `src`, which broadcasts to `shape`.
    pub fn new(isa: Isa, shape: &[usize], src: &[usize], divisor: Option<f32>) -> Result<Self> {
        let broadcast = Broadcast::new(shape, [src, shape])?;
        let chunks = Chunks::new(broadcast.len(), 1);
        Ok(Self { isa, broadcast, divisor, chunks })
    }
}

/// # Safety
/// `rows` rows of `n` elements at `src`, `pitch` apart, or of one that stands for all; contiguous ones at `dst`.
#[inline(always)]
unsafe fn expand_body<S: Simd, const STEP: usize>(
    src: *const f32,
    dst: *mut f32,
    rows: usize,
    n: usize,
    pitch: usize,
    divisor: Option<f32>,
) {
    for row in 0..rows {
        // SAFETY: every access lies within a row.
        unsafe {
            let (src, dst) = (src.add(row * pitch), dst.add(row * n));
            let first = src.read_unaligned();
            let one = S::splat(divisor.map_or(first, |divisor| first / divisor));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let value = match divisor {
                    _ if STEP == 0 => one,
                    None => load_first::<S>(src.add(i), lanes),
                    Some(divisor) => S::div(load_first::<S>(src.add(i), lanes), S::splat(divisor)),
                };
                store_first::<S>(dst.add(i), value, lanes);
            }
        }
    }
}

multiversion! {
    fn fill(src: *const f32, dst: *mut f32, rows: usize, n: usize, pitch: usize, divisor: Option<f32>) = expand_body, [0];
}
multiversion! {
    fn copy(src: *const f32, dst: *mut f32, rows: usize, n: usize, pitch: usize, divisor: Option<f32>) = expand_body, [1];
}

impl Kernel for Expand {
    fn name(&self) -> String {
        format!("expand_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.chunks.count() as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (src, dst) = (args.src::<f32>(0), args.dst::<f32>(1));
        let step = self.broadcast.steps()[0];
        self.broadcast.walk(self.chunks.range(task), |Block { at, from, rows, n, pitch }| {
            let from = src.at(from[0], (rows - 1) * pitch[0] + (n - 1) * step + 1);
            let to = dst.at(at, rows * n);
            let function = if step == 0 { fill } else { copy };
            // SAFETY: the operands hold the block; in the result it belongs to this task.
            unsafe { function(self.isa, from, to, rows, n, pitch[0], self.divisor) };
        });
    }
}
