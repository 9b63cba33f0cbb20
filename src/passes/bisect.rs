//! Which rewrite makes a result wrong.

use super::{Pass, run};
use crate::graph::{Graph, ValueId};

/// The rewrite after which the graph is wrong, as `pass: what it did`; `None` if the graph is right after all of them,
/// or wrong before any.
///
/// `wrong` judges the graph after so many rewrites. Found by halving: the graph is right before the rewrite that is
/// named and wrong after it.
pub fn guilty(
    graph: &Graph,
    outputs: &[ValueId],
    passes: &[(&'static str, Pass)],
    mut wrong: impl FnMut(&Graph) -> bool,
) -> Option<String> {
    let after = |limit: usize| {
        let mut graph = graph.clone();
        let reports = run(&mut graph, outputs, passes, Some(limit));
        let made = |report: &super::PassReport| {
            let name = report.name;
            report.rewrites.iter().map(|what| format!("{name}: {what}")).collect::<Vec<_>>()
        };
        (graph, reports.iter().flat_map(made).collect::<Vec<String>>())
    };
    let (last, made) = after(usize::MAX);
    if wrong(graph) || !wrong(&last) {
        return None;
    }
    let (mut right, mut bad) = (0, made.len());
    while bad - right > 1 {
        let middle = usize::midpoint(right, bad);
        if wrong(&after(middle).0) { bad = middle } else { right = middle }
    }
    made.into_iter().nth(bad - 1)
}

#[cfg(test)]
mod tests {
    use super::super::{PASSES, Rewrites, simplify};
    use super::*;
    use crate::graph::{Op, Scalar, UnaryKind};
    use crate::reference::{Request, Tensor, evaluate};
    use crate::tensor::DType;

    /// x → tanh five times, then −x, each in a layer of its own.
    fn chain() -> (Graph, ValueId) {
        let mut graph = Graph::new();
        let mut y = graph.input(vec![3], DType::F32, "x", true).unwrap();
        for layer in 0..5 {
            y = graph.add_one(Op::Unary(UnaryKind::Tanh), &[y], &format!("layer{layer}")).unwrap();
        }
        let minus = Op::Unary(UnaryKind::Affine(Scalar::new(-1.0), Scalar::new(0.0)));
        y = graph.add_one(minus, &[y], "last").unwrap();
        (graph, y)
    }

    fn value(graph: &Graph, y: ValueId) -> Tensor {
        let x = [Tensor::floats(vec![3], vec![0.5, -2.0, 0.0])];
        evaluate(graph, &x, &[], Request::values(&[y])).unwrap().value(y).unwrap().clone()
    }

    /// Takes sigmoid for tanh, but in two layers only: a right rewrite elsewhere.
    fn broken(graph: &mut Graph, _outputs: &[ValueId], rewrites: &mut Rewrites) {
        let mut nodes = graph.nodes().to_vec();
        for node in &mut nodes {
            if rewrites.allow(|| format!("touched {}", node.name)) && ["layer3", "layer4"].contains(&node.name.as_str())
            {
                node.op = Op::Unary(UnaryKind::Sigmoid);
            }
        }
        graph.set_nodes(nodes);
    }

    #[test]
    fn the_first_wrong_rewrite_is_named() {
        let (graph, y) = chain();
        let truth = value(&graph, y);
        let passes = [PASSES[0], ("broken", broken as Pass), PASSES[1], PASSES[2], PASSES[3]];
        let mut judged = 0;
        let found = guilty(&graph, &[y], &passes, |graph| {
            judged += 1;
            value(graph, y) != truth
        });
        assert_eq!(found.as_deref(), Some("broken: touched layer3"));
        assert!(judged <= 6, "{judged} graphs were judged");
    }

    #[test]
    fn nobody_is_guilty_of_a_right_result_or_a_wrong_start() {
        let (graph, y) = chain();
        let truth = value(&graph, y);
        assert_eq!(guilty(&graph, &[y], &PASSES, |graph| value(graph, y) != truth), None);
        assert_eq!(guilty(&graph, &[y], &[("broken", broken as Pass)], |_| true), None);
    }

    #[test]
    fn a_limit_stops_after_so_many_rewrites() {
        let (mut graph, y) = chain();
        graph.add_one(Op::Unary(UnaryKind::Exp), &[y], "dead").unwrap();
        graph.add_one(Op::Unary(UnaryKind::Exp), &[y], "dead too").unwrap();
        let lengths = [0, 1, 2, 3].map(|limit| {
            let mut graph = graph.clone();
            let reports = simplify(&mut graph, &[y], Some(limit));
            assert_eq!(reports[0].rewrites.len(), limit.min(2));
            graph.nodes().len()
        });
        assert_eq!(lengths, [8, 7, 6, 6]);
    }
}
