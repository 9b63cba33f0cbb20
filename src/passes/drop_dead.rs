//! Drops nodes that no output and no effect depends on.

use super::Rewrites;
use super::rewrites::named;
use crate::graph::{Graph, ValueId};

pub fn run(graph: &mut Graph, outputs: &[ValueId], rewrites: &mut Rewrites) {
    let mut alive = vec![false; graph.value_count()];
    for id in outputs {
        alive[id.0] = true;
    }
    let mut kept = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes().iter().rev() {
        let dead = !node.op.has_effect() && !node.outputs.iter().any(|id| alive[id.0]);
        if dead && rewrites.allow(|| format!("dropped {}", named(node))) {
            continue;
        }
        for id in &node.inputs {
            alive[id.0] = true;
        }
        kept.push(node.clone());
    }
    kept.reverse();
    graph.set_nodes(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Op, UnaryKind};
    use crate::tensor::DType;

    #[test]
    fn only_what_an_output_needs_survives() {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3], DType::F32, "x", true).unwrap();
        let y = graph.add_one(Op::Unary(UnaryKind::Relu), &[x], "").unwrap();
        graph.add_one(Op::Unary(UnaryKind::Tanh), &[y], "").unwrap();
        run(&mut graph, &[y], &mut Rewrites::new(None));
        assert_eq!(graph.nodes().len(), 1);
        assert_eq!(graph.nodes()[0].outputs, [y]);
    }
}
