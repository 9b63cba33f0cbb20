//! Random contents.

use cnnrs::random::Stream;
use cnnrs::reference::Tensor;

/// Numbers that float32 holds exactly.
pub struct Draws(Stream);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(Stream::new(seed, 0))
    }

    /// A number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        f64::from(self.0.uniform())
    }

    /// A nearly normal number.
    pub fn normal(&mut self) -> f64 {
        (0..6).map(|_| self.uniform()).sum::<f64>() - 3.0
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    pub fn floats(&mut self, shape: &[usize]) -> Tensor {
        let count = shape.iter().product();
        Tensor::floats(shape.to_vec(), (0..count).map(|_| f64::from(self.normal() as f32)).collect())
    }
}
