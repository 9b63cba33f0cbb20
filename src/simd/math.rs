//! Transcendental functions over any [`Simd`](super::Simd) level.
