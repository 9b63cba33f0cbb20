//! Moves what makes the gradient of a batch normalization in training into its backward op: the gradient of an activation
//! that passes it on or not, and before that the sum of two gradients.
//!
//! The fused node stands where the gradient was made, which is also a result of it: a shortcut may read it.

use super::rewrites::named;
use super::{Rewrites, readers};
use crate::graph::op::{BinaryKind, Gate};
use crate::graph::{Graph, Node, Op, UnaryKind, ValueId};

/// What is being rewritten.
struct Fusion<'a> {
    graph: &'a Graph,
    nodes: Vec<Option<Node>>,
    producer: Vec<Option<usize>>,
    readers: Vec<usize>,
}

impl Fusion<'_> {
    fn maker(&self, id: ValueId) -> Option<(usize, &Node)> {
        let index = self.producer[id.0]?;
        Some((index, self.nodes[index].as_ref()?))
    }

    /// The terms of a sum of two tensors of one shape.
    fn terms(&self, node: &Node) -> Option<[ValueId; 2]> {
        let shape = |index: usize| &self.graph.value(node.inputs[index]).shape;
        let sum = node.op == Op::Binary(BinaryKind::Add) && shape(0) == shape(1);
        sum.then(|| [node.inputs[0], node.inputs[1]])
    }

    /// The bias from which the result `y` of the activation can be computed anew: that of the normalization which
    /// `backward` belongs to, if `y` comes from it and from nothing else.
    fn bias(&self, y: ValueId, kind: UnaryKind, backward: &Node) -> Option<ValueId> {
        let (_, mut maker) = self.maker(y)?;
        if maker.op == Op::Unary(kind) {
            let operand = maker.inputs[0];
            maker = self.maker(operand)?.1;
            let plain = matches!(maker.op, Op::BatchNormTrain { activation: None, .. });
            (plain && maker.inputs.len() == 5 && maker.outputs[0] == operand).then_some(())?;
        } else {
            let fused = matches!(maker.op, Op::BatchNormTrain { activation: Some(found), .. } if found == kind);
            (fused && maker.inputs.len() == 5 && maker.outputs[0] == y).then_some(())?;
        }
        let own = [maker.inputs[0], maker.inputs[1], maker.outputs[1], maker.outputs[2]];
        (own[..] == backward.inputs[1..]).then_some(maker.inputs[2])
    }
}

pub fn run(graph: &mut Graph, outputs: &[ValueId], rewrites: &mut Rewrites) {
    let mut producer = vec![None; graph.value_count()];
    for (index, node) in graph.nodes().iter().enumerate() {
        node.outputs.iter().for_each(|id| producer[id.0] = Some(index));
    }
    let nodes = graph.nodes().iter().cloned().map(Some).collect();
    let mut fusion = Fusion { graph, nodes, producer, readers: readers(graph, outputs) };
    for index in 0..fusion.nodes.len() {
        let Some(backward) = fusion.nodes[index].clone().filter(|node| node.op == Op::BatchNormBackward) else {
            continue;
        };
        let grad = backward.inputs[0];
        let Some((at, maker)) = fusion.maker(grad) else { continue };
        let maker = maker.clone();
        let ready = |id: &ValueId| fusion.producer[id.0].is_none_or(|made| made < at);
        if !backward.inputs[1..].iter().all(ready) {
            continue;
        }
        let (mut gate, mut terms, mut summed) = (None, fusion.terms(&maker), None);
        if let Op::UnaryBackward(kind) = maker.op
            && kind.gate_limit().is_some()
        {
            let bias = fusion.bias(maker.inputs[1], kind, &backward);
            gate = Some((Gate { kind, recompute: bias.is_some() }, bias.unwrap_or(maker.inputs[1])));
            let inner = maker.inputs[0];
            if let Some((sum, node)) = fusion.maker(inner).filter(|_| fusion.readers[inner.0] == 1) {
                terms = fusion.terms(node);
                summed = terms.map(|_| sum);
            }
        }
        if gate.is_none() && terms.is_none() {
            continue;
        }
        if !rewrites.allow(|| format!("fused {} into {}", named(&maker), named(&backward))) {
            continue;
        }
        let mut inputs = backward.inputs.clone();
        inputs[0] = terms.map_or(maker.inputs[0], |[first, _]| first);
        inputs.extend(gate.map(|(_, read)| read));
        inputs.extend(terms.map(|[_, other]| other));
        let op = Op::BatchNormGateBackward { gate: gate.map(|(gate, _)| gate), sum: terms.is_some() };
        let fused = Node { op, inputs, outputs: [&backward.outputs[..], &[grad]].concat(), name: backward.name };
        fused.outputs.iter().for_each(|id| fusion.producer[id.0] = Some(at));
        fusion.nodes[index] = None;
        if let Some(sum) = summed {
            fusion.nodes[sum] = None;
        }
        fusion.nodes[at] = Some(fused);
    }
    let nodes = fusion.nodes.into_iter().flatten().collect();
    graph.set_nodes(nodes);
}
