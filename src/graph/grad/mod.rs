//! Reverse-mode differentiation: one exhaustive match of local rules that adds graph nodes.
//!
//! Runs on the graph as traced, before any fusion, so that no fused op needs a rule.

mod rules;

use super::op::{BinaryKind, Saved, UnaryKind};
use super::{Fused, Graph, Node, Op, ValueId};
use crate::error::{Error, Result};

/// Adds to `graph` the nodes that compute Σ seedᵢ · ∂outputᵢ/∂w for each `w` of `wrt`.
///
/// A seed of `None` stands for one and needs a scalar output. A result of `None` means that no output depends on that
/// value. Contributions are summed in order of use.
pub fn gradients(
    graph: &mut Graph,
    outputs: &[ValueId],
    seeds: &[Option<ValueId>],
    wrt: &[ValueId],
) -> Result<Vec<Option<ValueId>>> {
    let mut reached = vec![false; graph.value_count()];
    for id in wrt {
        reached[id.0] = true;
    }
    for node in graph.nodes() {
        if node.inputs.iter().any(|id| reached[id.0]) {
            for output in &node.outputs {
                reached[output.0] = true;
            }
        }
    }
    let mut tape = Tape { graph, reached, grads: Vec::new() };
    for (&output, &seed) in outputs.iter().zip(seeds) {
        let seed = match seed {
            Some(seed) if tape.graph.value(seed).shape == tape.graph.value(output).shape => Seed::Value(seed),
            Some(_) => return Err(Error::Shape("a seed has the shape of its output".into())),
            None if tape.graph.value(output).shape.is_empty() => Seed::One,
            None => return Err(Error::Shape("an output without a seed is a scalar".into())),
        };
        tape.add(output, seed);
    }
    let nodes = tape.graph.nodes().to_vec();
    for node in nodes.iter().rev() {
        tape.propagate(node)?;
    }
    wrt.iter().map(|&id| tape.take(id)).collect()
}

/// A gradient: a value, or the scalar one that has no value yet.
#[derive(Clone, Copy)]
enum Seed {
    One,
    Value(ValueId),
}

struct Tape<'a> {
    graph: &'a mut Graph,
    /// Values that depend on what we differentiate by; the others get no gradient.
    reached: Vec<bool>,
    /// Contributions by value, the last use's first.
    grads: Vec<Vec<Seed>>,
}

impl Tape<'_> {
    fn wants(&self, id: ValueId) -> bool {
        self.reached.get(id.0).copied().unwrap_or(false)
    }

    fn has(&self, id: ValueId) -> bool {
        self.grads.get(id.0).is_some_and(|seeds| !seeds.is_empty())
    }

    /// The sum of all contributions in order of use, if there are any. All users were visited before.
    fn total(&mut self, id: ValueId) -> Result<Option<Seed>> {
        let seeds = self.grads.get(id.0).cloned().unwrap_or_default();
        let mut order = seeds.into_iter().rev();
        let Some(mut sum) = order.next() else { return Ok(None) };
        for seed in order {
            let terms = [self.value(sum), self.value(seed)];
            sum = Seed::Value(self.graph.add_one(Op::Binary(BinaryKind::Add), &terms, "")?);
        }
        self.grads[id.0] = vec![sum];
        Ok(Some(sum))
    }

    /// The gradient as a value, if there is one.
    fn take(&mut self, id: ValueId) -> Result<Option<ValueId>> {
        let total = self.total(id)?;
        Ok(total.map(|seed| self.value(seed)))
    }

    fn value(&mut self, seed: Seed) -> ValueId {
        match seed {
            Seed::Value(value) => value,
            Seed::One => self.graph.constant(vec![], vec![1.0]),
        }
    }

    fn add(&mut self, id: ValueId, grad: Seed) {
        if !self.wants(id) {
            return;
        }
        if self.grads.len() <= id.0 {
            self.grads.resize(id.0 + 1, Vec::new());
        }
        self.grads[id.0].push(grad);
    }

    /// Adds the result of a backward op to the gradient of `target`, if somebody needs it.
    fn emit(&mut self, target: ValueId, op: Op, inputs: &[ValueId], name: &str) -> Result<()> {
        if self.wants(target) {
            let grad = self.graph.add_one(op, inputs, name)?;
            self.add(target, Seed::Value(grad));
        }
        Ok(())
    }

    fn size(&self, id: ValueId) -> [usize; 2] {
        let shape = &self.graph.value(id).shape;
        [shape[1], shape[2]]
    }

    /// Carries the gradient of a node's results to its operands.
    #[allow(clippy::too_many_lines)] // one arm per op
    fn propagate(&mut self, node: &Node) -> Result<()> {
        let Some(first) = node.outputs.first() else { return Ok(()) };
        if node.outputs[1..].iter().any(|&id| self.has(id)) {
            return Err(unsupported(node, "gradients flow through the first result only"));
        }
        let Some(seed) = self.total(*first)? else { return Ok(()) };
        let (inputs, name) = (&node.inputs, node.name.as_str());
        if matches!(node.op, Op::CrossEntropy { .. }) && inputs[1..].iter().any(|&id| self.wants(id)) {
            return Err(unsupported(node, "class weights have no gradient"));
        }
        if let (Op::CrossEntropy { .. }, Seed::One) = (&node.op, seed) {
            self.add(inputs[0], Seed::Value(node.outputs[2]));
            return Ok(());
        }
        let grad = self.value(seed);
        match &node.op {
            &Op::Conv2d { window, groups, algorithm, .. } => {
                let input = self.size(inputs[0]);
                let data = Op::Conv2dBackwardData { window, groups, algorithm, input };
                self.emit(inputs[0], data, &[grad, inputs[1]], name)?;
                let weights = Op::Conv2dBackwardWeights { window, groups, algorithm };
                self.emit(inputs[1], weights, &[inputs[0], grad], name)?;
                self.bias(inputs, grad, name)
            }
            // A transposed convolution: its operands are a convolution's gradient and weight.
            &Op::Conv2dBackwardData { window, groups, algorithm, .. } => {
                let conv = Op::Conv2d { window, groups, algorithm, fused: Fused::default() };
                self.emit(inputs[0], conv, &[grad, inputs[1]], name)?;
                let weights = Op::Conv2dBackwardWeights { window, groups, algorithm };
                self.emit(inputs[1], weights, &[grad, inputs[0]], name)
            }
            Op::Linear { .. } => {
                self.emit(inputs[0], Op::LinearBackwardData, &[grad, inputs[1]], name)?;
                self.emit(inputs[1], Op::LinearBackwardWeights, &[inputs[0], grad], name)?;
                self.bias(inputs, grad, name)
            }
            &Op::MaxPool2d { window, ceil_mode } => {
                let op = Op::MaxPool2dBackward { window, ceil_mode, input: self.size(inputs[0]) };
                self.emit(inputs[0], op, &[grad, node.outputs[1]], name)
            }
            &Op::AvgPool2d { window, ceil_mode, count_include_pad } => {
                let input = self.size(inputs[0]);
                let op = Op::AvgPool2dBackward { window, ceil_mode, count_include_pad, input };
                self.emit(inputs[0], op, &[grad], name)
            }
            &Op::Unary(UnaryKind::Affine(scale, _)) => self.emit(inputs[0], rules::scaled(scale.get()), &[grad], name),
            &Op::Unary(kind) => {
                let saved = if kind.saved() == Saved::Result { *first } else { inputs[0] };
                self.emit(inputs[0], Op::UnaryBackward(kind), &[grad, saved], name)
            }
            Op::Binary(kind) => self.binary(*kind, inputs, *first, grad, name),
            Op::Reduce { kind, axes, keepdims } => {
                let grad = self.keep_dims(inputs[0], grad, axes, *keepdims, name)?;
                let result = self.keep_dims(inputs[0], *first, axes, *keepdims, name)?;
                self.reduce(*kind, axes, inputs[0], result, grad, name)
            }
            Op::Expand { mean: false } => self.unbroadcast(inputs[0], grad, name),
            Op::Reshape { .. } | Op::ReshapeLike => self.emit(inputs[0], Op::ReshapeLike, &[grad, inputs[0]], name),
            Op::Transpose { axes } => {
                let mut inverse = vec![0; axes.len()];
                for (to, &from) in axes.iter().enumerate() {
                    inverse[from] = to;
                }
                self.emit(inputs[0], Op::Transpose { axes: inverse }, &[grad], name)
            }
            Op::Slice { spans } => {
                self.emit(inputs[0], Op::SliceBackward { spans: spans.clone() }, &[grad, inputs[0]], name)
            }
            Op::Pad { pads, .. } => self.emit(inputs[0], rules::crop(pads), &[grad], name),
            &Op::Concat { axis } => {
                let operands: Vec<ValueId> = [grad].into_iter().chain(inputs.iter().copied()).collect();
                for (index, &part) in inputs.iter().enumerate() {
                    self.emit(part, Op::ConcatPart { axis, index }, &operands, name)?;
                }
                Ok(())
            }
            &Op::AxisMap { axis, map } => {
                let from = self.graph.value(inputs[0]).shape[axis];
                self.emit(inputs[0], Op::AxisMapBackward { axis, map, from }, &[grad], name)
            }
            &Op::Flatten { order } => {
                let op = Op::Unflatten { order, shape: self.pixels(inputs[0]) };
                self.emit(inputs[0], op, &[grad], name)
            }
            &Op::Unflatten { order, .. } => self.emit(inputs[0], Op::Flatten { order }, &[grad], name),
            &Op::Softmax { axis, log } => {
                self.emit(inputs[0], Op::SoftmaxBackward { axis, log }, &[grad, *first], name)
            }
            Op::BatchNormTrain { .. } => {
                let operands = [grad, inputs[0], inputs[1], node.outputs[1], node.outputs[2]];
                self.emit_all(&inputs[..3], Op::BatchNormBackward, &operands, name)
            }
            Op::BatchNormInfer { eps } => self.batch_norm_infer(*eps, inputs, grad, name),
            &Op::GroupNorm { groups, .. } => {
                let operands = [grad, inputs[0], inputs[1], node.outputs[1], node.outputs[2]];
                self.emit_all(&inputs[..3], Op::GroupNormBackward { groups }, &operands, name)
            }
            &Op::LocalResponseNorm { size, alpha, beta, .. } => {
                let operands = [grad, inputs[0], node.outputs[0], node.outputs[1]];
                self.emit(inputs[0], Op::LocalResponseNormBackward { size, alpha, beta }, &operands, name)
            }
            // The same draws again, on the gradient.
            op @ Op::Dropout { .. } => self.emit(inputs[0], op.clone(), &[grad, inputs[1]], name),
            Op::CrossEntropy { .. } => {
                self.emit(inputs[0], Op::Binary(BinaryKind::Mul), &[node.outputs[2], grad], name)
            }
            Op::Normalize { .. } => Err(unsupported(node, "bytes have no gradient")),
            Op::Conv2dBackwardWeights { .. }
            | Op::LinearBackwardData
            | Op::LinearBackwardWeights
            | Op::MaxPool2dBackward { .. }
            | Op::AvgPool2dBackward { .. }
            | Op::UnaryBackward(_)
            | Op::Expand { mean: true }
            | Op::SliceBackward { .. }
            | Op::ConcatPart { .. }
            | Op::AxisMapBackward { .. }
            | Op::SoftmaxBackward { .. }
            | Op::BatchNormBackward
            | Op::BatchNormGateBackward { .. }
            | Op::GroupNormBackward { .. }
            | Op::LocalResponseNormBackward { .. }
            | Op::Update(_)
            | Op::Assign
            | Op::Blend
            | Op::Increment => Err(unsupported(node, "gradients of gradients are not there")),
        }
    }

    /// Adds the results of one backward op to the gradients of several operands, if somebody needs any of them.
    fn emit_all(&mut self, targets: &[ValueId], op: Op, inputs: &[ValueId], name: &str) -> Result<()> {
        if targets.iter().any(|&target| self.wants(target)) {
            let grads = self.graph.add(op, inputs, name)?;
            for (&target, grad) in targets.iter().zip(grads) {
                self.add(target, Seed::Value(grad));
            }
        }
        Ok(())
    }

    fn bias(&mut self, inputs: &[ValueId], grad: ValueId, name: &str) -> Result<()> {
        match inputs.get(2) {
            Some(&bias) => self.unbroadcast(bias, grad, name),
            None => Ok(()),
        }
    }

    fn pixels(&self, id: ValueId) -> [usize; 3] {
        let shape = &self.graph.value(id).shape;
        [shape[1], shape[2], shape[3]]
    }
}

fn unsupported(node: &Node, why: &str) -> Error {
    Error::Unsupported(why.to_owned()).within(node.op.name()).within(&node.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::UnaryKind;
    use crate::tensor::DType;

    #[test]
    fn contributions_are_summed_in_order_of_use() {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3], DType::F32, "x", true).unwrap();
        let weight = graph.parameter(vec![3, 3], DType::F32, "weight");
        let mut y = x;
        for _ in 0..3 {
            y = graph.add_one(Op::Linear { activation: None }, &[y, weight], "").unwrap();
        }
        let seed = graph.input(vec![2, 3], DType::F32, "seed", true).unwrap();
        let grads = gradients(&mut graph, &[y], &[Some(seed)], &[weight]).unwrap();
        let of_use = |index: usize| {
            let input = graph.nodes()[index].inputs[0];
            let mine = |node: &&Node| node.op == Op::LinearBackwardWeights && node.inputs[0] == input;
            graph.nodes().iter().find(mine).unwrap().outputs[0]
        };
        let sums: Vec<&Node> = graph.nodes().iter().filter(|node| node.op == Op::Binary(BinaryKind::Add)).collect();
        assert_eq!(sums.len(), 2);
        assert_eq!(sums[0].inputs, [of_use(0), of_use(1)]);
        assert_eq!(sums[1].inputs, [sums[0].outputs[0], of_use(2)]);
        assert_eq!(grads, [Some(sums[1].outputs[0])]);
    }

    #[test]
    fn a_value_no_output_depends_on_has_no_gradient() {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3], DType::F32, "x", true).unwrap();
        let other = graph.input(vec![2, 3], DType::F32, "other", true).unwrap();
        let y = graph.add_one(Op::Unary(UnaryKind::Relu), &[x], "").unwrap();
        assert_eq!(gradients(&mut graph, &[y], &[Some(x)], &[other]).unwrap(), [None]);
    }
}
