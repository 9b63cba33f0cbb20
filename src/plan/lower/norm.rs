//! Normalization and dropout.

use super::{FLOAT, Lowering};
use crate::graph::op::{DropoutUnit, Gate, UnaryKind};
use crate::graph::{Node, Op, ValueId};
use crate::kernels::norm::{
    self, Apply, GradientSums, GradientSumsFinish, LocalResponseNorm, LocalResponseNormBackward, LongRowApply,
    LongRowSlopes, LongRowSums, Moments, MomentsFinish, ReciprocalDeviation, RowNorm, RowNormBackward, Segments,
};
use crate::kernels::{Kernel, dropout, reduce};
use crate::tensor::shape_text;

pub(super) const DOUBLE: usize = size_of::<f64>();

/// Up to so many partial sums are joined by one thread while the others wait: a step of its own would cost more.
const SERIAL: usize = 32 << 10;

/// Fewer rows than these, if they are at least so long, are cut into stretches of columns.
const FEW_ROWS: usize = 16;
const LONG_ROW: usize = 16 << 10;

/// How group normalization goes over its operand.
enum Groups {
    /// Pixels of channels, statistics per image and group.
    Pixels(Segments),
    /// No pixels: a row per image and group.
    Rows { rows: usize, len: usize, long: bool },
}

/// Statistics of a convolution's result.
#[derive(Clone)]
pub(super) enum Taken {
    /// Taken by the convolution: the buffer that holds them, and the pixels of every part.
    Partials { partials: usize, parts: Vec<usize> },
    /// Left to the normalization, and why.
    Refused(String),
}

impl Lowering<'_> {
    pub(super) fn reads(&self, id: ValueId) -> bool {
        self.read[id.0]
    }

    /// Statistics per channel over everything else.
    pub(super) fn per_channel(&self, x: ValueId) -> Segments {
        let channels = self.channels(x);
        Segments { segments: 1, rows: self.len(x) / channels, channels, bins: channels }
    }

    fn channels(&self, x: ValueId) -> usize {
        self.shape(x).last().copied().unwrap_or(1)
    }

    fn groups(&self, x: ValueId, groups: usize) -> Groups {
        let (images, channels) = (self.shape(x)[0], self.channels(x));
        let pixels: usize = self.shape(x)[1..].iter().rev().skip(1).product();
        if pixels != 1 {
            return Groups::Pixels(Segments { segments: images, rows: pixels, channels, bins: groups });
        }
        let (rows, len) = (images * groups, channels / groups);
        Groups::Rows { rows, len, long: (1..FEW_ROWS).contains(&rows) && len >= LONG_ROW }
    }

    /// Mean and deviation of `x`, and with a momentum the running values, into the results' buffers.
    fn moments(&mut self, node: &Node, shape: Segments, eps: f32, running: Option<f32>) {
        let (x, text) = (node.inputs[0], shape_text(self.shape(node.inputs[0])));
        let kernel = Moments::new(self.options.isa, shape);
        let partials = self.temp(kernel.partials() * DOUBLE);
        let first = vec![self.buffer(x), partials];
        let operands = self.finish_operands(node, partials, running);
        let finish = MomentsFinish::new(shape, kernel.parts(), eps, running);
        let small = kernel.partials() <= SERIAL;
        self.push_followed(node, (kernel, first, Vec::new()), (finish, operands, small), text);
    }

    /// The operands of [`MomentsFinish`].
    fn finish_operands(&mut self, node: &Node, partials: usize, running: Option<f32>) -> Vec<usize> {
        let mut operands = vec![partials];
        operands.extend(self.buffers(&node.outputs[1..3]));
        if running.is_some() {
            operands.extend(self.buffers(&node.inputs[3..5]));
            operands.extend(self.buffers(&node.outputs[3..5]));
        }
        operands
    }

    /// Whether a convolution takes the statistics of its result on the way: a normalization in training wants them, and
    /// nothing speaks against it, which is kept for that normalization otherwise.
    pub(super) fn takes_moments(&mut self, result: ValueId, refusal: impl FnOnce() -> Option<String>) -> bool {
        let wants = |node: &Node| {
            let normalizes = matches!(node.op, Op::BatchNormTrain { .. }) && node.inputs[0] == result;
            normalizes && node.outputs.iter().any(|&id| self.reads(id))
        };
        if !self.graph.nodes().iter().any(wants) {
            return false;
        }
        let refusal = refusal();
        let takes = refusal.is_none();
        self.statistics.extend(refusal.map(|reason| (result, Taken::Refused(reason))));
        takes
    }

    /// Memory for the statistics that a convolution takes of its result, by parts of so many pixels.
    pub(super) fn partials(&mut self, result: ValueId, parts: Vec<usize>) -> usize {
        let partials = self.temp(2 * parts.len() * self.channels(result) * DOUBLE);
        self.statistics.push((result, Taken::Partials { partials, parts }));
        partials
    }

    /// [`moments`](Self::moments) of what the convolution before has taken of its results, if it has.
    fn batch_moments(&mut self, node: &Node, eps: f32, running: Option<f32>) {
        let (x, shape) = (node.inputs[0], self.per_channel(node.inputs[0]));
        let taken = self.statistics.iter().find(|(value, _)| *value == x).map(|(_, taken)| taken.clone());
        let convolved = |node: &Node| matches!(node.op, Op::Conv2d { .. }) && node.outputs == [x];
        let reason = match taken {
            Some(Taken::Partials { partials, parts }) => {
                let operands = self.finish_operands(node, partials, running);
                let text = shape_text(self.shape(x));
                return self.push(node, MomentsFinish::new(shape, parts, eps, running), operands, text);
            }
            Some(Taken::Refused(reason)) => Some(reason),
            None if self.graph.nodes().iter().any(convolved) => Some("the kernel takes none".to_owned()),
            None => None,
        };
        self.refused.extend(reason.map(|reason| ("conv_moments".to_owned(), reason)));
        self.moments(node, shape, eps, running);
    }

    /// The gradients that somebody reads, from sums over the pixels.
    fn sums(&mut self, node: &Node, shape: Segments) {
        let isa = self.options.isa;
        let [grad_y, x, mean] = [0, 1, 3].map(|index| self.buffer(node.inputs[index]));
        let kernel = GradientSums::new(isa, shape);
        let partials = self.temp(kernel.partials() * DOUBLE);
        let (parts, first) = (kernel.parts(), (kernel, vec![grad_y, x, mean, partials], Vec::new()));
        let named = (node, shape_text(self.shape(node.inputs[1])));
        self.finish_sums(node, named, (shape, parts, partials), first, grad_y, None);
    }

    /// The first step with its operands and what it may do in place, which takes `partials` by so many parts of the shape, and
    /// the rest: `grad` is the gradient that was summed,
    /// unless it has to go through the gate once more, which reads the last buffer.
    pub(super) fn finish_sums(
        &mut self,
        node: &Node,
        (maker, text): (&Node, String),
        (shape, parts, partials): (Segments, usize, usize),
        first: (impl Kernel + 'static, Vec<usize>, Vec<(usize, usize)>),
        grad: usize,
        gate: Option<(norm::Gate, usize)>,
    ) {
        let isa = self.options.isa;
        let [x, weight, mean, rstd] = [1, 2, 3, 4].map(|index| self.buffer(node.inputs[index]));
        let (source, weights) = self.asked(node);
        let mut operands = vec![partials, weight, rstd];
        let [slope, offset] = [0, 1].map(|_| self.temp(shape.statistics() * FLOAT));
        if source {
            operands.extend([slope, offset]);
        }
        if weights {
            operands.extend(self.buffers(&node.outputs[1..3]));
        }
        let finish = GradientSumsFinish::new(shape, parts, source, weights);
        let small = 2 * parts * shape.segments * shape.channels <= SERIAL;
        self.push_followed(maker, first, (finish, operands, small), text);
        if source {
            let mut operands = vec![grad, x, weight, mean, rstd, slope, offset, self.buffer(node.outputs[0])];
            operands.extend(gate.map(|(_, read)| read));
            let kernel = Apply::new(isa, shape, true).behind(gate.map(|(gate, _)| gate));
            let text = shape_text(self.shape(node.inputs[1]));
            self.push_in_place(node, kernel, operands, text, [(0, 7), (1, 7)]);
        }
    }

    /// Whether the gradient of the operand is read, and whether those of weight or bias are.
    fn asked(&self, node: &Node) -> (bool, bool) {
        (self.reads(node.outputs[0]), node.outputs[1..3].iter().any(|&id| self.reads(id)))
    }

    pub(super) fn batch_norm_train(&mut self, node: &Node, [eps, momentum]: [f32; 2], activation: Option<UnaryKind>) {
        let shape = self.per_channel(node.inputs[0]);
        let running = node.outputs[3..].iter().any(|&id| self.reads(id));
        self.batch_moments(node, eps, running.then_some(momentum));
        if self.reads(node.outputs[0]) {
            let mut operands = self.buffers(&node.inputs[..3]);
            operands.extend(self.buffers(&[node.outputs[1], node.outputs[2], node.outputs[0]]));
            operands.extend(self.buffers(&node.inputs[5..]));
            let text = shape_text(self.shape(node.inputs[0]));
            let residual = node.inputs.len() > 5;
            let kernel = Apply::new(self.options.isa, shape, false).then(residual, activation);
            let in_place: &[_] = if residual { &[(0, 5), (6, 5)] } else { &[(0, 5)] };
            self.push_in_place(node, kernel, operands, text, in_place.iter().copied());
        }
    }

    pub(super) fn batch_norm_backward(&mut self, node: &Node) {
        self.sums(node, self.per_channel(node.inputs[1]));
    }

    /// The gated gradient is written if somebody else reads it, or if it is a sum; otherwise each of the two steps that
    /// need it makes it anew.
    ///
    /// A convolution whose data gradient nobody else reads does all that on the way, and then always writes it.
    pub(super) fn batch_norm_gate_backward(&mut self, node: &Node, gate: Option<Gate>, sum: bool) {
        match self.gradient_source(node) {
            Some(Ok((maker, other))) => return self.gate_behind(node, maker, other, gate),
            Some(Err(reason)) => self.refused.push(("conv_backward_data_sums".to_owned(), reason)),
            None => {}
        }
        let shape = self.per_channel(node.inputs[1]);
        let [grad_y, x, weight, mean, rstd] = [0, 1, 2, 3, 4].map(|index| self.buffer(node.inputs[index]));
        let write = sum || self.reads(node.outputs[3]);
        let gate = gate.and_then(|gate| {
            let limit = gate.kind.gate_limit()?;
            Some((norm::Gate { limit, recompute: gate.recompute }, self.buffer(node.inputs[5])))
        });
        let kernel = GradientSums::new(self.options.isa, shape).behind(gate.map(|(gate, _)| gate), write, sum);
        let named = (node, shape_text(self.shape(node.inputs[1])));
        let (parts, partials) = (kernel.parts(), self.temp(kernel.partials() * DOUBLE));
        let mut operands = vec![grad_y, x, mean, partials];
        if let Some((gate, read)) = gate {
            if gate.recompute {
                operands.extend([weight, rstd]);
            }
            operands.push(read);
        }
        if !write {
            let first = (kernel, operands, Vec::new());
            self.finish_sums(node, named, (shape, parts, partials), first, grad_y, gate);
            return;
        }
        let grad = self.buffer(node.outputs[3]);
        let to = operands.len();
        operands.push(grad);
        let mut in_place = vec![(0, to)];
        if sum {
            operands.push(self.buffer(node.inputs[node.inputs.len() - 1]));
            in_place.push((to + 1, to));
        }
        if gate.is_some_and(|(gate, _)| !gate.recompute) {
            in_place.push((to - 1, to));
        }
        self.finish_sums(node, named, (shape, parts, partials), (kernel, operands, in_place), grad, None);
    }

    pub(super) fn batch_norm_infer(&mut self, node: &Node, eps: f32) {
        let shape = self.per_channel(node.inputs[0]);
        let [x, weight, bias, mean] = [0, 1, 2, 3].map(|index| self.buffer(node.inputs[index]));
        let rstd = self.reciprocal_deviation(node, node.inputs[4], eps);
        let text = shape_text(self.shape(node.inputs[0]));
        let operands = vec![x, weight, bias, mean, rstd, self.buffer(node.outputs[0])];
        self.push_in_place(node, Apply::new(self.options.isa, shape, false), operands, text, Some((0, 5)));
    }

    /// 1/√(variance + eps), once per version of a variance that the run does not write.
    pub(super) fn reciprocal_deviation(&mut self, node: &Node, variance: ValueId, eps: f32) -> usize {
        let channels = self.len(variance);
        let kernel = ReciprocalDeviation::new(channels, eps);
        self.pack(node, variance, kernel, channels, format!("reciprocal_deviation {:08x}", eps.to_bits()))
    }

    pub(super) fn group_norm(&mut self, node: &Node, groups: usize, eps: f32) {
        let (isa, text) = (self.options.isa, shape_text(self.shape(node.inputs[0])));
        let layout = self.groups(node.inputs[0], groups);
        if let Groups::Rows { rows, len, long: false } = layout {
            let mut operands = self.buffers(&node.inputs);
            operands.extend(self.buffers(&node.outputs));
            self.push_in_place(node, RowNorm::new(isa, rows, len, groups, eps), operands, text, Some((0, 3)));
            return;
        }
        match layout {
            Groups::Pixels(shape) => self.moments(node, shape, eps, None),
            // Every number is a pixel of a segment of its own row.
            Groups::Rows { rows, len, .. } => {
                self.moments(node, Segments { segments: rows, rows: len, channels: 1, bins: 1 }, eps, None);
            }
        }
        let mut operands = self.buffers(&node.inputs);
        operands.extend(self.buffers(&[node.outputs[1], node.outputs[2], node.outputs[0]]));
        match layout {
            Groups::Pixels(shape) => {
                self.push_in_place(node, Apply::new(isa, shape, false), operands, text, Some((0, 5)));
            }
            Groups::Rows { rows, len, .. } => {
                let kernel = LongRowApply::new(isa, rows, len, groups, false);
                self.push_in_place(node, kernel, operands, text, Some((0, 5)));
            }
        }
    }

    pub(super) fn group_norm_backward(&mut self, node: &Node, groups: usize) {
        match self.groups(node.inputs[1], groups) {
            Groups::Pixels(shape) => self.sums(node, shape),
            Groups::Rows { rows, len, long: false } => self.rows_backward(node, rows, len, groups),
            Groups::Rows { rows, len, long: true } => self.long_rows_backward(node, rows, len, groups),
        }
    }

    fn rows_backward(&mut self, node: &Node, rows: usize, len: usize, groups: usize) {
        let (isa, text) = (self.options.isa, shape_text(self.shape(node.inputs[1])));
        let (source, weights) = self.asked(node);
        let kernel = RowNormBackward::new(isa, rows, len, groups, source, weights);
        let (parts, channels) = (kernel.parts(), groups * len);
        let mut operands = self.buffers(&node.inputs);
        let in_place = source.then_some((0, 5));
        if source {
            operands.push(self.buffer(node.outputs[0]));
        }
        let mut sums = Vec::new();
        if weights {
            for &result in &node.outputs[1..] {
                let result = self.buffer(result);
                let partials = if parts == 1 { result } else { self.temp(parts * channels * FLOAT) };
                operands.push(partials);
                sums.push([partials, result]);
            }
        }
        self.push_in_place(node, kernel, operands, text.clone(), in_place);
        if parts > 1 {
            for pair in sums {
                self.push(node, reduce::Reduce::sum_of_parts(isa, parts, channels), pair.to_vec(), text.clone());
            }
        }
    }

    fn long_rows_backward(&mut self, node: &Node, rows: usize, len: usize, groups: usize) {
        let (isa, text) = (self.options.isa, shape_text(self.shape(node.inputs[1])));
        let (source, weights) = self.asked(node);
        let [grad_y, x, weight, mean, rstd] = [0, 1, 2, 3, 4].map(|index| self.buffer(node.inputs[index]));
        let kernel = LongRowSums::new(isa, rows, len, groups, weights);
        let parts = kernel.parts();
        let partials = self.temp(2 * parts * rows * DOUBLE);
        let mut operands = vec![grad_y, x, weight, mean, rstd, partials];
        if weights {
            operands.extend(self.buffers(&node.outputs[1..]));
        }
        self.push(node, kernel, operands, text.clone());
        if source {
            let [slope, offset] = [0, 1].map(|_| self.temp(rows * FLOAT));
            let kernel = LongRowSlopes::new(rows, len, parts);
            self.push(node, kernel, vec![partials, rstd, slope, offset], text.clone());
            let operands = vec![grad_y, x, weight, mean, rstd, slope, offset, self.buffer(node.outputs[0])];
            self.push_in_place(node, LongRowApply::new(isa, rows, len, groups, true), operands, text, Some((0, 7)));
        }
    }

    pub(super) fn local_response_norm(&mut self, node: &Node, size: usize, numbers: [f32; 3]) {
        let x = node.inputs[0];
        let channels = self.channels(x);
        let scale = self.reads(node.outputs[1]);
        let kernel = LocalResponseNorm::new(self.options.isa, self.len(x) / channels, channels, size, numbers, scale);
        let operands = self.buffers(&[&[x], &node.outputs[..if scale { 2 } else { 1 }]].concat());
        self.push_in_place(node, kernel, operands, shape_text(self.shape(x)), Some((0, 1)));
    }

    pub(super) fn local_response_norm_backward(&mut self, node: &Node, size: usize, numbers: [f32; 2]) {
        let x = node.inputs[1];
        let channels = self.channels(x);
        let kernel = LocalResponseNormBackward::new(self.options.isa, self.len(x) / channels, channels, size, numbers);
        let operands = self.buffers(&[&node.inputs[..], &node.outputs].concat());
        self.push_in_place(node, kernel, operands, shape_text(self.shape(x)), Some((0, 4)));
    }

    pub(super) fn dropout(&mut self, node: &Node, p: f32, unit: DropoutUnit, stream: u64) {
        let x = self.shape(node.inputs[0]);
        let channels = if x.len() > 1 { x[x.len() - 1] } else { 1 };
        let pixels = if x.len() > 2 { x[1..x.len() - 1].iter().product() } else { 1 };
        let unit = match unit {
            DropoutUnit::Element => dropout::Unit::Element,
            DropoutUnit::Channel => dropout::Unit::Channel,
            DropoutUnit::Sample => dropout::Unit::Sample,
        };
        let kernel = dropout::Dropout::new(self.options.isa, [x[0], pixels, channels], p, unit, stream);
        let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
        self.push_in_place(node, kernel, operands, shape_text(x), Some((0, 2)));
    }
}
