//! Moves an activation into the epilogue of the convolution or linear layer whose result only it reads.
//!
//! In training only where the gradient follows from the result: otherwise the gradient reads the value before it too.

use super::rewrites::named;
use super::{Rewrites, producers, readers};
use crate::graph::{Fused, Graph, Op, ValueId};

pub fn run(graph: &mut Graph, outputs: &[ValueId], rewrites: &mut Rewrites) {
    let (readers, producers) = (readers(graph, outputs), producers(graph));
    let mut nodes = graph.nodes().to_vec();
    let mut fused = vec![false; nodes.len()];
    for index in 0..nodes.len() {
        let Op::Unary(kind) = nodes[index].op else { continue };
        let (source, result) = (nodes[index].inputs[0], nodes[index].outputs[0]);
        let Some(maker) = producers[source.0].filter(|_| readers[source.0] == 1) else { continue };
        let free = matches!(
            nodes[maker].op,
            Op::Conv2d { fused: Fused { activation: None, .. }, .. } | Op::Linear { activation: None }
        );
        if !free || !rewrites.allow(|| format!("fused {} into {}", named(&nodes[index]), named(&nodes[maker]))) {
            continue;
        }
        if let Op::Conv2d { fused: Fused { activation, .. }, .. } | Op::Linear { activation } = &mut nodes[maker].op {
            *activation = Some(kind);
        }
        nodes[maker].outputs = vec![result];
        fused[index] = true;
    }
    let kept = nodes.into_iter().zip(fused).filter_map(|(node, fused)| (!fused).then_some(node)).collect();
    graph.set_nodes(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::UnaryKind;
    use crate::tensor::DType;

    fn linear_then_tanh() -> (Graph, ValueId, ValueId) {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3], DType::F32, "x", true).unwrap();
        let weight = graph.parameter(vec![3, 4], DType::F32, "weight");
        let y = graph.add_one(Op::Linear { activation: None }, &[x, weight], "fc").unwrap();
        let z = graph.add_one(Op::Unary(UnaryKind::Tanh), &[y], "act").unwrap();
        (graph, y, z)
    }

    #[test]
    fn an_activation_joins_the_layer_before_it() {
        let (mut graph, _, z) = linear_then_tanh();
        run(&mut graph, &[z], &mut Rewrites::new(None));
        assert_eq!(graph.nodes().len(), 1);
        assert_eq!(graph.nodes()[0].op, Op::Linear { activation: Some(UnaryKind::Tanh) });
        assert_eq!(graph.nodes()[0].outputs, [z]);
        graph.check(&[z]).unwrap();
    }

    #[test]
    fn a_value_with_another_reader_stays() {
        let (mut graph, y, z) = linear_then_tanh();
        run(&mut graph, &[y, z], &mut Rewrites::new(None));
        assert_eq!(graph.nodes().len(), 2);
    }
}
