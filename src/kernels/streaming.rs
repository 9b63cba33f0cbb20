//! Results that are written past the caches: what is larger than what a core keeps is not read from memory before it is
//! overwritten, and does not drive out what is still wanted.

use crate::tensor::ALIGN;

/// Bytes of a result from which it is written past the caches.
const LARGE: usize = 4 << 20;

/// Whether a result of `len` floats in rows of `channels` is written past the caches, of which the stores want whole lines.
/// A question of time alone: the bits are the same.
pub fn streams(result: *const f32, len: usize, channels: usize) -> bool {
    let lines = (result as usize).is_multiple_of(ALIGN) && (channels * size_of::<f32>()).is_multiple_of(ALIGN);
    len * size_of::<f32>() >= LARGE && lines
}

/// Puts what this thread has written past the caches before everything that it writes later: due before others are told
/// that it is there.
pub fn settle() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of the baseline.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
