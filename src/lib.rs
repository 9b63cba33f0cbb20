//! The core of the Python package `cnnrs`: convolutional neural networks on CPUs.
//!
//! ```text
//! graph ──grad──▶ graph ──passes──▶ graph ──plan──▶ plan ──exec──▶ memory
//! ```
//! * [`graph`]: what is computed; portable, differentiable, printable. Knows nothing of kernels.
//! * [`passes`]: rewrites of a graph, one per file.
//! * [`plan`]: kernels chosen, memory placed; immutable and shared.
//! * [`exec`]: runs a plan on a team of threads ([`parallel`]) in an [`arena`].
//! * [`kernels`]: one op each, over the [`simd`] layer; know nothing of graphs.
//! * [`image`]: images to the size that a network takes.
//! * [`sync`]: the locks, none of which a fork can leave held.
//! * [`program`]: a graph with its stored tensors and its plans by batch size.

pub mod algorithm;
pub mod arena;
pub mod config;
pub mod error;
pub mod exec;
pub mod faults;
mod finite;
pub mod floats;
pub mod function;
pub mod graph;
pub mod guards;
pub mod image;
pub mod kernels;
pub mod parallel;
pub mod passes;
pub mod peak;
pub mod plan;
pub mod plan_cache;
pub mod profile;
pub mod program;
#[cfg(feature = "python")]
mod python;
pub mod random;
pub mod reference;
pub mod simd;
pub mod storage;
pub mod sync;
pub mod tensor;
pub mod window;
