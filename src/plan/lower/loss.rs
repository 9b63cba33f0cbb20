//! Softmax, cross-entropy, and the scaling of image bytes.

use super::{FLOAT, Lowering};
use crate::error::Result;
use crate::graph::{Node, Scalar};
use crate::kernels::cross_entropy::{CrossEntropy, CrossEntropyReduce, CrossEntropyTotals, Targets};
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

    pub(super) fn cross_entropy(&mut self, node: &Node, smoothing: f32, ignore: Option<i64>) {
        let shape = self.shape(node.inputs[0]);
        let (rows, classes) = (shape[0], shape[1]);
        let targets = Targets { smoothing, ignore, weighted: node.inputs.len() > 2 };
        let (loss, correct, diff, counted) = (node.outputs[0], node.outputs[1], node.outputs[2], node.outputs[3]);
        let [logits, labels] = [0, 1].map(|index| self.buffer(node.inputs[index]));
        let weights = node.inputs.get(2).map(|&weights| self.buffer(weights));
        let losses = self.temp(rows * size_of::<f64>());
        let hits = self.temp(rows * FLOAT);
        let totals = targets.totals().then(|| self.temp(2 * size_of::<f64>()));
        if let Some(totals) = totals {
            let operands = [labels, totals].into_iter().chain(weights).collect();
            self.push(node, CrossEntropyTotals::new(rows, classes, targets), operands, shape_text(shape));
        }
        let operands = [logits, labels, losses, hits, self.buffer(diff)];
        let operands = operands.into_iter().chain(totals).chain(weights).collect();
        let kernel = CrossEntropy::new(self.options.isa, rows, classes, targets);
        self.push_in_place(node, kernel, operands, shape_text(shape), Some((0, 4)));
        let operands =
            [losses, hits].into_iter().chain(self.buffers(&[loss, correct, counted])).chain(totals).collect();
        self.push(node, CrossEntropyReduce::new(rows, totals.is_some()), operands, shape_text(shape));
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
