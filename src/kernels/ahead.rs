//! Memory that is wanted soon, asked for while there is other work.

use crate::simd::{Simd, dispatch::multiversion};
use crate::tensor::ALIGN;

/// Floats of a cache line.
pub const LINE: usize = ALIGN / size_of::<f32>();

/// # Safety
/// The CPU has the level; nothing is read.
#[inline(always)]
unsafe fn body<S: Simd>(first: *const f32, size: [usize; 2], pitch: [usize; 2], floats: usize) {
    for y in 0..size[0] {
        for x in 0..size[1] {
            let at = first.wrapping_add(y * pitch[0] + x * pitch[1]);
            for c in (0..floats).step_by(LINE) {
                // SAFETY: prefetching may go anywhere.
                unsafe { S::prefetch_far(at.wrapping_add(c)) };
            }
        }
    }
}

multiversion! {
    /// Asks for `floats` floats of `size` rows and columns of pixels at `pitch` from `first` on.
    pub fn ask(first: *const f32, size: [usize; 2], pitch: [usize; 2], floats: usize) = body;
}
