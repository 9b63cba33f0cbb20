//! Convolutions by transformed tiles.

use super::{FLOAT, Lowering};
use crate::graph::Node;
use crate::kernels::conv::winograd::{BackwardWeights, Pack, Product};
use crate::kernels::conv::{Epilogue, Geometry};

impl Lowering<'_> {
    pub(super) fn winograd_forward(&mut self, node: &Node, geometry: Geometry, epilogue: Epilogue) {
        let isa = self.options.isa;
        let kernel = Product::forward(isa, &geometry, epilogue, self.keeps_packed(node.inputs[1]));
        self.winograd(node, kernel, Pack::forward(isa, &geometry), "conv_direct", &geometry);
    }

    pub(super) fn winograd_backward_data(&mut self, node: &Node, geometry: Geometry) {
        let isa = self.options.isa;
        let kernel = Product::backward_data(isa, &geometry, self.keeps_packed(node.inputs[1]));
        self.winograd(node, kernel, Pack::backward_data(isa, &geometry), "conv_backward_data", &geometry);
    }

    pub(super) fn winograd_backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = BackwardWeights::new(self.options.isa, &geometry);
        let mut operands = self.buffers(&node.inputs);
        operands.push(self.temp(kernel.positions_len() * FLOAT));
        operands.push(self.buffer(node.outputs[0]));
        self.refused.push(("conv_backward_weights".to_owned(), "more products".to_owned()));
        self.push(node, kernel, operands, geometry.describe());
    }

    fn winograd(&mut self, node: &Node, kernel: Product, pack: Pack, other: &str, geometry: &Geometry) {
        let mut operands = vec![self.buffer(node.inputs[0])];
        operands.push(if kernel.takes_raw() {
            self.buffer(node.inputs[1])
        } else {
            let (floats, format) = (pack.packed_len(), pack.format());
            self.pack(node, node.inputs[1], pack, floats, format)
        });
        operands.extend(node.inputs.get(2).map(|&bias| self.buffer(bias)));
        if kernel.positions_len() > 0 {
            operands.push(self.temp(kernel.positions_len() * FLOAT));
        }
        operands.push(self.buffer(node.outputs[0]));
        self.refused.push((other.to_owned(), "more products".to_owned()));
        self.push(node, kernel, operands, geometry.describe());
    }

    /// Notes why a convolution by 3x3 is not computed this way; of others that is no question.
    pub(super) fn refuse_winograd(&mut self, geometry: &Geometry, candidate: &str, reason: String) {
        if geometry.window.kernel == [3, 3] {
            self.refused.push((candidate.to_owned(), reason));
        }
    }
}
