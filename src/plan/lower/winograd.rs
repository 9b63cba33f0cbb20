//! Convolutions by transformed tiles.

use super::layers::added_in_place;
use super::pooled::{Pool, Pooling};
use super::{FLOAT, Lowering};
use crate::graph::{Fused, Node, ValueId};
use crate::kernels::conv::winograd::{BackwardWeights, Pack, Product, has_scheme};
use crate::kernels::conv::{Epilogue, Geometry, Pooled};
use crate::kernels::pool::PoolGeometry;

impl Lowering<'_> {
    /// The convolution, to its result or to what is pooled of it.
    pub(super) fn winograd_forward(
        &mut self,
        node: &Node,
        geometry: Geometry,
        fused: Fused,
        pooling: Option<&Pooling>,
    ) {
        let isa = self.options.isa;
        let (epilogue, behind) = self.epilogue(node, fused);
        let kernel = Product::forward(isa, &geometry, epilogue, self.keeps_packed(node.inputs[1]));
        let (kernel, result) = match pooling {
            Some(&Pooling { of: Pool::Windows(_, windows), result }) => {
                if !(windows.window.halves() && Product::pools(&geometry, epilogue)) {
                    return self.winograd_lines(node, geometry, (windows, result), (epilogue, behind));
                }
                (kernel.pooled(), result)
            }
            _ => (kernel, node.outputs[0]),
        };
        let moments = self.takes_moments(node.outputs[0], || kernel.moments_refusal());
        let kernel = if moments { kernel.with_moments() } else { kernel };
        self.winograd(
            node,
            (kernel, epilogue, behind),
            Pack::forward(isa, &geometry),
            "conv_direct",
            (&geometry, result, pooling),
        );
    }

    /// The convolution, pooled over windows that tiles do not hold.
    fn winograd_lines(
        &mut self,
        node: &Node,
        geometry: Geometry,
        (windows, result): (PoolGeometry, ValueId),
        (epilogue, behind): (Epilogue, Vec<usize>),
    ) {
        let isa = self.options.isa;
        let kernel = Pooled::by_tiles(isa, geometry, windows, epilogue).expect("deferred because there is one");
        let pack = Pack::forward(isa, &geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        let mut operands = vec![self.buffer(node.inputs[0]), self.pack(node, node.inputs[1], pack, floats, format)];
        operands.extend(behind);
        operands.push(self.buffer(result));
        if kernel.seams_len() > 0 {
            operands.push(self.temp(kernel.seams_len() * FLOAT));
        }
        self.refused.push(("conv_direct".to_owned(), "more products".to_owned()));
        self.push(node, kernel, operands, geometry.describe());
    }

    pub(super) fn winograd_backward_data(&mut self, node: &Node, geometry: Geometry) {
        let isa = self.options.isa;
        let kernel = Product::backward_data(isa, &geometry, self.keeps_packed(node.inputs[1]));
        let kernel = (kernel, Epilogue::default(), Vec::new());
        let result = node.outputs[0];
        self.winograd(
            node,
            kernel,
            Pack::backward_data(isa, &geometry),
            "conv_backward_data",
            (&geometry, result, None),
        );
    }

    pub(super) fn winograd_backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = BackwardWeights::new(self.options.isa, &geometry);
        let mut operands = self.buffers(&node.inputs);
        if kernel.positions_len() > 0 {
            operands.push(self.temp(kernel.positions_len() * FLOAT));
        }
        self.refused.push(("conv_backward_weights".to_owned(), "more products".to_owned()));
        let parts = kernel.parts();
        self.push_parts(node, kernel, parts, operands, geometry.describe());
    }

    /// `behind` are the operands of the epilogue.
    fn winograd(
        &mut self,
        node: &Node,
        (kernel, epilogue, behind): (Product, Epilogue, Vec<usize>),
        pack: Pack,
        other: &str,
        (geometry, result, pooling): (&Geometry, ValueId, Option<&Pooling>),
    ) {
        let mut operands = vec![self.buffer(node.inputs[0]), self.winograd_weights(node, &kernel, pack)];
        operands.extend(behind);
        operands.push(self.buffer(result));
        let in_place = added_in_place(epilogue, true, &operands);
        if kernel.positions_len() > 0 {
            operands.push(self.temp(kernel.positions_len() * FLOAT));
        }
        if kernel.takes_moments() {
            operands.push(self.partials(result, kernel.parts()));
        }
        self.refused.push((other.to_owned(), "more products".to_owned()));
        self.push_pooling(node, (kernel, operands, in_place), pooling, geometry.describe());
    }

    /// The weights as the kernel wants them.
    pub(super) fn winograd_weights(&mut self, node: &Node, kernel: &Product, pack: Pack) -> usize {
        if kernel.takes_raw() {
            return self.buffer(node.inputs[1]);
        }
        let (floats, format) = (pack.packed_len(), pack.format());
        self.pack(node, node.inputs[1], pack, floats, format)
    }

    /// Notes why a convolution that there are transforms for is not computed this way; of others that is no question.
    pub(super) fn refuse_winograd(&mut self, geometry: &Geometry, candidate: &str, reason: String) {
        if has_scheme(geometry) {
            self.refused.push((candidate.to_owned(), reason));
        }
    }
}
