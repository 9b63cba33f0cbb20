//! Rewrites of a graph into an equal graph that runs faster; one rewrite per file. No kernels, no ISA.

mod drop_dead;
mod fuse_activation;

use crate::graph::{Graph, ValueId};

/// A rewrite: the graph and the values that must survive it.
type Pass = fn(&mut Graph, &[ValueId]);

/// Every rewrite by name, in the order in which they run.
const PASSES: [(&str, Pass); 2] = [("drop_dead", drop_dead::run), ("fuse_activation", fuse_activation::run)];

/// Runs all rewrites; in debug builds the graph is checked after each.
pub fn simplify(graph: &mut Graph, outputs: &[ValueId]) {
    graph.check();
    for (_, pass) in PASSES {
        pass(graph, outputs);
        graph.check();
    }
}

/// How many nodes read each value; a value that leaves the graph counts one more.
fn readers(graph: &Graph, outputs: &[ValueId]) -> Vec<usize> {
    let mut count = vec![0; graph.value_count()];
    for id in graph.nodes().iter().flat_map(|node| &node.inputs).chain(outputs) {
        count[id.0] += 1;
    }
    count
}
