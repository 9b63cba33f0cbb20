//! Debug builds only: memory that nobody has written reads as NaN, and a write past the end of a buffer is caught after
//! the step that made it.

use crate::tensor::{GUARD, Slot};

/// What guards hold.
const PATTERN: u8 = 0xA5;

/// Fills a buffer that comes alive with NaN (−1 as an integer) and closes it with a guard.
///
/// # Safety
/// The buffer and [`GUARD`] bytes behind it belong to the caller alone.
pub unsafe fn open(buffer: Slot) {
    // SAFETY: the caller's word.
    unsafe {
        buffer.ptr().write_bytes(0xFF, buffer.bytes());
        buffer.ptr().add(buffer.bytes()).write_bytes(PATTERN, GUARD);
    }
}

/// Whether nobody wrote behind a buffer since it was opened.
///
/// # Safety
/// The buffer was opened and nobody writes to its guard meanwhile.
pub unsafe fn intact(buffer: Slot) -> bool {
    // SAFETY: the caller's word.
    (0..GUARD).all(|index| unsafe { buffer.ptr().add(buffer.bytes() + index).read() } == PATTERN)
}
