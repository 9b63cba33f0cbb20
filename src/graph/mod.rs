//! The portable graph: what is computed, with static shapes, and nothing about how.
//!
//! Values are numbered; nodes stand in an order in which operands precede their users. The graph knows nothing of
//! kernels, memory or threads.

mod builder;
mod display;
pub mod grad;
pub mod op;
mod shape;

use std::sync::Arc;

use crate::tensor::DType;
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

    /// Panics in debug builds if an operand is used before it is made, made twice, or a recorded shape does not
    /// follow from the operands.
    pub fn check(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let mut made: Vec<bool> = self.values.iter().map(|value| value.role != Role::Temp).collect();
        for node in &self.nodes {
            for input in &node.inputs {
                assert!(made[input.0], "{}: %{} is used before it is made", node.op.name(), input.0);
            }
            let operands: Vec<&ValueInfo> = node.inputs.iter().map(|&id| self.value(id)).collect();
            let results = shape::infer(&node.op, &operands).expect("a node of the graph has valid operands");
            assert_eq!(results.len(), node.outputs.len());
            for (output, (shape, dtype)) in node.outputs.iter().zip(results) {
                assert!(!made[output.0], "%{} is made twice", output.0);
                made[output.0] = true;
                assert_eq!((&self.value(*output).shape, self.value(*output).dtype), (&shape, dtype));
            }
        }
    }
}
