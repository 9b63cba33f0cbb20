//! Convolutional neural networks on CPUs: the core of the Python package `cnnrs`.
pub mod error;
pub mod kernels;
pub mod simd;
pub mod tensor;
pub mod window;
