//! Nodes that write stored tensors.

use super::{FLOAT, Lowering};
use crate::error::{Error, Result};
use crate::graph::Node;
use crate::graph::op::Optimizer;
use crate::kernels::copy::Copy;
use crate::kernels::counter::Increment;
use crate::kernels::update;
use crate::tensor::shape_text;

impl Lowering<'_> {
    pub(super) fn update(&mut self, node: &Node, optimizer: Optimizer) -> Result<()> {
        let Optimizer::Sgd { nesterov } = optimizer else {
            return Err(Error::Unsupported("this optimizer is not there yet".into()));
        };
        let per = 2 + optimizer.states();
        let lens: Vec<usize> = node.inputs[1..].chunks_exact(per).map(|one| self.len(one[0])).collect();
        let mut order = vec![node.inputs[0]];
        for one in node.inputs[1..].chunks_exact(per) {
            order.extend([one[1], one[0]]);
            order.extend(&one[2..]);
        }
        let operands = self.buffers(&order);
        let shape = format!("{} tensors, {} values", lens.len(), lens.iter().sum::<usize>());
        self.push(node, update::Sgd::new(self.options.isa, lens, nesterov), operands, shape);
        Ok(())
    }

    pub(super) fn assign(&mut self, node: &Node) {
        let (tensor, value) = (self.buffer(node.inputs[0]), self.buffer(node.inputs[1]));
        if tensor != value {
            let kernel = Copy::new(self.len(node.inputs[0]) * FLOAT);
            self.push(node, kernel, vec![value, tensor], shape_text(self.shape(node.inputs[0])));
        }
    }

    pub(super) fn blend(&mut self, _node: &Node) -> Result<()> {
        Err(Error::Unsupported("blending is not there yet".into()))
    }

    pub(super) fn increment(&mut self, node: &Node) {
        let operands = self.buffers(&node.inputs);
        self.push(node, Increment, operands, shape_text(self.shape(node.inputs[0])));
    }
}
