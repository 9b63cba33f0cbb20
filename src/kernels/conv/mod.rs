//! Convolution as an indirect matrix product, straight on NHWC.
//!
//! Every result pixel has, per kernel row or tap, a pointer to the contiguous input floats that it meets (a *segment*);
//! padding points at zeros. A tile of result pixels × channels is then one matrix product whose left side is read
//! through the pointers, with no copy of the input. The same engine serves
//!
//! * [`Forward`]: result pixels are outputs; bias, normalization, addition and activation in the epilogue;
//! * [`BackwardData`]: result pixels are inputs, split by their residue modulo the stride into dense sub-problems, so
//!   that nothing is scattered;
//! * linear layers, as convolutions of one-pixel images.
//!
//! [`BackwardWeights`] reduces over pixels instead, with the same pointers.
//!
//! Where every output channel reads one input channel there is nothing to multiply matrices for: [`depthwise`].
//! Where the result has few channels, vectors run along a kernel row's taps as well: [`spread`]; where the source has but
//! one, along pixels: [`planes`].

mod backward_weights;
mod calls;
mod cut;
pub mod depthwise;
mod direct;
mod epilogue;
mod gather;
mod geometry;
mod global_pool;
mod indirect;
mod line;
mod micro;
mod micro_gradient;
mod moments;
mod pack;
pub mod planes;
mod pooled;
pub mod spread;
mod sums;
mod tables;
pub mod winograd;

pub use backward_weights::BackwardWeights;
pub use direct::{BackwardData, Forward};
pub use epilogue::Epilogue;
pub use geometry::Geometry;
pub use global_pool::{ByChannels, GlobalPool};
pub(in crate::kernels) use micro::{RUN, Spilled, SpilledAt, by_rows, tile_rows};
pub(in crate::kernels) use micro_gradient::{GradTile, grad_tile};
pub use pack::{PackBackwardData, PackForward};
pub use pooled::Pooled;
pub use sums::Passed;
