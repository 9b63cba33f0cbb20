//! Depthwise convolutions: on the weights as they are, and on repeated channels if several output channels share one.

use super::layers::added_in_place;
use super::{FLOAT, Lowering};
use crate::graph::{Fused, Node, ValueId};
use crate::kernels::conv::Geometry;
use crate::kernels::conv::depthwise::{self, Repeat, SumRepeated};

impl Lowering<'_> {
    pub(super) fn depthwise_forward(&mut self, node: &Node, geometry: Geometry, fused: Fused) {
        let (epilogue, behind) = self.epilogue(node, fused);
        let mut operands = vec![self.repeated(node, node.inputs[0], geometry), self.buffer(node.inputs[1])];
        operands.extend(behind);
        operands.push(self.buffer(node.outputs[0]));
        self.refuse_general("conv_direct");
        let kernel = depthwise::Forward::new(self.options.isa, geometry, epilogue);
        let in_place = added_in_place(epilogue, kernel.adds_in_place(), &operands);
        self.push_in_place(node, kernel, operands, geometry.describe(), in_place);
    }

    pub(super) fn depthwise_backward_data(&mut self, node: &Node, geometry: Geometry) {
        let (len, times) = (geometry.src_len(), geometry.group_oc());
        let mut operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
        let diff_src = operands[2];
        if times > 1 {
            operands[2] = self.temp(len * times * FLOAT);
        }
        let diff_repeated = operands[2];
        self.refuse_general("conv_backward_data");
        self.push(node, depthwise::BackwardData::new(self.options.isa, geometry), operands, geometry.describe());
        if times > 1 {
            self.push(node, SumRepeated::new(len, times), vec![diff_repeated, diff_src], geometry.describe());
        }
    }

    pub(super) fn depthwise_backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = depthwise::BackwardWeights::new(self.options.isa, geometry);
        let operands = vec![self.repeated(node, node.inputs[0], geometry), self.buffer(node.inputs[1])];
        let parts = kernel.parts();
        self.refuse_general("conv_backward_weights");
        self.push_parts(node, kernel, parts, operands, geometry.describe());
    }

    /// The source with a channel for every output channel.
    fn repeated(&mut self, node: &Node, src: ValueId, geometry: Geometry) -> usize {
        let (len, times, src) = (geometry.src_len(), geometry.group_oc(), self.buffer(src));
        if times == 1 {
            return src;
        }
        let repeated = self.temp(len * times * FLOAT);
        self.push(node, Repeat::new(len, times), vec![src, repeated], geometry.describe());
        repeated
    }

    fn refuse_general(&mut self, candidate: &str) {
        self.refused.push((candidate.to_owned(), "depthwise: no sum over channels".to_owned()));
    }

    /// Notes why a grouped convolution is not run by a depthwise kernel; where there are no groups that is no question.
    pub(super) fn refuse_depthwise(&mut self, geometry: &Geometry, candidate: &str, reason: String) {
        if geometry.groups > 1 {
            self.refused.push((candidate.to_owned(), reason));
        }
    }
}
