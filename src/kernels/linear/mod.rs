//! Products of matrices whose weights are used as they are: `[in][out]`, the layout of a stored tensor.
//!
//! A task owns a block of result channels and goes through the reduction in chunks of [`CHUNK`]. It copies the chunk's
//! weights, in long stretches of memory, to panels that stay in the second-level cache, and multiplies them with all of
//! its rows. So each weight is read from memory once, and nothing is packed ahead.
//!
//! The sum of a chunk is one accumulator's, and chunks are added in order: the same bits as
//! [`conv::Forward`](super::conv::Forward) and [`conv::BackwardData`](super::conv::BackwardData) give for images of one
//! pixel.

mod gradient;
mod panels;
mod product;
mod tile;

use std::ops::Range;

pub use gradient::{BackwardUpdate, BackwardWeights};
pub use product::Product;

use super::conv::RUN;

/// Terms of the reduction that are multiplied at a time.
const CHUNK: usize = RUN;
/// Floats from one row of a copied source to the next: rows of a multiple of 4 KiB would share a few lines of the cache.
const SRC_PITCH: usize = CHUNK + 16;

/// Part number `index` of `parts` nearly equal parts of `0..total`.
fn share(index: usize, parts: usize, total: usize) -> Range<usize> {
    index * total / parts..(index + 1) * total / parts
}

/// Copies floats that need not be aligned.
///
/// # Safety
/// `count` floats are readable and writable, and do not overlap.
unsafe fn copy(from: *const f32, to: *mut f32, count: usize) {
    // SAFETY: the caller's word.
    unsafe { to.cast::<u8>().copy_from_nonoverlapping(from.cast(), count * size_of::<f32>()) };
}
