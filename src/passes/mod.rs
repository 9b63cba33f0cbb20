//! Rewrites of a graph into an equal graph that runs faster; one rewrite per file. No kernels, no ISA.
//!
//! Every single rewrite is counted and described, and may be the last one allowed: a wrong result is traced to the
//! rewrite that makes it wrong ([`bisect`]).

pub mod bisect;
mod drop_dead;
mod fuse_activation;
mod fuse_add;
mod fuse_norm;
mod fuse_norm_backward;
mod fuse_norm_train;
mod rewrites;

use crate::graph::{Graph, ValueId};
pub use rewrites::{PassReport, Rewrites};

/// A rewrite: the graph, the values that must survive it, and the count of single rewrites, each of which it asks for.
pub type Pass = fn(&mut Graph, &[ValueId], &mut Rewrites);

/// Every rewrite by name, in the order in which they run.
pub const PASSES: [(&str, Pass); 6] = [
    ("drop_dead", drop_dead::run),
    ("fuse_norm", fuse_norm::run),
    ("fuse_add", fuse_add::run),
    ("fuse_activation", fuse_activation::run),
    ("fuse_norm_train", fuse_norm_train::run),
    ("fuse_norm_backward", fuse_norm_backward::run),
];

/// Those of them that leave every node that is needed as it was traced.
pub const PLAIN: [(&str, Pass); 1] = [PASSES[0]];

/// Runs all rewrites, stopping after `limit` single ones if there is a limit, and reports what each pass did.
pub fn simplify(graph: &mut Graph, outputs: &[ValueId], limit: Option<usize>) -> Vec<PassReport> {
    run(graph, outputs, &PASSES, limit)
}

/// [`simplify`] with passes of one's own. In debug builds the graph is checked after each.
pub fn run(
    graph: &mut Graph,
    outputs: &[ValueId],
    passes: &[(&'static str, Pass)],
    limit: Option<usize>,
) -> Vec<PassReport> {
    verify(graph, outputs, "tracing");
    let mut rewrites = Rewrites::new(limit);
    let report = |&(name, pass): &(&'static str, Pass)| {
        let before = graph.nodes().len();
        pass(graph, outputs, &mut rewrites);
        verify(graph, outputs, name);
        PassReport { name, before, after: graph.nodes().len(), rewrites: rewrites.take() }
    };
    passes.iter().map(report).collect()
}

fn verify(graph: &Graph, outputs: &[ValueId], after: &str) {
    if cfg!(debug_assertions)
        && let Err(error) = graph.check(outputs)
    {
        panic!("after {after}: {error}");
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

/// The node that makes each value, by its place in the graph.
fn producers(graph: &Graph) -> Vec<Option<usize>> {
    let mut producer = vec![None; graph.value_count()];
    for (index, node) in graph.nodes().iter().enumerate() {
        for id in &node.outputs {
            producer[id.0] = Some(index);
        }
    }
    producer
}
