//! The portable graph: what is computed, with static shapes, and nothing about how.
//!
//! Values are numbered; nodes stand in an order in which operands precede their users. The graph knows nothing of
//! kernels, memory or threads.

mod builder;
mod display;
mod fused;
pub mod grad;
pub mod op;
mod shape;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::{DType, shape_text};
pub use fused::{Fused, FusedOperands};
pub use op::{FlattenOrder, Op, Scalar, UnaryKind};

/// A value's number in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// The caller's array number `index`; if `batched`, its first dimension may differ from run to run.
    #[allow(missing_docs)] // said above
    Input { index: usize, batched: bool },
    /// Stored tensor number `slot` of the program.
    #[allow(missing_docs)] // said above
    Parameter { slot: usize },
    /// Fixed contents.
    Constant(Arc<Vec<f32>>),
    /// A node's result.
    Temp,
}

/// What is known about a value.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueInfo {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    /// The user's name for it, if any.
    pub name: String,
    /// Origin.
    pub role: Role,
}

/// One application of an op.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What is applied.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// The layer it was traced in: `features.0`.
    pub name: String,
}

/// A directed acyclic graph of nodes over values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Graph {
    values: Vec<ValueInfo>,
    nodes: Vec<Node>,
    inputs: Vec<ValueId>,
    parameters: Vec<ValueId>,
}

impl Graph {
    /// What is known about `value`.
    pub fn value(&self, value: ValueId) -> &ValueInfo {
        &self.values[value.0]
    }

    /// Number of values ever made in this graph.
    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// Nodes in an order that respects their dependencies.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Replaces the nodes, for passes; the caller keeps the order valid (checked by [`Graph::check`]).
    pub fn set_nodes(&mut self, nodes: Vec<Node>) {
        self.nodes = nodes;
    }

    /// Inputs in the order the caller passes them.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Parameters by slot.
    pub fn parameters(&self) -> &[ValueId] {
        &self.parameters
    }

    /// Whether the graph is sound: every operand and output is made once, before it is used, and every recorded shape
    /// and type follows from the operands.
    pub fn check(&self, outputs: &[ValueId]) -> Result<()> {
        let mut made: Vec<bool> = self.values.iter().map(|value| value.role != Role::Temp).collect();
        for node in &self.nodes {
            self.check_node(node, &mut made)
                .map_err(|text| Error::Internal(text).within(node.op.name()).within(&node.name))?;
        }
        match outputs.iter().find(|id| !made.get(id.0).copied().unwrap_or(false)) {
            Some(id) => Err(Error::Internal(format!("output %{} is never made", id.0))),
            None => Ok(()),
        }
    }

    fn check_node(&self, node: &Node, made: &mut [bool]) -> std::result::Result<(), String> {
        if let Some(id) = node.inputs.iter().find(|id| !made.get(id.0).copied().unwrap_or(false)) {
            return Err(format!("%{} is used before it is made", id.0));
        }
        let operands: Vec<&ValueInfo> = node.inputs.iter().map(|&id| self.value(id)).collect();
        let results = shape::infer(&node.op, &operands).map_err(|error| error.to_string())?;
        if results.len() != node.outputs.len() {
            return Err(format!("{} results are recorded, {} follow", node.outputs.len(), results.len()));
        }
        for (&id, (shape, dtype)) in node.outputs.iter().zip(results) {
            let Some(value) = self.values.get(id.0).filter(|value| value.role == Role::Temp) else {
                return Err(format!("%{} cannot be a result", id.0));
            };
            if std::mem::replace(&mut made[id.0], true) {
                return Err(format!("%{} is made twice", id.0));
            }
            if value.shape != shape || value.dtype != dtype {
                let recorded = format!("{}{}", value.dtype.name(), shape_text(&value.shape));
                return Err(format!("%{} is {recorded}, but {}{} follows", id.0, dtype.name(), shape_text(&shape)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x → relu → tanh.
    fn chain() -> (Graph, [ValueId; 3]) {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3], DType::F32, "x", true).unwrap();
        let y = graph.add_one(Op::Unary(UnaryKind::Relu), &[x], "act").unwrap();
        let z = graph.add_one(Op::Unary(UnaryKind::Tanh), &[y], "").unwrap();
        (graph, [x, y, z])
    }

    /// What the check says of a graph whose nodes were changed.
    fn complaint(change: impl FnOnce(&mut Vec<Node>), outputs: &[ValueId]) -> String {
        let (mut graph, _) = chain();
        let mut nodes = graph.nodes().to_vec();
        change(&mut nodes);
        graph.set_nodes(nodes);
        graph.check(outputs).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_graph_passes() {
        let (graph, [x, y, z]) = chain();
        assert_eq!(graph.check(&[x, y, z]), Ok(()));
    }

    #[test]
    fn unsound_graphs_are_told_apart() {
        let (_, [x, y, z]) = chain();
        let twice = |nodes: &mut Vec<Node>| nodes[1].outputs = vec![y];
        for (found, expected) in [
            (complaint(|nodes| nodes.swap(0, 1), &[]), "tanh: %1 is used before it is made"),
            (complaint(|nodes| nodes[1].inputs = vec![ValueId(99)], &[]), "tanh: %99 is used before it is made"),
            (complaint(twice, &[]), "tanh: %1 is made twice"),
            (complaint(|nodes| nodes[0].outputs = vec![x], &[]), "act: relu: %0 cannot be a result"),
            (complaint(|nodes| nodes[0].outputs = vec![], &[]), "act: relu: 0 results are recorded, 1 follow"),
            (complaint(|nodes| _ = nodes.pop(), &[z]), "output %2 is never made"),
        ] {
            assert_eq!(found, format!("internal error: {expected}"));
        }
    }

    #[test]
    fn a_wrong_shape_is_found() {
        let (mut graph, [_, y, z]) = chain();
        graph.values[y.0].shape = vec![3, 2];
        let text = graph.check(&[z]).unwrap_err().to_string();
        assert_eq!(text, "internal error: act: relu: %1 is float32(3, 2), but float32(2, 3) follows");
    }
}
