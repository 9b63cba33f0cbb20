//! Moves the addition of a residual and the activation behind a batch normalization in training into it, where nobody
//! else reads what lies between.
//!
//! The fused node stands where the last of its parts stood. Nodes with effects, which read new running values and run
//! after everything else, move to the end.

use super::rewrites::named;
use super::{Rewrites, readers};
use crate::graph::op::BinaryKind;
use crate::graph::{Graph, Node, Op, ValueId};

/// What is being rewritten.
struct Fusion {
    nodes: Vec<Option<Node>>,
    producer: Vec<Option<usize>>,
    readers: Vec<usize>,
    /// The first node without effects that reads each value.
    first_reader: Vec<usize>,
}

impl Fusion {
    /// The batch normalization whose result is `id`, if only node `at` reads it and nobody before that node reads its
    /// other results.
    fn maker(&self, id: ValueId, at: usize) -> Option<usize> {
        let maker = self.producer[id.0].filter(|_| self.readers[id.0] == 1)?;
        let node = self.nodes[maker].as_ref()?;
        let free = matches!(node.op, Op::BatchNormTrain { activation: None, .. }) && node.outputs[0] == id;
        (free && node.outputs[1..].iter().all(|other| self.first_reader[other.0] > at)).then_some(maker)
    }

    /// Node `at` becomes the batch normalization, changed by `change`, with the result of node `at`.
    fn replace(&mut self, maker: usize, at: usize, change: impl FnOnce(&mut Node)) {
        let (Some(mut node), Some(last)) = (self.nodes[maker].take(), self.nodes[at].take()) else { return };
        node.outputs[0] = last.outputs[0];
        change(&mut node);
        for id in &node.outputs {
            self.producer[id.0] = Some(at);
        }
        self.nodes[at] = Some(node);
    }
}

pub fn run(graph: &mut Graph, outputs: &[ValueId], rewrites: &mut Rewrites) {
    let (effects, pure): (Vec<Node>, Vec<Node>) = graph.nodes().iter().cloned().partition(|node| node.op.has_effect());
    let mut producer = vec![None; graph.value_count()];
    let mut first_reader = vec![usize::MAX; graph.value_count()];
    for (index, node) in pure.iter().enumerate().rev() {
        node.outputs.iter().for_each(|id| producer[id.0] = Some(index));
        node.inputs.iter().for_each(|id| first_reader[id.0] = index);
    }
    let nodes = pure.into_iter().map(Some).collect();
    let mut fusion = Fusion { nodes, producer, readers: readers(graph, outputs), first_reader };
    for at in 0..fusion.nodes.len() {
        let Some(node) = fusion.nodes[at].clone() else { continue };
        let shape = |id: ValueId| &graph.value(id).shape;
        match node.op {
            Op::Binary(BinaryKind::Add) if shape(node.inputs[0]) == shape(node.inputs[1]) => {
                // Of two, the one that has to move least.
                let makers = [0, 1].map(|side| fusion.maker(node.inputs[side], at));
                let side = usize::from(makers[1] > makers[0]);
                let Some(maker) = makers[side] else { continue };
                let plain = fusion.nodes[maker].as_ref().is_some_and(|node| node.inputs.len() == 5);
                if plain && rewrites.allow(|| describe(&fusion, &node, maker)) {
                    fusion.replace(maker, at, |fused| fused.inputs.push(node.inputs[1 - side]));
                }
            }
            Op::Unary(kind) => {
                let Some(maker) = fusion.maker(node.inputs[0], at) else { continue };
                if rewrites.allow(|| describe(&fusion, &node, maker)) {
                    fusion.replace(maker, at, |fused| {
                        if let Op::BatchNormTrain { activation, .. } = &mut fused.op {
                            *activation = Some(kind);
                        }
                    });
                }
            }
            _ => {}
        }
    }
    graph.set_nodes(fusion.nodes.into_iter().flatten().chain(effects).collect());
}

fn describe(fusion: &Fusion, node: &Node, maker: usize) -> String {
    let maker = fusion.nodes[maker].as_ref().map_or(String::new(), named);
    format!("fused {} into {maker}", named(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Scalar, UnaryKind};
    use crate::tensor::DType;

    /// Two normalizations of one input, their sum, and relu; the nodes that keep running values follow each.
    fn block() -> (Graph, [ValueId; 5]) {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3, 3, 4], DType::F32, "x", true).unwrap();
        let mut normalized = Vec::new();
        for layer in ["a", "b"] {
            let stored: Vec<ValueId> = (0..4).map(|_| graph.parameter(vec![4], DType::F32, layer)).collect();
            let op = Op::BatchNormTrain { eps: Scalar::new(1e-5), momentum: Scalar::new(0.1), activation: None };
            let results = graph.add(op, &[x, stored[0], stored[1], stored[2], stored[3]], layer).unwrap();
            graph.add(Op::Assign, &[stored[2], results[3]], layer).unwrap();
            normalized.push(results);
        }
        let sum = graph.add_one(Op::Binary(BinaryKind::Add), &[normalized[0][0], normalized[1][0]], "").unwrap();
        let y = graph.add_one(Op::Unary(UnaryKind::Relu), &[sum], "act").unwrap();
        (graph, [normalized[0][0], normalized[1][0], normalized[1][1], sum, y])
    }

    /// The nodes that are left, and the operands of the last without effects.
    fn fused(graph: &mut Graph, outputs: &[ValueId]) -> (Vec<&'static str>, Vec<ValueId>) {
        run(graph, outputs, &mut Rewrites::new(None));
        graph.check(outputs).unwrap();
        let last = graph.nodes().iter().rfind(|node| !node.op.has_effect()).unwrap();
        (graph.nodes().iter().map(|node| node.op.name()).collect(), last.inputs.clone())
    }

    #[test]
    fn a_block_ends_in_one_node_that_reads_the_other_branch() {
        let (mut graph, [a, _, _, _, y]) = block();
        let (ops, operands) = fused(&mut graph, &[y]);
        assert_eq!(ops, ["batch_norm_train", "batch_norm_train", "assign", "assign"]);
        assert_eq!(operands[5], a);
        let activations: Vec<_> = graph.nodes().iter().map(|node| node.op.clone()).collect();
        assert!(matches!(activations[0], Op::BatchNormTrain { activation: None, .. }));
        assert!(matches!(activations[1], Op::BatchNormTrain { activation: Some(UnaryKind::Relu), .. }));
    }

    #[test]
    fn values_that_are_read_elsewhere_stay() {
        let (mut graph, [_, b, _, _, y]) = block();
        // The other branch is fused instead, though it stands further away.
        let (ops, operands) = fused(&mut graph, &[y, b]);
        assert_eq!(ops, ["batch_norm_train", "batch_norm_train", "assign", "assign"]);
        assert_eq!(operands[5], b);
        let (mut graph, [_, _, _, sum, y]) = block();
        assert_eq!(fused(&mut graph, &[y, sum]).0[2], "relu");
        let (mut graph, [a, b, _, _, y]) = block();
        assert_eq!(fused(&mut graph, &[y, a, b]).0[2..4], ["add", "relu"]);
    }

    #[test]
    fn a_normalization_whose_statistics_are_read_before_stays() {
        let (mut graph, [_, _, mean, ..]) = block();
        let other = graph.add_one(Op::Unary(UnaryKind::Tanh), &[mean], "").unwrap();
        let mut nodes = graph.nodes().to_vec();
        let tanh = nodes.pop().unwrap();
        nodes.insert(4, tanh);
        graph.set_nodes(nodes);
        let y = graph.nodes().last().unwrap().outputs[0];
        let (ops, operands) = fused(&mut graph, &[y, other]);
        assert_eq!(ops[..3], ["batch_norm_train", "tanh", "batch_norm_train"]);
        assert_eq!(operands.len(), 6);
    }
}
