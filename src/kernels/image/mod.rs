//! Images of bytes to another size: weighted sums along the rows, then along the columns, as Pillow computes them.
//!
//! Every weight is an integer in units of 2⁻²² and each pass rounds to bytes, so the results are integers that do not
//! depend on the level or the order of summation, and equal Pillow's bit by bit.

mod passes;
mod taps;

pub use passes::{Horizontal, Vertical};
pub use taps::{Interpolation, Taps};
