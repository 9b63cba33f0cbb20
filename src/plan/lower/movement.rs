//! Everything that only moves elements, and the linear maps along an axis.

use super::Lowering;
use crate::error::{Error, Result};
use crate::function::AxisMap;
use crate::graph::op::Span;
use crate::graph::{FlattenOrder, Node, ValueId};
use crate::kernels::layout;
use crate::tensor::shape_text;

impl Lowering<'_> {
    /// The result is the operand's memory.
    pub(super) fn alias(&mut self, node: &Node) {
        let source = self.buffer(node.inputs[0]);
        self.of_value[node.outputs[0].0] = Some(source);
    }

    /// `map` is the value of rank 4; in NumPy's order both sides are the same memory.
    pub(super) fn flatten(&mut self, node: &Node, order: FlattenOrder, map: ValueId, inverse: bool) {
        if order == FlattenOrder::Hwc {
            self.alias(node);
            return;
        }
        let source = self.buffer(node.inputs[0]);
        let shape = self.shape(map);
        let kernel = layout::FlattenChw::new(shape[0], shape[1], shape[2], shape[3], inverse);
        let result = self.buffer(node.outputs[0]);
        self.push(node, kernel, vec![source, result], shape_text(shape));
    }

    pub(super) fn transpose(&mut self, _node: &Node, _axes: &[usize]) -> Result<()> {
        Err(later())
    }

    pub(super) fn slice(&mut self, _node: &Node, _spans: &[Span]) -> Result<()> {
        Err(later())
    }

    pub(super) fn slice_backward(&mut self, _node: &Node, _spans: &[Span]) -> Result<()> {
        Err(later())
    }

    pub(super) fn pad(&mut self, _node: &Node, _pads: &[[usize; 2]], _value: f32) -> Result<()> {
        Err(later())
    }

    pub(super) fn concat(&mut self, _node: &Node, _axis: usize) -> Result<()> {
        Err(later())
    }

    pub(super) fn concat_part(&mut self, _node: &Node, _axis: usize, _index: usize) -> Result<()> {
        Err(later())
    }

    pub(super) fn axis_map(&mut self, _node: &Node, _axis: usize, _map: AxisMap) -> Result<()> {
        Err(later())
    }

    pub(super) fn axis_map_backward(&mut self, _node: &Node, _axis: usize, _map: AxisMap, _from: usize) -> Result<()> {
        Err(later())
    }
}

fn later() -> Error {
    Error::Unsupported("this movement is not there yet".into())
}
