//! Convolutions to few channels: by planes of pixels, or by spread pixels.

use super::Lowering;
use super::pooled::{Pool, Pooling};
use crate::graph::{Fused, Node};
use crate::kernels::conv::Geometry;
use crate::kernels::conv::planes::Planes;
use crate::kernels::conv::spread::{BackwardData, BackwardWeights, Forward, Pack};

impl Lowering<'_> {
    pub(super) fn planes_forward(&mut self, node: &Node, geometry: Geometry, fused: Fused, pooling: Option<&Pooling>) {
        let (epilogue, behind) = self.epilogue(node, fused);
        let kernel = Planes::new(self.options.isa, geometry, epilogue);
        let (kernel, result) = match pooling {
            Some(&Pooling { of: Pool::Windows(kind, _), result }) => (kernel.pooled(kind), result),
            _ => (kernel, node.outputs[0]),
        };
        let mut operands = self.buffers(&node.inputs[..2]);
        operands.extend(behind);
        operands.push(self.buffer(result));
        self.refused.push(("conv_direct".to_owned(), "one channel to few".to_owned()));
        self.push(node, kernel, operands, geometry.describe());
    }

    pub(super) fn spread_forward(&mut self, node: &Node, geometry: Geometry, fused: Fused) {
        let isa = self.options.isa;
        let (epilogue, behind) = self.epilogue(node, fused);
        let pack = Pack::new(isa, geometry, false);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let mut operands = vec![self.buffer(node.inputs[0]), packed];
        operands.extend(behind);
        operands.push(self.buffer(node.outputs[0]));
        self.refused.push(("conv_direct".to_owned(), "few channels".to_owned()));
        self.push(node, Forward::new(isa, geometry, epilogue), operands, geometry.describe());
    }

    pub(super) fn spread_backward_data(&mut self, node: &Node, geometry: Geometry) {
        let isa = self.options.isa;
        let pack = Pack::new(isa, geometry, true);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
        self.refused.push(("conv_backward_data".to_owned(), "few channels".to_owned()));
        self.push(node, BackwardData::new(isa, geometry), operands, geometry.describe());
    }

    pub(super) fn spread_backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = BackwardWeights::new(self.options.isa, geometry);
        let (parts, operands) = (kernel.parts(), self.buffers(&node.inputs));
        self.refused.push(("conv_backward_weights".to_owned(), "few channels".to_owned()));
        self.push_parts(node, kernel, parts, operands, geometry.describe());
    }

    /// Notes why a convolution to fewer channels than a vector has lanes does not spread its pixels; of others that is no
    /// question.
    pub(super) fn refuse_spread(&mut self, geometry: &Geometry, candidate: &str, reason: String) {
        let lanes = self.options.isa.lanes();
        let results = if candidate == "conv_spread" { geometry.oc } else { geometry.ic };
        if results < lanes && geometry.taps() > 1 {
            self.refused.push((candidate.to_owned(), reason));
        }
    }
}
