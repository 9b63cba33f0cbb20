//! Gradients of activations, which take what stands beside them along: the gradient of a pooling behind the activation, and
//! the sums that the bias before it wants.

use super::{FLOAT, Lowering};
use crate::function::{ReduceKind, UnaryKind};
use crate::graph::{Node, Op, ValueId};
use crate::kernels::elementwise::UnaryBackward;
use crate::kernels::reduce::Reduce;
use crate::kernels::strips::{Activated, Strips, Summed};
use crate::tensor::shape_text;

/// Sums over all rows of a gradient, a row for each part, taken where the gradient is made.
pub(super) struct Sums {
    gradient: ValueId,
    buffer: usize,
}

impl<'a> Lowering<'a> {
    /// Whether a pooling's gradient is left for that of an activation, its only reader.
    pub(super) fn defers_pool_gradient(&mut self, node: &'a Node) -> bool {
        let gradient = node.outputs[0];
        let takes = |reader: &Node| matches!(reader.op, Op::UnaryBackward(_)) && reader.inputs[0] == gradient;
        let defers = self.readers[gradient.0] == 1 && self.graph.nodes().iter().any(takes);
        if defers {
            self.deferred.push((gradient, node));
        }
        defers
    }

    pub(super) fn unary_backward(&mut self, node: &Node, kind: UnaryKind) {
        let isa = self.options.isa;
        match self.deferred_maker(node.inputs[0]).map(|pooling| (pooling, &pooling.op)) {
            Some((pooling, &Op::AvgPool2dBackward { window, count_include_pad, .. })) => {
                let first = self.avg_pool_gradient(pooling, window, count_include_pad);
                self.behind_pooling(node, kind, pooling, first);
            }
            Some((pooling, &Op::MaxPool2dBackward { window, .. })) => {
                let first = self.max_pool_gradient(pooling, window);
                self.behind_pooling(node, kind, pooling, first);
            }
            _ => {
                let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
                let kernel = UnaryBackward::new(isa, kind, self.len(node.outputs[0]));
                self.push_strips(node, kernel, operands, [(0, 2), (1, 2)]);
            }
        }
    }

    /// The gradient of an activation, behind that of a pooling, which makes `first`.
    fn behind_pooling(&mut self, node: &Node, kind: UnaryKind, pooling: &Node, first: impl Strips + 'static) {
        let mut operands = self.buffers(&pooling.inputs);
        operands.extend(self.buffers(&[node.outputs[0], node.inputs[1]]));
        self.push_strips(node, Activated::new(self.options.isa, first, kind), operands, None);
    }

    /// A step that makes a gradient, with its operands, and sums over its rows if anybody wants them.
    fn push_strips(
        &mut self,
        node: &Node,
        first: impl Strips + 'static,
        mut operands: Vec<usize>,
        in_place: impl IntoIterator<Item = (usize, usize)>,
    ) {
        let gradient = node.outputs[0];
        let shape = shape_text(self.shape(gradient));
        let wanted = !self.watched && self.graph.nodes().iter().any(|node| self.sums_rows(node, gradient));
        if let Some(sum) = self.row_sum(gradient).filter(|sum| wanted && Summed::serves(&first, sum)) {
            let buffer = self.temp(sum.parts() * sum.result_len() * FLOAT);
            operands.push(buffer);
            self.sums.push(Sums { gradient, buffer });
            self.push_in_place(node, Summed::new(first, sum), operands, shape, in_place);
        } else {
            self.push_in_place(node, first, operands, shape, in_place);
        }
    }

    /// Whether the node sums all rows of this value, and somebody reads the result.
    fn sums_rows(&self, node: &Node, value: ValueId) -> bool {
        let Op::Reduce { kind: ReduceKind::Sum, axes, .. } = &node.op else { return false };
        let rows = self.shape(value).len().saturating_sub(1);
        node.inputs[0] == value && axes.iter().copied().eq(0..rows) && self.reads(node.outputs[0])
    }

    /// The sum of all rows of a value; its parts are whole lines of pixels, if it has such.
    fn row_sum(&self, value: ValueId) -> Option<Reduce> {
        let (&width, rows) = self.shape(value).split_last()?;
        let (&line, _) = rows.split_last()?;
        let count: usize = rows.iter().product();
        let sum = Reduce::new(self.options.isa, ReduceKind::Sum, [1, count, width], None);
        let line = if rows.len() > 1 { line } else { 1 };
        (width > 1 && count > 0).then(|| sum.by_lines(line))
    }

    /// Sums all rows of a value, if this node does: part by part, unless that was done where the value was made.
    pub(super) fn sum_rows(&mut self, node: &Node) -> bool {
        let value = node.inputs[0];
        let Some(sum) = self.row_sum(value).filter(|_| self.sums_rows(node, value)) else { return false };
        let (parts, width) = (sum.parts(), sum.result_len());
        let text = format!("o1r{}i{width}", self.len(value) / width);
        match self.sums.iter().find(|sums| sums.gradient == value).map(|sums| sums.buffer) {
            Some(partials) if parts == 1 => self.of_value[node.outputs[0].0] = Some(partials),
            Some(partials) => self.join_parts(node, parts, partials, text),
            None => {
                let operands = vec![self.buffer(value)];
                self.push_parts(node, sum, parts, operands, text);
            }
        }
        true
    }
}
