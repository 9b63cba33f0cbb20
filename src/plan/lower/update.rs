//! Nodes that write stored tensors.

use super::{FLOAT, Lowering};
use crate::graph::op::Optimizer;
use crate::graph::{Node, ValueId};
use crate::kernels::copy::Copy;
use crate::kernels::counter::Increment;
use crate::kernels::update::{Adagrad, Adam, Blend, RmsProp, Rule, Sgd, Update};
use crate::tensor::shape_text;

impl Lowering<'_> {
    pub(super) fn update(&mut self, node: &Node, optimizer: Optimizer) {
        match optimizer {
            Optimizer::Sgd { nesterov } => self.update_by(node, Sgd { nesterov }),
            Optimizer::RmsProp { centered } => self.update_by(node, RmsProp { centered }),
            Optimizer::Adam { amsgrad } => self.update_by(node, Adam { amsgrad }),
            Optimizer::Adagrad => self.update_by(node, Adagrad),
        }
    }

    fn update_by(&mut self, node: &Node, rule: impl Rule + 'static) {
        let per: Vec<&[ValueId]> = node.inputs[1..].chunks_exact(2 + rule.states()).collect();
        let lens: Vec<usize> = per.iter().map(|one| self.len(one[0])).collect();
        let mut order = vec![node.inputs[0]];
        for one in per {
            order.extend([one[1], one[0]]);
            order.extend(&one[2..]);
        }
        let operands = self.buffers(&order);
        let shape = format!("{} tensors, {} values", lens.len(), lens.iter().sum::<usize>());
        self.push(node, Update::new(self.options.isa, rule, &lens), operands, shape);
    }

    pub(super) fn assign(&mut self, node: &Node) {
        let (tensor, value) = (self.buffer(node.inputs[0]), self.buffer(node.inputs[1]));
        if tensor != value {
            let kernel = Copy::new(self.len(node.inputs[0]) * FLOAT);
            self.push(node, kernel, vec![value, tensor], shape_text(self.shape(node.inputs[0])));
        }
    }

    pub(super) fn blend(&mut self, node: &Node) {
        let &[stored, value, weight] = node.inputs.as_slice() else { unreachable!("checked when the node was added") };
        let operands = self.buffers(&[value, weight, stored]);
        let kernel = Blend::new(self.options.isa, self.len(stored));
        self.push(node, kernel, operands, shape_text(self.shape(stored)));
    }

    pub(super) fn increment(&mut self, node: &Node) {
        let operands = self.buffers(&node.inputs);
        self.push(node, Increment, operands, shape_text(self.shape(node.inputs[0])));
    }
}
