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
mod product;
mod tile;

pub use gradient::{BackwardUpdate, BackwardWeights};
pub use product::Product;

use super::conv::RUN;

/// Terms of the reduction that are multiplied at a time.
const CHUNK: usize = RUN;
/// Floats from one row of a copied source to the next: rows of a multiple of 4 KiB would share a few lines of the cache.
const SRC_PITCH: usize = CHUNK + 16;
