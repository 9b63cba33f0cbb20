//! Element-wise functions, arithmetic with broadcasting, reductions.

use super::Lowering;
use crate::error::{Error, Result};
use crate::function::{BinaryKind, ReduceKind, UnaryKind};
use crate::graph::Node;
use crate::kernels::{elementwise, reduce};
use crate::tensor::shape_text;

impl Lowering<'_> {
    pub(super) fn unary(&mut self, node: &Node, kind: UnaryKind) {
        let kernel = elementwise::Unary::new(self.options.isa, kind, self.len(node.inputs[0]));
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push_in_place(node, kernel, operands, shape_text(self.shape(node.inputs[0])), Some((0, 1)));
    }

    pub(super) fn unary_backward(&mut self, node: &Node, kind: UnaryKind) {
        let kernel = elementwise::UnaryBackward::new(self.options.isa, kind, self.len(node.inputs[0]));
        let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
        self.push_in_place(node, kernel, operands, shape_text(self.shape(node.inputs[0])), Some((0, 2)));
    }

    pub(super) fn binary(&mut self, node: &Node, kind: BinaryKind) -> Result<()> {
        let (a, b) = (node.inputs[0], node.inputs[1]);
        let operands = self.buffers(&[a, b, node.outputs[0]]);
        let shape = shape_text(self.shape(a));
        let isa = self.options.isa;
        match kind {
            BinaryKind::Add if self.shape(a) == self.shape(b) => {
                self.push(node, elementwise::Add::new(isa, self.len(a)), operands, shape);
            }
            BinaryKind::Mul if self.shape(b).is_empty() => {
                self.push(node, elementwise::Scale::new(isa, self.len(a)), operands, shape);
            }
            _ => return Err(Error::Unsupported("this arithmetic is not there yet".into())),
        }
        Ok(())
    }

    pub(super) fn reduce(&mut self, node: &Node, kind: ReduceKind, axes: &[usize]) -> Result<()> {
        let x = self.shape(node.inputs[0]);
        let leading = axes.iter().copied().eq(0..axes.len()) && axes.len() < x.len();
        if kind != ReduceKind::Sum || !leading {
            return Err(Error::Unsupported("this reduction is not there yet".into()));
        }
        let channels = self.len(node.outputs[0]);
        let rows: usize = x[..axes.len()].iter().product();
        let kernel = reduce::SumRows::new(self.options.isa, rows, channels);
        let parts = kernel.parts();
        self.push_parts(node, kernel, parts, &[node.inputs[0]], format!("rows{rows}c{channels}"));
        Ok(())
    }

    pub(super) fn expand(&mut self, _node: &Node, _mean: bool) -> Result<()> {
        Err(Error::Unsupported("expansion is not there yet".into()))
    }
}
