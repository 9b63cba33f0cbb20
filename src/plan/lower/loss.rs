//! Softmax, cross-entropy, and the scaling of image bytes.

use super::{FLOAT, Lowering};
use crate::error::{Error, Result};
use crate::graph::{Node, Scalar};
use crate::kernels::{cross_entropy, elementwise, softmax};
use crate::tensor::{shape_text, volume};

impl Lowering<'_> {
    pub(super) fn softmax(&mut self, node: &Node, axis: usize, log: bool) -> Result<()> {
        let shape = self.shape(node.inputs[0]);
        if log || shape.len() != 2 || axis != 1 {
            return Err(Error::Unsupported("this axis is not there yet".into()));
        }
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push(node, softmax::Softmax::new(self.options.isa, shape[0], shape[1]), operands, shape_text(shape));
        Ok(())
    }

    pub(super) fn softmax_backward(&mut self, node: &Node, axis: usize, log: bool) -> Result<()> {
        let shape = self.shape(node.inputs[0]);
        if log || shape.len() != 2 || axis != 1 {
            return Err(Error::Unsupported("this axis is not there yet".into()));
        }
        let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
        let kernel = softmax::SoftmaxBackward::new(self.options.isa, shape[0], shape[1]);
        self.push(node, kernel, operands, shape_text(shape));
        Ok(())
    }

    pub(super) fn cross_entropy(&mut self, node: &Node, smoothing: f32, ignore: Option<i64>) -> Result<()> {
        if smoothing != 0.0 || ignore.is_some() || node.inputs.len() > 2 {
            return Err(Error::Unsupported("this cross-entropy is not there yet".into()));
        }
        let shape = self.shape(node.inputs[0]);
        let rows = shape[0];
        let losses = self.temp(rows * size_of::<f64>());
        let hits = self.temp(rows * FLOAT);
        let mut operands = self.buffers(&node.inputs);
        operands.extend([losses, hits]);
        operands.push(self.buffer(node.outputs[2]));
        let kernel = cross_entropy::CrossEntropy::new(self.options.isa, rows, shape[1]);
        self.push(node, kernel, operands, shape_text(shape));
        let operands = vec![losses, hits, self.buffer(node.outputs[0]), self.buffer(node.outputs[1])];
        self.push(node, cross_entropy::CrossEntropyReduce::new(rows), operands, shape_text(shape));
        Ok(())
    }

    pub(super) fn normalize(&mut self, node: &Node, mean: &[Scalar], std: &[Scalar]) -> Result<()> {
        let shape = self.shape(node.inputs[0]);
        let floats = |list: &[Scalar]| list.iter().map(|x| x.get()).collect::<Vec<f32>>();
        let pixels = volume(&shape[..3])?;
        let kernel = elementwise::Normalize::new(self.options.isa, pixels, shape[3], &floats(mean), &floats(std));
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push(node, kernel, operands, shape_text(shape));
        Ok(())
    }
}
