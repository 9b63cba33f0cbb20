//! Convolutions by transformed tiles.

use super::layers::added_in_place;
use super::{FLOAT, Lowering};
use crate::graph::{Fused, Node};
use crate::kernels::conv::Geometry;
use crate::kernels::conv::winograd::{BackwardWeights, Pack, Product};

impl Lowering<'_> {
    pub(super) fn winograd_forward(&mut self, node: &Node, geometry: Geometry, fused: Fused) {
        let isa = self.options.isa;
        let (epilogue, behind) = self.epilogue(node, fused);
        let mut operands =
            vec![self.buffer(node.inputs[0]), self.winograd_weights(node, Pack::forward(isa, &geometry))];
        operands.extend(behind);
        operands.push(self.buffer(node.outputs[0]));
        self.refused.push(("conv_direct".to_owned(), "more products".to_owned()));
        let in_place = added_in_place(epilogue, true, &operands);
        self.push_in_place(node, Product::forward(isa, &geometry, epilogue), operands, geometry.describe(), in_place);
    }

    pub(super) fn winograd_backward_data(&mut self, node: &Node, geometry: Geometry) {
        let isa = self.options.isa;
        let packed = self.winograd_weights(node, Pack::backward_data(isa, &geometry));
        let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
        self.refused.push(("conv_backward_data".to_owned(), "more products".to_owned()));
        self.push(node, Product::backward_data(isa, &geometry), operands, geometry.describe());
    }

    pub(super) fn winograd_backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = BackwardWeights::new(self.options.isa, &geometry);
        let mut operands = self.buffers(&node.inputs);
        operands.push(self.temp(kernel.positions_len() * FLOAT));
        operands.push(self.buffer(node.outputs[0]));
        self.refused.push(("conv_backward_weights".to_owned(), "more products".to_owned()));
        self.push(node, kernel, operands, geometry.describe());
    }

    fn winograd_weights(&mut self, node: &Node, pack: Pack) -> usize {
        let (floats, format) = (pack.packed_len(), pack.format());
        self.pack(node, node.inputs[1], pack, floats, format)
    }

    /// Notes why a convolution by 3x3 is not computed this way; of others that is no question.
    pub(super) fn refuse_winograd(&mut self, geometry: &Geometry, candidate: &str, reason: String) {
        if geometry.window.kernel == [3, 3] {
            self.refused.push((candidate.to_owned(), reason));
        }
    }
}
