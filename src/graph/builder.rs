//! The only way to add to a graph: operands are checked and result shapes inferred as nodes arrive.

use std::sync::Arc;

use super::{Graph, Node, Op, Role, ValueId, ValueInfo, shape};
use crate::error::{Error, Result};
use crate::tensor::{DType, volume};

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, shape: Vec<usize>, dtype: DType, name: &str, role: Role) -> ValueId {
        self.values.push(ValueInfo { shape, dtype, name: name.to_owned(), role });
        ValueId(self.values.len() - 1)
    }

    /// The next array the caller passes at each run.
    pub fn input(&mut self, shape: Vec<usize>, dtype: DType, name: &str, batched: bool) -> Result<ValueId> {
        if batched && shape.is_empty() {
            return Err(Error::Shape(format!("input {name}: a batched input has at least one dimension")));
        }
        volume(&shape)?;
        let index = self.inputs.len();
        let id = self.push(shape, dtype, name, Role::Input { index, batched });
        self.inputs.push(id);
        Ok(id)
    }

    /// A stored tensor; slots are numbered in order of arrival.
    pub fn parameter(&mut self, shape: Vec<usize>, dtype: DType, name: &str) -> ValueId {
        let slot = self.parameters.len();
        let id = self.push(shape, dtype, name, Role::Parameter { slot });
        self.parameters.push(id);
        id
    }

    /// A tensor whose contents are part of the graph.
    pub fn constant(&mut self, shape: Vec<usize>, data: Vec<f32>) -> ValueId {
        debug_assert_eq!(volume(&shape), Ok(data.len()));
        self.push(shape, DType::F32, "", Role::Constant(Arc::new(data)))
    }

    /// Adds a node; `name` is the layer's path and stands in front of any error.
    pub fn add(&mut self, op: Op, inputs: &[ValueId], name: &str) -> Result<Vec<ValueId>> {
        if let Some(stray) = inputs.iter().find(|id| id.0 >= self.values.len()) {
            return Err(Error::Internal(format!("value {} is not part of this graph", stray.0)));
        }
        let operands: Vec<&ValueInfo> = inputs.iter().map(|&id| self.value(id)).collect();
        let results = shape::infer(&op, &operands).map_err(|error| error.within(op.name()).within(name))?;
        let outputs = results.into_iter().map(|(shape, dtype)| self.push(shape, dtype, "", Role::Temp)).collect();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs, name: name.to_owned() });
        Ok(self.nodes[self.nodes.len() - 1].outputs.clone())
    }

    /// [`Graph::add`] for an op with one result.
    pub fn add_one(&mut self, op: Op, inputs: &[ValueId], name: &str) -> Result<ValueId> {
        self.add(op, inputs, name).map(|outputs| outputs[0])
    }

    /// The same graph for another batch size: batched inputs get `batch` as first dimension and every other shape is
    /// inferred anew. Value numbers stay.
    pub fn with_batch(&self, batch: usize) -> Result<Self> {
        let mut graph = self.clone();
        for value in &mut graph.values {
            if matches!(value.role, Role::Input { batched: true, .. }) {
                value.shape[0] = batch;
                volume(&value.shape)?;
            }
        }
        for node in &self.nodes {
            let operands: Vec<&ValueInfo> = node.inputs.iter().map(|&id| graph.value(id)).collect();
            let results =
                shape::infer(&node.op, &operands).map_err(|error| error.within(node.op.name()).within(&node.name))?;
            for (output, (shape, _)) in node.outputs.iter().zip(results) {
                graph.values[output.0].shape = shape;
            }
        }
        Ok(graph)
    }

    /// The batch size the graph was traced with: the first dimension of its first batched input.
    pub fn batch(&self) -> Option<usize> {
        self.inputs.iter().find_map(|&id| match self.value(id).role {
            Role::Input { batched: true, .. } => Some(self.value(id).shape[0]),
            _ => None,
        })
    }
}
