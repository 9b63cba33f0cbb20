//! From nodes to kernel calls: one exhaustive match, then the placing of memory.

use std::sync::Arc;

use super::memory::{Lifetime, place};
use super::tables::afford;
use super::{Buffer, Options, PackJob, Place, Plan, Step};
use crate::error::Result;
use crate::graph::{FlattenOrder, Graph, Node, Op, Role, UnaryKind, ValueId};
use crate::kernels::conv::{self, Epilogue, Geometry};
use crate::kernels::copy::Copy;
use crate::kernels::pool::PoolGeometry;
use crate::kernels::{Kernel, elementwise, layout, pool, reduce, softmax, update};
use crate::tensor::{shape_text, volume};
use crate::window::Window2d;

const FLOAT: usize = size_of::<f32>();

/// Lowers a simplified graph.
pub fn lower(graph: &Graph, outputs: &[ValueId], options: Options) -> Result<Plan> {
    let mut lowering = Lowering::new(graph, outputs, options);
    let (effects, pure): (Vec<&Node>, Vec<&Node>) = graph.nodes().iter().partition(|node| node.op.has_effect());
    for node in pure.into_iter().chain(effects) {
        afford(graph, node)?;
        lowering.node(node)?;
    }
    Ok(lowering.finish(outputs))
}

/// A buffer whose place in the arena is not known yet is `None`.
struct Draft {
    place: Option<Place>,
    bytes: usize,
}

/// A step that may let one operand's memory become another's, if the first is not needed afterwards.
struct DraftStep {
    step: Step,
    in_place: Option<(usize, usize)>,
}

struct Lowering<'a> {
    graph: &'a Graph,
    options: Options,
    written: Vec<usize>,
    /// Whether anybody needs a value.
    read: Vec<bool>,
    drafts: Vec<Draft>,
    of_value: Vec<Option<usize>>,
    steps: Vec<DraftStep>,
    packs: Vec<PackJob>,
    constants: Vec<Arc<Vec<f32>>>,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, outputs: &[ValueId], options: Options) -> Self {
        let effects = graph.nodes().iter().filter(|node| node.op.has_effect());
        let mut written: Vec<usize> = effects
            .flat_map(|node| &node.inputs)
            .filter_map(|&id| match graph.value(id).role {
                Role::Parameter { slot } => Some(slot),
                _ => None,
            })
            .collect();
        let mut read = vec![false; graph.value_count()];
        for id in graph.nodes().iter().flat_map(|node| &node.inputs).chain(outputs) {
            read[id.0] = true;
        }
        written.sort_unstable();
        written.dedup();
        Self {
            graph,
            options,
            written,
            read,
            drafts: Vec::new(),
            of_value: vec![None; graph.value_count()],
            steps: Vec::new(),
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
        in_place: Option<(usize, usize)>,
    ) {
        let step = Step {
            kernel: Box::new(kernel),
            operands,
            op: node.op.name(),
            name: node.name.clone(),
            shape,
            effect: node.op.has_effect(),
            refused: Vec::new(),
        };
        self.steps.push(DraftStep { step, in_place });
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
        match self.graph.value(weight).role {
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

    #[allow(clippy::too_many_lines)] // one arm per op
    fn node(&mut self, node: &Node) -> Result<()> {
        let isa = self.options.isa;
        let input = |index: usize| node.inputs[index];
        match &node.op {
            Op::Conv2d { window, groups, activation } => {
                let x = self.shape(input(0));
                let channels = self.shape(node.outputs[0])[3];
                let geometry = Geometry::new(x[0], [x[1], x[2]], x[3], channels, *groups, *window)?;
                self.forward(node, geometry, *activation);
            }
            Op::Linear { activation } => {
                let (x, y) = (self.shape(input(0)), self.shape(node.outputs[0]));
                self.forward(node, matrix(x[0], x[1], y[1])?, *activation);
            }
            Op::Conv2dBackwardData { window, groups, .. } => {
                let (x, y) = (self.shape(node.outputs[0]), self.shape(input(0)));
                let geometry = Geometry::new(x[0], [x[1], x[2]], x[3], y[3], *groups, *window)?;
                self.backward_data(node, geometry);
            }
            Op::LinearBackwardData => {
                let (x, y) = (self.shape(node.outputs[0]), self.shape(input(0)));
                self.backward_data(node, matrix(x[0], x[1], y[1])?);
            }
            Op::Conv2dBackwardWeights { window, groups } => {
                let (x, y) = (self.shape(input(0)), self.shape(input(1)));
                let geometry = Geometry::new(x[0], [x[1], x[2]], x[3], y[3], *groups, *window)?;
                self.backward_weights(node, geometry);
            }
            Op::LinearBackwardWeights => {
                let (x, y) = (self.shape(input(0)), self.shape(input(1)));
                self.backward_weights(node, matrix(x[0], x[1], y[1])?);
            }
            Op::BiasGrad => {
                let channels = self.len(node.outputs[0]);
                let rows = self.len(input(0)).checked_div(channels).unwrap_or(0);
                let kernel = reduce::SumRows::new(isa, rows, channels);
                let parts = kernel.parts();
                self.push_parts(node, kernel, parts, &[input(0)], format!("rows{rows}c{channels}"));
            }
            Op::MaxPool2d { window, .. } => {
                let geometry = self.pool_geometry(input(0), node.outputs[0], *window);
                let indexed = self.read[node.outputs[1].0];
                let kernel = pool::MaxPool::new(isa, geometry, indexed);
                let mut operands = self.buffers(&[input(0), node.outputs[0]]);
                if indexed {
                    operands.push(self.buffer(node.outputs[1]));
                }
                self.push(node, kernel, operands, self.pool_shape(input(0), *window));
            }
            Op::MaxPool2dBackward { window, .. } => {
                let geometry = self.pool_geometry(node.outputs[0], input(0), *window);
                let operands = self.buffers(&[input(0), input(1), node.outputs[0]]);
                let shape = self.pool_shape(node.outputs[0], *window);
                self.push(node, pool::MaxPoolBackward::new(isa, geometry), operands, shape);
            }
            Op::AvgPool2d { window, count_include_pad, .. } => {
                let geometry = self.pool_geometry(input(0), node.outputs[0], *window);
                let kernel = pool::AvgPool::new(isa, geometry, *count_include_pad);
                let operands = self.buffers(&[input(0), node.outputs[0]]);
                self.push(node, kernel, operands, self.pool_shape(input(0), *window));
            }
            Op::AvgPool2dBackward { window, count_include_pad, .. } => {
                let geometry = self.pool_geometry(node.outputs[0], input(0), *window);
                let kernel = pool::AvgPoolBackward::new(isa, geometry, *count_include_pad);
                let operands = self.buffers(&[input(0), node.outputs[0]]);
                self.push(node, kernel, operands, self.pool_shape(node.outputs[0], *window));
            }
            Op::Unary(kind) => {
                let kernel = elementwise::Unary::new(isa, unary(*kind), self.len(input(0)));
                let operands = self.buffers(&[input(0), node.outputs[0]]);
                self.push_in_place(node, kernel, operands, shape_text(self.shape(input(0))), Some((0, 1)));
            }
            Op::UnaryBackward(kind) => {
                let kernel = elementwise::UnaryBackward::new(isa, unary(*kind), self.len(input(0)));
                let operands = self.buffers(&[input(0), input(1), node.outputs[0]]);
                self.push_in_place(node, kernel, operands, shape_text(self.shape(input(0))), Some((0, 2)));
            }
            Op::Add => {
                let kernel = elementwise::Add::new(isa, self.len(input(0)));
                let operands = self.buffers(&[input(0), input(1), node.outputs[0]]);
                self.push(node, kernel, operands, shape_text(self.shape(input(0))));
            }
            Op::Scale => {
                let kernel = elementwise::Scale::new(isa, self.len(input(0)));
                let operands = self.buffers(&[input(0), input(1), node.outputs[0]]);
                self.push(node, kernel, operands, shape_text(self.shape(input(0))));
            }
            Op::Flatten { order } => self.flatten(node, *order, input(0), false),
            Op::Unflatten { order, .. } => self.flatten(node, *order, node.outputs[0], true),
            Op::Softmax => {
                let shape = self.shape(input(0));
                let operands = self.buffers(&[input(0), node.outputs[0]]);
                self.push(node, softmax::Softmax::new(isa, shape[0], shape[1]), operands, shape_text(shape));
            }
            Op::SoftmaxBackward => {
                let shape = self.shape(input(0));
                let operands = self.buffers(&[input(0), input(1), node.outputs[0]]);
                self.push(node, softmax::SoftmaxBackward::new(isa, shape[0], shape[1]), operands, shape_text(shape));
            }
            Op::CrossEntropy => self.cross_entropy(node),
            Op::Normalize { mean, std } => {
                let shape = self.shape(input(0));
                let floats = |list: &[crate::graph::Scalar]| list.iter().map(|x| x.get()).collect::<Vec<f32>>();
                let pixels = volume(&shape[..3])?;
                let kernel = elementwise::Normalize::new(isa, pixels, shape[3], &floats(mean), &floats(std));
                let operands = self.buffers(&[input(0), node.outputs[0]]);
                self.push(node, kernel, operands, shape_text(shape));
            }
            Op::Sgd { nesterov } => {
                let lens: Vec<usize> = node.inputs[1..].chunks_exact(3).map(|triple| self.len(triple[0])).collect();
                let mut order = vec![input(0)];
                for triple in node.inputs[1..].chunks_exact(3) {
                    order.extend([triple[1], triple[0], triple[2]]);
                }
                let operands = self.buffers(&order);
                let shape = format!("{} tensors, {} values", lens.len(), lens.iter().sum::<usize>());
                self.push(node, update::Sgd::new(isa, lens, *nesterov), operands, shape);
            }
        }
        Ok(())
    }

    fn forward(&mut self, node: &Node, geometry: Geometry, activation: Option<UnaryKind>) {
        let isa = self.options.isa;
        let pack = conv::PackForward::new(isa, geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let epilogue = Epilogue { bias: node.inputs.len() == 3, activation: activation.map(unary) };
        let mut operands = vec![self.buffer(node.inputs[0]), packed];
        if let Some(&bias) = node.inputs.get(2) {
            operands.push(self.buffer(bias));
        }
        operands.push(self.buffer(node.outputs[0]));
        self.push(node, conv::Forward::new(isa, geometry, epilogue), operands, geometry.describe());
    }

    fn backward_data(&mut self, node: &Node, geometry: Geometry) {
        let isa = self.options.isa;
        let pack = conv::PackBackwardData::new(isa, geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
        self.push(node, conv::BackwardData::new(isa, geometry), operands, geometry.describe());
    }

    fn backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = conv::BackwardWeights::new(self.options.isa, geometry);
        let parts = kernel.parts();
        self.push_parts(node, kernel, parts, &node.inputs, geometry.describe());
    }

    /// A reduction that its kernel splits into parts fixed by shape, and the step that sums the parts in order.
    fn push_parts(
        &mut self,
        node: &Node,
        kernel: impl Kernel + 'static,
        parts: usize,
        inputs: &[ValueId],
        shape: String,
    ) {
        let len = self.len(node.outputs[0]);
        let result = self.buffer(node.outputs[0]);
        let mut operands = self.buffers(inputs);
        if parts == 1 {
            operands.push(result);
            self.push(node, kernel, operands, shape);
            return;
        }
        let partials = self.temp(parts * len * FLOAT);
        operands.push(partials);
        self.push(node, kernel, operands, shape.clone());
        self.push(node, reduce::ReduceParts::new(self.options.isa, parts, len), vec![partials, result], shape);
    }

    fn pool_geometry(&self, x: ValueId, y: ValueId, window: Window2d) -> PoolGeometry {
        let (x, y) = (self.shape(x), self.shape(y));
        PoolGeometry { n: x[0], ih: x[1], iw: x[2], c: x[3], oh: y[1], ow: y[2], window }
    }

    fn pool_shape(&self, x: ValueId, window: Window2d) -> String {
        let x = self.shape(x);
        format!("n{}ih{}iw{}c{}{}", x[0], x[1], x[2], x[3], window.describe())
    }

    /// `map` is the value of rank 4; in NumPy's order both sides are the same memory.
    fn flatten(&mut self, node: &Node, order: FlattenOrder, map: ValueId, inverse: bool) {
        let source = self.buffer(node.inputs[0]);
        if order == FlattenOrder::Hwc {
            self.of_value[node.outputs[0].0] = Some(source);
            return;
        }
        let shape = self.shape(map);
        let kernel = layout::FlattenChw::new(shape[0], shape[1], shape[2], shape[3], inverse);
        let result = self.buffer(node.outputs[0]);
        self.push(node, kernel, vec![source, result], shape_text(shape));
    }

    fn cross_entropy(&mut self, node: &Node) {
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
    }

    /// Gives outputs their memory, reuses operands in place, and lays out the arena.
    fn finish(mut self, outputs: &[ValueId]) -> Plan {
        for (index, &id) in outputs.iter().enumerate() {
            let buffer = self.buffer(id);
            if self.drafts[buffer].place.is_none() {
                self.drafts[buffer].place = Some(Place::Output(index));
                continue;
            }
            let bytes = self.drafts[buffer].bytes;
            let result = self.draft(Some(Place::Output(index)), bytes);
            let step = Step {
                kernel: Box::new(Copy::new(bytes)),
                operands: vec![buffer, result],
                op: "copy",
                name: String::new(),
                shape: shape_text(self.shape(id)),
                effect: false,
                refused: Vec::new(),
            };
            let at = self.steps.iter().position(|draft| draft.step.effect).unwrap_or(self.steps.len());
            self.steps.insert(at, DraftStep { step, in_place: None });
        }
        self.reuse_in_place();
        let lives = self.lives();
        let arena: Vec<usize> = (0..self.drafts.len()).filter(|&b| self.drafts[b].place.is_none()).collect();
        let lifetimes: Vec<Lifetime> = arena
            .iter()
            .map(|&b| {
                let (first, last) = lives[b].unwrap_or((0, 0));
                Lifetime { bytes: if lives[b].is_some() { self.drafts[b].bytes } else { 0 }, first, last }
            })
            .collect();
        let (offsets, arena_bytes) = place(&lifetimes);
        for (&buffer, offset) in arena.iter().zip(offsets) {
            self.drafts[buffer].place = Some(Place::Arena(offset));
        }
        let buffers: Vec<Buffer> = self
            .drafts
            .iter()
            .map(|draft| Buffer { place: draft.place.expect("every buffer was placed"), bytes: draft.bytes })
            .collect();
        let made = |&(_, buffer): &(usize, usize)| matches!(buffers[buffer].place, Place::Arena(_) | Place::Output(_));
        let first_touch = lives.iter().enumerate().filter_map(|(buffer, life)| Some(((*life)?.0, buffer)));
        let mut births: Vec<(usize, usize)> = first_touch.filter(made).collect();
        births.sort_unstable();
        let steps: Vec<Step> = self.steps.into_iter().map(|draft| draft.step).collect();
        let flops = steps.iter().map(|step| step.kernel.flops()).sum();
        Plan {
            buffers,
            packs: self.packs,
            constants: self.constants,
            inputs: Vec::new(),
            outputs: outputs
                .iter()
                .map(|&id| (self.graph.value(id).shape.as_slice().into(), self.graph.value(id).dtype))
                .collect(),
            written: self.written,
            first_effect: steps.iter().position(|step| step.effect).unwrap_or(steps.len()),
            births,
            arena_bytes,
            scratch_bytes: steps.iter().map(|step| step.kernel.scratch()).max().unwrap_or(0),
            flops,
            work: flops.max(self.drafts.iter().map(|draft| draft.bytes as u64).sum()),
            options: self.options,
            steps,
        }
    }

    /// First and last step that touches each buffer.
    fn lives(&self) -> Vec<Option<(usize, usize)>> {
        let mut lives = vec![None; self.drafts.len()];
        for (index, draft) in self.steps.iter().enumerate() {
            for &buffer in &draft.step.operands {
                let first = lives[buffer].map_or(index, |(first, _)| first);
                lives[buffer] = Some((first, index));
            }
        }
        lives
    }

    /// Where a step allows it and its operand is not needed afterwards, operand and result share memory.
    fn reuse_in_place(&mut self) {
        let mut lives = self.lives();
        for index in 0..self.steps.len() {
            let Some((from, to)) = self.steps[index].in_place else { continue };
            let operands = &self.steps[index].step.operands;
            let (from, to) = (operands[from], operands[to]);
            let dies_here = self.drafts[from].place.is_none() && lives[from].is_some_and(|(_, last)| last == index);
            let starts_here = matches!(self.drafts[to].place, None | Some(Place::Output(_)))
                && lives[to].is_some_and(|(first, _)| first == index);
            if !dies_here || !starts_here || from == to || self.drafts[from].bytes != self.drafts[to].bytes {
                continue;
            }
            for draft in &mut self.steps[..=index] {
                for operand in &mut draft.step.operands {
                    if *operand == from {
                        *operand = to;
                    }
                }
            }
            let (first, last) = (lives[from].map_or(index, |life| life.0), lives[to].map_or(index, |life| life.1));
            lives[to] = Some((first, last));
            lives[from] = None;
        }
    }
}

/// A matrix product as a convolution of one-pixel images.
fn matrix(rows: usize, inputs: usize, outputs: usize) -> Result<Geometry> {
    Geometry::new(rows, [1, 1], inputs, outputs, 1, Window2d::UNIT)
}

fn unary(kind: UnaryKind) -> elementwise::UnaryKind {
    match kind {
        UnaryKind::Relu => elementwise::UnaryKind::Relu,
        UnaryKind::Tanh => elementwise::UnaryKind::Tanh,
        UnaryKind::Sigmoid => elementwise::UnaryKind::Sigmoid,
    }
}
