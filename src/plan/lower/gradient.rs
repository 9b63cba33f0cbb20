//! Data gradients of convolutions that pass the gate and the sums of the normalization before on their way: they are left
//! for its gradient, unless somebody else reads them.

use super::layers::added_in_place;
use super::norm::DOUBLE;
use super::{FLOAT, Lowering};
use crate::algorithm::Algorithm;
use crate::graph::op::Gate;
use crate::graph::{Node, Op, ValueId};
use crate::kernels::conv::winograd::{self, Pack, Product};
use crate::kernels::conv::{BackwardData, Geometry, PackBackwardData, Passed, depthwise, spread};
use crate::kernels::norm;

/// Gradients of fewer numbers stay in cache until a step of its own reads them, which then takes less time than what it costs
/// to pass on the way.
const LARGE: usize = 1 << 20;

/// How a data gradient is computed: a rule in shape, level and permission.
enum Way {
    Depthwise,
    Tiles,
    Spread,
    /// Why depthwise, by tiles and spread are refused.
    Direct([String; 3]),
}

/// The kernel of a data gradient that can pass.
#[allow(clippy::large_enum_variant)] // one at a time, on its way into a step
enum Passing {
    /// And why it is not computed otherwise.
    Direct(BackwardData, [String; 3]),
    Tiles(Product),
}

impl<'a> Lowering<'a> {
    fn data_way(&self, geometry: &Geometry, algorithm: Algorithm) -> Way {
        let isa = self.options.isa;
        let Some(channels) = depthwise::refusal(isa, geometry) else { return Way::Depthwise };
        let Some(tiles) = winograd::refusal_of_data(self.options.algorithm.and(algorithm), geometry) else {
            return Way::Tiles;
        };
        let Some(spread) = spread::refusal(isa, geometry, true) else { return Way::Spread };
        Way::Direct([channels, tiles, spread])
    }

    pub(super) fn backward_data(&mut self, node: &Node, geometry: Geometry, algorithm: Algorithm) {
        match self.data_way(&geometry, algorithm) {
            Way::Depthwise => self.depthwise_backward_data(node, geometry),
            Way::Tiles => self.winograd_backward_data(node, geometry),
            Way::Spread => self.spread_backward_data(node, geometry),
            Way::Direct(refusals) => {
                let packed = self.direct_weights(node, geometry);
                let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
                self.refuse_others(&geometry, refusals);
                self.push(node, BackwardData::new(self.options.isa, geometry), operands, geometry.describe());
            }
        }
    }

    /// The weights as a direct data gradient wants them.
    fn direct_weights(&mut self, node: &Node, geometry: Geometry) -> usize {
        let pack = PackBackwardData::new(self.options.isa, geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        self.pack(node, node.inputs[1], pack, floats, format)
    }

    /// Notes why a data gradient is a direct one.
    fn refuse_others(&mut self, geometry: &Geometry, [channels, tiles, spread]: [String; 3]) {
        self.refuse_depthwise(geometry, "conv_depthwise_backward_data", channels);
        self.refuse_winograd(geometry, "conv_winograd_backward_data", tiles);
        self.refuse_spread(geometry, "conv_spread_backward_data", spread);
    }

    /// Whether a data gradient is left for the gradient of a normalization.
    pub(super) fn passes_gradient(&self, node: &Node) -> bool {
        let (Op::Conv2dBackwardData { .. }, &[result]) = (&node.op, node.outputs.as_slice()) else { return false };
        let reads = |reader: &&Node| terms(reader).contains(&Some(result));
        let Some(reader) = self.graph.nodes().iter().find(reads) else { return false };
        let wanted = reader.outputs.iter().any(|&id| self.reads(id));
        wanted && matches!(self.gradient_source(reader), Some(Ok((maker, _))) if maker.outputs == [result])
    }

    /// The data gradient that passes the gate and sums of this node, and which other gradient is added, if one is; or why none
    /// of those that it reads does.
    pub(super) fn gradient_source(&self, node: &Node) -> Option<Result<(&'a Node, Option<ValueId>), String>> {
        let [one, other] = terms(node);
        let mut refusal = None;
        for (term, other) in [(one, other), (other, one)] {
            let Some(term) = term else { continue };
            let made = |node: &&Node| matches!(node.op, Op::Conv2dBackwardData { .. }) && node.outputs == [term];
            let Some(maker) = self.graph.nodes().iter().find(made) else { continue };
            let reason = if self.readers[term.0] > 1 {
                "read elsewhere".to_owned()
            } else {
                match self.passing(maker) {
                    Ok(_) => return Some(Ok((maker, other))),
                    Err(reason) => reason,
                }
            };
            refusal = refusal.or(Some(Err(reason)));
        }
        refusal
    }

    /// The geometry of a data gradient and its kernel, or why that passes nothing.
    fn passing(&self, maker: &Node) -> Result<(Geometry, Passing), String> {
        let none = || "the kernel takes none".to_owned();
        let &Op::Conv2dBackwardData { window, groups, algorithm, .. } = &maker.op else { return Err(none()) };
        let geometry = self.data_geometry(maker, window, groups).map_err(|_| none())?;
        if geometry.src_len() < LARGE {
            return Err(format!("{} numbers stay in cache", geometry.src_len()));
        }
        let isa = self.options.isa;
        let (kernel, refusal) = match self.data_way(&geometry, algorithm) {
            Way::Depthwise | Way::Spread => return Err(none()),
            Way::Tiles => {
                let kernel = Product::backward_data(isa, &geometry, self.keeps_packed(maker.inputs[1]));
                let refusal = kernel.sums_refusal();
                (Passing::Tiles(kernel), refusal)
            }
            Way::Direct(refusals) => {
                let kernel = BackwardData::new(isa, geometry);
                let refusal = kernel.sums_refusal();
                (Passing::Direct(kernel, refusals), refusal)
            }
        };
        refusal.map_or(Ok((geometry, kernel)), Err)
    }

    /// The gradient of a normalization behind a gate, of what `maker` passes of its data gradient and `other`.
    pub(super) fn gate_behind(&mut self, node: &Node, maker: &Node, other: Option<ValueId>, gate: Option<Gate>) {
        let (geometry, kernel) = self.passing(maker).expect("asked before");
        let gate = gate.and_then(|Gate { kind, recompute }| Some(norm::Gate { limit: kind.gate_limit()?, recompute }));
        let passed = Passed { gate, add: other.is_some() };
        let isa = self.options.isa;
        let mut operands = vec![self.buffer(maker.inputs[0])];
        let parts = match &kernel {
            Passing::Direct(kernel, _) => {
                operands.push(self.direct_weights(maker, geometry));
                kernel.parts().len()
            }
            Passing::Tiles(kernel) => {
                operands.push(self.winograd_weights(maker, kernel, Pack::backward_data(isa, &geometry)));
                kernel.parts().len()
            }
        };
        operands.extend(other.map(|other| self.buffer(other)));
        let grad = self.buffer(node.outputs[3]);
        operands.push(grad);
        let epilogue = passed.epilogue();
        let in_place = added_in_place(epilogue, true, &operands);
        if let Passing::Tiles(kernel) = &kernel
            && kernel.positions_len() > 0
        {
            operands.push(self.temp(kernel.positions_len() * FLOAT));
        }
        let [x, weight, mean, rstd] = [1, 2, 3, 4].map(|index| self.buffer(node.inputs[index]));
        operands.extend([x, mean]);
        if let Some(gate) = gate {
            if gate.recompute {
                operands.extend([weight, rstd]);
            }
            operands.push(self.buffer(node.inputs[5]));
        }
        let shape = self.per_channel(node.inputs[1]);
        let partials = self.temp(2 * parts * shape.channels * DOUBLE);
        operands.push(partials);
        let read_again = |&(from, _): &(usize, usize)| {
            operands[..from].iter().chain(&operands[from + 1..]).any(|&b| b == operands[from])
        };
        let in_place: Vec<_> = in_place.into_iter().filter(|pair| !read_again(pair)).collect();
        let (sums, named) = ((shape, parts, partials), (maker, geometry.describe()));
        match kernel {
            Passing::Direct(kernel, refusals) => {
                self.refuse_others(&geometry, refusals);
                self.finish_sums(node, named, sums, (kernel.passing(passed), operands, in_place), grad, None);
            }
            Passing::Tiles(kernel) => {
                self.refused.push(("conv_backward_data".to_owned(), "more products".to_owned()));
                self.finish_sums(node, named, sums, (kernel.passing(passed), operands, in_place), grad, None);
            }
        }
    }
}

/// The gradients that the gradient of a normalization behind a gate or a sum is that of: one, or the two of a sum.
fn terms(node: &Node) -> [Option<ValueId>; 2] {
    match node.op {
        Op::BatchNormGateBackward { sum, .. } => [Some(node.inputs[0]), node.inputs.last().copied().filter(|_| sum)],
        _ => [None; 2],
    }
}
