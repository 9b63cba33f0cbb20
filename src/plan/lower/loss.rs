//! Softmax, cross-entropy, and the scaling of image bytes.

use super::{FLOAT, Lowering};
use crate::error::{Error, Result};
use crate::graph::{Node, Scalar};
use crate::kernels::{elementwise, softmax};
use crate::tensor::{shape_text, volume};

impl Lowering<'_> {
    pub(super) fn softmax(&mut self, node: &Node, axis: usize, log: bool) {
        let shape = self.shape(node.inputs[0]);
        let kernel = softmax::Softmax::new(self.options.isa, lines(shape, axis), log);
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push_in_place(node, kernel, operands, shape_text(shape), Some((0, 1)));
    }

    pub(super) fn softmax_backward(&mut self, node: &Node, axis: usize, log: bool) {
        let shape = self.shape(node.inputs[0]);
        let kernel = softmax::SoftmaxBackward::new(self.options.isa, lines(shape, axis), log);
        let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
        self.push_in_place(node, kernel, operands, shape_text(shape), Some((0, 2)));
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
        let kernel = softmax::CrossEntropy::new(self.options.isa, rows, shape[1]);
        self.push(node, kernel, operands, shape_text(shape));
        let operands = vec![losses, hits, self.buffer(node.outputs[0]), self.buffer(node.outputs[1])];
        self.push(node, softmax::CrossEntropyReduce::new(rows), operands, shape_text(shape));
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

/// The lines along an axis.
fn lines(shape: &[usize], axis: usize) -> softmax::Lines {
    let (outer, inner) = (shape[..axis].iter().product(), shape[axis + 1..].iter().product());
    softmax::Lines { outer, classes: shape[axis], inner }
}
