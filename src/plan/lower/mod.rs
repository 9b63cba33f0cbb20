//! From nodes to kernel calls: one exhaustive match, then the placing of memory.

use std::sync::Arc;

mod arithmetic;
mod depthwise;
mod gradient;
mod layers;
mod loss;
mod movement;
mod norm;
mod place;
mod pool;
mod pooled;
mod spread;
mod strips;
mod update;
mod winograd;

use super::tables::afford;
use super::{Options, PackJob, Place, Plan, Step};
use crate::error::Result;
use crate::graph::{Graph, Node, Op, Role, ValueId};
use crate::kernels::conv::Geometry;
use crate::kernels::tailed::Tailed;
use crate::kernels::{Kernel, reduce};
use crate::tensor::{DType, shape_text};

const FLOAT: usize = size_of::<f32>();

/// Lowers a simplified graph; if it is `watched`, the results of every node are made where they can be looked at.
pub fn lower(graph: &Graph, outputs: &[ValueId], options: Options, watched: bool) -> Result<Plan> {
    let mut lowering = Lowering::new(graph, outputs, options, watched);
    let (effects, pure): (Vec<&Node>, Vec<&Node>) = graph.nodes().iter().partition(|node| node.op.has_effect());
    // A value of which only the shape is wanted is not computed.
    for node in pure.into_iter().filter(|node| node.outputs.iter().any(|id| lowering.read[id.0])).collect::<Vec<_>>() {
        afford(graph, node)?;
        if !lowering.watched && (lowering.passes_gradient(node) || lowering.defers(node)) {
            continue;
        }
        let first = lowering.steps.len();
        lowering.node(node)?;
        lowering.note_results(node, first);
    }
    for nodes in effects.chunk_by(|a, b| is_small(a) && is_small(b)) {
        if is_small(nodes[0]) { lowering.small_effects(nodes) } else { lowering.node(nodes[0])? }
    }
    Ok(lowering.finish(outputs))
}

/// Whether a node with effects only copies or counts.
fn is_small(node: &Node) -> bool {
    matches!(node.op, Op::Assign | Op::Increment)
}

/// A buffer whose place in the arena is not known yet is `None`.
struct Draft {
    place: Option<Place>,
    bytes: usize,
}

/// A step that may let one operand's memory become another's, if the first is not needed afterwards: the first pair for
/// which that is so.
struct DraftStep {
    step: Step,
    in_place: Vec<(usize, usize)>,
}

struct Lowering<'a> {
    graph: &'a Graph,
    options: Options,
    /// Whether the results of every node are made where they can be looked at.
    watched: bool,
    written: Vec<usize>,
    /// Whether anybody needs a value's numbers.
    read: Vec<bool>,
    /// How many operands and outputs each value is.
    readers: Vec<usize>,
    /// Values that are made where an update or a pooling takes them, and the nodes that would make them.
    deferred: Vec<(ValueId, &'a Node)>,
    /// The statistics of convolutions' results that normalizations in training read.
    statistics: Vec<(ValueId, norm::Taken)>,
    /// Sums that were taken where their operand was made.
    sums: Vec<strips::Sums>,
    drafts: Vec<Draft>,
    of_value: Vec<Option<usize>>,
    /// The value whose memory each value is: itself, or what it was reshaped from.
    origin: Vec<ValueId>,
    steps: Vec<DraftStep>,
    /// What the next step was chosen over, and why.
    refused: Vec<(String, String)>,
    packs: Vec<PackJob>,
    constants: Vec<Arc<Vec<f32>>>,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, outputs: &[ValueId], options: Options, watched: bool) -> Self {
        let operands = graph.nodes().iter().flat_map(|node| node.inputs.iter().enumerate().map(move |of| (node, of)));
        let mut written: Vec<usize> = operands
            .filter_map(|(node, (index, &id))| match graph.value(id).role {
                Role::Parameter { slot } if node.op.writes(index) => Some(slot),
                _ => None,
            })
            .collect();
        let mut read = vec![false; graph.value_count()];
        for id in outputs {
            read[id.0] = true;
        }
        for node in graph.nodes().iter().rev() {
            if node.op.has_effect() || node.outputs.iter().any(|id| read[id.0]) {
                for (index, id) in node.inputs.iter().enumerate() {
                    read[id.0] |= node.op.reads(index);
                }
            }
        }
        let mut readers = vec![0; graph.value_count()];
        for id in graph.nodes().iter().flat_map(|node| &node.inputs).chain(outputs) {
            readers[id.0] += 1;
        }
        written.sort_unstable();
        written.dedup();
        Self {
            graph,
            options,
            watched,
            written,
            read,
            readers,
            deferred: Vec::new(),
            statistics: Vec::new(),
            sums: Vec::new(),
            drafts: Vec::new(),
            of_value: vec![None; graph.value_count()],
            origin: (0..graph.value_count()).map(ValueId).collect(),
            steps: Vec::new(),
            refused: Vec::new(),
            packs: Vec::new(),
            constants: Vec::new(),
        }
    }

    fn shape(&self, id: ValueId) -> &'a [usize] {
        &self.graph.value(id).shape
    }

    fn len(&self, id: ValueId) -> usize {
        self.shape(id).iter().product()
    }

    fn draft(&mut self, place: Option<Place>, bytes: usize) -> usize {
        self.drafts.push(Draft { place, bytes });
        self.drafts.len() - 1
    }

    /// Memory for intermediate results that are no values of the graph.
    fn temp(&mut self, bytes: usize) -> usize {
        self.draft(None, bytes)
    }

    /// The buffer of a value, made at its first mention.
    fn buffer(&mut self, id: ValueId) -> usize {
        if let Some(buffer) = self.of_value[id.0] {
            return buffer;
        }
        let value = self.graph.value(id);
        let bytes = self.len(id) * value.dtype.size();
        let place = match &value.role {
            Role::Input { index, .. } => Some(Place::Input(*index)),
            Role::Parameter { slot } => Some(Place::Parameter(*slot)),
            Role::Constant(data) => {
                self.constants.push(data.clone());
                Some(Place::Constant(self.constants.len() - 1))
            }
            Role::Temp => None,
        };
        let buffer = self.draft(place, bytes);
        self.of_value[id.0] = Some(buffer);
        buffer
    }

    fn buffers(&mut self, ids: &[ValueId]) -> Vec<usize> {
        ids.iter().map(|&id| self.buffer(id)).collect()
    }

    fn push(&mut self, node: &Node, kernel: impl Kernel + 'static, operands: Vec<usize>, shape: String) {
        self.push_in_place(node, kernel, operands, shape, None);
    }

    fn push_in_place(
        &mut self,
        node: &Node,
        kernel: impl Kernel + 'static,
        operands: Vec<usize>,
        shape: String,
        in_place: impl IntoIterator<Item = (usize, usize)>,
    ) {
        let step = Step {
            kernel: Box::new(kernel),
            operands,
            op: node.op.name(),
            name: node.name.clone(),
            shape,
            effect: node.op.has_effect(),
            results: Vec::new(),
            refused: std::mem::take(&mut self.refused),
        };
        self.steps.push(DraftStep { step, in_place: in_place.into_iter().collect() });
    }

    /// A step with its operands and what it may do in place, and what finishes its work with its own operands: the tail of
    /// the step if it is `small`, or the step behind it.
    fn push_followed(
        &mut self,
        node: &Node,
        (kernel, mut operands, in_place): (impl Kernel + 'static, Vec<usize>, Vec<(usize, usize)>),
        (last, behind, small): (impl Kernel + 'static, Vec<usize>, bool),
        shape: String,
    ) {
        if small {
            let kernel = Tailed::new(kernel, operands.len(), last);
            operands.extend(behind);
            self.push_in_place(node, kernel, operands, shape, in_place);
        } else {
            self.push_in_place(node, kernel, operands, shape.clone(), in_place);
            self.push(node, last, behind, shape);
        }
    }

    /// Notes where the float results of a node are, each at the last of its steps (from `first` on) that touches it.
    fn note_results(&mut self, node: &Node, first: usize) {
        for (number, id) in node.outputs.iter().enumerate() {
            let Some(buffer) = self.of_value[id.0].filter(|_| self.graph.value(*id).dtype == DType::F32) else {
                continue;
            };
            let found = self.steps[first..].iter_mut().rev().find_map(|draft| {
                let operand = draft.step.operands.iter().rposition(|&operand| operand == buffer)?;
                Some((&mut draft.step, operand))
            });
            if let Some((step, operand)) = found {
                step.results.push((number, operand));
            }
        }
    }

    /// Whether the packed form of a weight is kept from run to run: nothing in the run writes the weight.
    fn keeps_packed(&self, weight: ValueId) -> bool {
        let role = &self.graph.value(self.origin[weight.0]).role;
        matches!(role, Role::Parameter { slot } if !self.written.contains(slot))
    }

    /// The packed form of a weight: made once per version outside the run if nothing in the run writes the weight, as
    /// a step of the run otherwise.
    fn pack(
        &mut self,
        node: &Node,
        weight: ValueId,
        kernel: impl Kernel + 'static,
        floats: usize,
        format: String,
    ) -> usize {
        let bytes = floats * FLOAT;
        match self.graph.value(self.origin[weight.0]).role {
            Role::Parameter { slot } if !self.written.contains(&slot) => {
                let known = self.packs.iter().position(|pack| pack.slot == slot && pack.format == format);
                let index = known.unwrap_or_else(|| {
                    self.packs.push(PackJob { kernel: Box::new(kernel), slot, format, bytes });
                    self.packs.len() - 1
                });
                self.draft(Some(Place::Packed(index)), bytes)
            }
            _ => {
                let (source, packed) = (self.buffer(weight), self.temp(bytes));
                self.push(node, kernel, vec![source, packed], shape_text(self.shape(weight)));
                packed
            }
        }
    }

    /// The node that would make a value and was left for its only reader.
    fn deferred_maker(&self, value: ValueId) -> Option<&'a Node> {
        self.deferred.iter().find(|(deferred, _)| *deferred == value).map(|&(_, maker)| maker)
    }

    /// Whether a node is left for its only reader, which makes its value where it takes it.
    fn defers(&mut self, node: &'a Node) -> bool {
        match node.op {
            Op::Conv2d { .. } => self.defers_conv(node),
            Op::LinearBackwardWeights => self.defers_gradient(node),
            Op::AvgPool2dBackward { .. } | Op::MaxPool2dBackward { .. } => self.defers_pool_gradient(node),
            _ => false,
        }
    }

    #[allow(clippy::too_many_lines)] // one arm per op
    fn node(&mut self, node: &Node) -> Result<()> {
        let input = |index: usize| node.inputs[index];
        match &node.op {
            Op::Conv2d { window, groups, algorithm, fused } => {
                self.forward(node, self.conv_geometry(node, *window, *groups)?, *algorithm, *fused, None);
            }
            Op::Linear { activation } => self.linear(node, *activation)?,
            Op::Conv2dBackwardData { window, groups, algorithm, .. } => {
                self.backward_data(node, self.data_geometry(node, *window, *groups)?, *algorithm);
            }
            Op::LinearBackwardData => self.linear_backward_data(node)?,
            Op::Conv2dBackwardWeights { window, groups, algorithm } => {
                let (x, y) = (self.shape(input(0)), self.shape(input(1)));
                let geometry = Geometry::new(x[0], [x[1], x[2]], x[3], y[3], *groups, *window)?;
                self.backward_weights(node, geometry, *algorithm);
            }
            Op::LinearBackwardWeights => self.linear_backward_weights(node)?,
            Op::MaxPool2d { .. } | Op::AvgPool2d { .. } | Op::Reduce { .. } if self.pooled(node)? => {}
            Op::MaxPool2d { window, .. } => self.max_pool(node, *window),
            Op::MaxPool2dBackward { window, .. } => self.max_pool_backward(node, *window),
            Op::AvgPool2d { window, count_include_pad, .. } => self.avg_pool(node, *window, *count_include_pad),
            Op::AvgPool2dBackward { window, count_include_pad, .. } => {
                self.avg_pool_backward(node, *window, *count_include_pad);
            }
            Op::Unary(kind) => self.unary(node, *kind),
            Op::UnaryBackward(kind) => self.unary_backward(node, *kind),
            Op::Binary(kind) => self.binary(node, *kind)?,
            Op::Reduce { kind, axes, .. } => self.reduce(node, *kind, axes),
            Op::Expand { mean } => self.expand(node, *mean)?,
            Op::Reshape { .. } | Op::ReshapeLike => self.alias(node),
            Op::Transpose { axes } => self.transpose(node, axes),
            Op::Slice { spans } => self.slice(node, spans),
            Op::SliceBackward { spans } => self.slice_backward(node, spans),
            Op::Pad { pads, value } => self.pad(node, pads, value.get()),
            Op::Concat { axis } => self.concat(node, *axis),
            Op::ConcatPart { axis, index } => self.concat_part(node, *axis, *index),
            Op::AxisMap { axis, map } => self.axis_map(node, *axis, *map)?,
            Op::AxisMapBackward { axis, map, from } => self.axis_map_backward(node, *axis, *map, *from)?,
            Op::Flatten { order } => self.flatten(node, *order, input(0), false),
            Op::Unflatten { order, .. } => self.flatten(node, *order, node.outputs[0], true),
            Op::Softmax { axis, log } => self.softmax(node, *axis, *log),
            Op::SoftmaxBackward { axis, log } => self.softmax_backward(node, *axis, *log),
            Op::BatchNormTrain { eps, momentum, activation } => {
                self.batch_norm_train(node, [eps.get(), momentum.get()], *activation);
            }
            Op::BatchNormBackward => self.batch_norm_backward(node),
            Op::BatchNormGateBackward { gate, sum } => self.batch_norm_gate_backward(node, *gate, *sum),
            Op::BatchNormInfer { eps } => self.batch_norm_infer(node, eps.get()),
            Op::GroupNorm { groups, eps } => self.group_norm(node, *groups, eps.get()),
            Op::GroupNormBackward { groups } => self.group_norm_backward(node, *groups),
            Op::LocalResponseNorm { size, alpha, beta, k } => {
                self.local_response_norm(node, *size, [alpha.get(), beta.get(), k.get()]);
            }
            Op::LocalResponseNormBackward { size, alpha, beta } => {
                self.local_response_norm_backward(node, *size, [alpha.get(), beta.get()]);
            }
            Op::Dropout { p, unit, stream } => self.dropout(node, p.get(), *unit, *stream),
            Op::CrossEntropy { smoothing, ignore } => self.cross_entropy(node, smoothing.get(), *ignore),
            Op::Normalize { mean, std } => self.normalize(node, mean, std)?,
            Op::Update(optimizer) => self.update(node, *optimizer),
            Op::Assign | Op::Increment => self.small_effects(&[node]),
            Op::Blend => self.blend(node),
        }
        Ok(())
    }

    /// A reduction that its kernel splits into parts fixed by shape, and the step that sums the parts in order.
    fn push_parts(
        &mut self,
        node: &Node,
        kernel: impl Kernel + 'static,
        parts: usize,
        mut operands: Vec<usize>,
        shape: String,
    ) {
        let result = self.buffer(node.outputs[0]);
        if parts == 1 {
            operands.push(result);
            self.push(node, kernel, operands, shape);
            return;
        }
        let partials = self.temp(parts * self.len(node.outputs[0]) * FLOAT);
        operands.push(partials);
        self.push(node, kernel, operands, shape.clone());
        self.join_parts(node, parts, partials, shape);
    }

    /// The sum of the parts of a node's result, in order.
    fn join_parts(&mut self, node: &Node, parts: usize, partials: usize, shape: String) {
        let (result, len) = (self.buffer(node.outputs[0]), self.len(node.outputs[0]));
        self.push(node, reduce::Reduce::sum_of_parts(self.options.isa, parts, len), vec![partials, result], shape);
    }
}
