//! Pooling.

use super::Lowering;
use crate::graph::{Node, Op, ValueId};
use crate::kernels::pool::{AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward, PoolGeometry, Winner};
use crate::window::Window2d;

impl Lowering<'_> {
    pub(super) fn max_pool(&mut self, node: &Node, window: Window2d) {
        let (x, y, index) = (node.inputs[0], node.outputs[0], node.outputs[1]);
        let winner = self.read[index.0].then(|| self.winner(index));
        let kernel = MaxPool::new(self.options.isa, self.pool_geometry(x, y, window), winner);
        let mut operands = self.buffers(&[x, y]);
        if let Some(winner) = winner {
            if winner == Winner::Tap {
                self.of_value[index.0] = Some(self.temp(self.len(index) * winner.size()));
            }
            operands.push(self.buffer(index));
        }
        self.push(node, kernel, operands, self.pool_shape(x, window));
    }

    pub(super) fn max_pool_backward(&mut self, node: &Node, window: Window2d) {
        let (grad, index, x) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        let operands = self.buffers(&[grad, index, x]);
        self.push(node, self.max_pool_gradient(node, window), operands, self.pool_shape(x, window));
    }

    pub(super) fn max_pool_gradient(&self, node: &Node, window: Window2d) -> MaxPoolBackward {
        let geometry = self.pool_geometry(node.outputs[0], node.inputs[0], window);
        MaxPoolBackward::new(self.options.isa, geometry, self.winner(node.inputs[1]))
    }

    /// What an index is kept as: the graph's positions, unless only gradients of the very pooling read it and its taps are
    /// few enough.
    fn winner(&self, index: ValueId) -> Winner {
        let nodes = self.graph.nodes();
        let made = nodes.iter().find_map(|node| match node.op {
            Op::MaxPool2d { window, .. } if node.outputs[1] == index => Some((window, self.shape(node.inputs[0]))),
            _ => None,
        });
        let Some((pooled, x)) = made else { return Winner::Position };
        let own = |node: &&Node| match node.op {
            Op::MaxPool2dBackward { window, input, .. } => {
                node.inputs[1] == index && window == pooled && input[..] == x[1..3]
            }
            _ => false,
        };
        // Readers of another kind, and the caller, count as well.
        let private = nodes.iter().filter(own).count() == self.readers[index.0];
        if private { Winner::least(&pooled) } else { Winner::Position }
    }

    pub(super) fn avg_pool(&mut self, node: &Node, window: Window2d, count_include_pad: bool) {
        let (x, y) = (node.inputs[0], node.outputs[0]);
        let kernel = AvgPool::new(self.options.isa, self.pool_geometry(x, y, window), count_include_pad);
        let operands = self.buffers(&[x, y]);
        self.push(node, kernel, operands, self.pool_shape(x, window));
    }

    pub(super) fn avg_pool_backward(&mut self, node: &Node, window: Window2d, count_include_pad: bool) {
        let (grad, x) = (node.inputs[0], node.outputs[0]);
        let operands = self.buffers(&[grad, x]);
        let kernel = self.avg_pool_gradient(node, window, count_include_pad);
        self.push(node, kernel, operands, self.pool_shape(x, window));
    }

    pub(super) fn avg_pool_gradient(&self, node: &Node, window: Window2d, count_include_pad: bool) -> AvgPoolBackward {
        let geometry = self.pool_geometry(node.outputs[0], node.inputs[0], window);
        AvgPoolBackward::new(self.options.isa, geometry, count_include_pad)
    }

    pub(super) fn pool_geometry(&self, x: ValueId, y: ValueId, window: Window2d) -> PoolGeometry {
        let (x, y) = (self.shape(x), self.shape(y));
        PoolGeometry { n: x[0], ih: x[1], iw: x[2], c: x[3], oh: y[1], ow: y[2], window }
    }

    fn pool_shape(&self, x: ValueId, window: Window2d) -> String {
        let x = self.shape(x);
        format!("n{}ih{}iw{}c{}{}", x[0], x[1], x[2], x[3], window.describe())
    }
}
