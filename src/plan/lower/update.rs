//! Nodes that write stored tensors.

use super::{FLOAT, Lowering};
use crate::graph::op::Optimizer;
use crate::graph::{Node, Op, ValueId};
use crate::kernels::copy::Copies;
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

    /// Neighbouring effects that only copy or count, in one step for each kind: running values of all layers.
    pub(super) fn small_effects(&mut self, nodes: &[&Node]) {
        let (assigns, counts): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(|node| node.op == Op::Assign);
        let mut rest = assigns.as_slice();
        while !rest.is_empty() {
            let mut written = Vec::new();
            let mut operands = Vec::new();
            let mut bytes = Vec::new();
            let mut taken = 0;
            for node in rest {
                let (tensor, value) = (self.buffer(node.inputs[0]), self.buffer(node.inputs[1]));
                // What is written before, or was read before, waits for the next step.
                if written.contains(&tensor) || written.contains(&value) || operands.contains(&tensor) {
                    break;
                }
                taken += 1;
                if tensor != value {
                    written.push(tensor);
                    operands.extend([value, tensor]);
                    bytes.push(self.len(node.inputs[0]) * FLOAT);
                }
            }
            let (now, later) = rest.split_at(taken);
            if !bytes.is_empty() {
                let shape = self.shape_of_effects(now);
                self.push(&joint(now), Copies::new(bytes), operands, shape);
            }
            rest = later;
        }
        if !counts.is_empty() {
            let operands: Vec<usize> = counts.iter().map(|node| self.buffer(node.inputs[0])).collect();
            let shape = self.shape_of_effects(&counts);
            self.push(&joint(&counts), Increment, operands, shape);
        }
    }

    fn shape_of_effects(&self, nodes: &[&Node]) -> String {
        if let [node] = nodes {
            return shape_text(self.shape(node.inputs[0]));
        }
        let values: usize = nodes.iter().map(|node| self.len(node.inputs[0])).sum();
        format!("{} tensors, {values} values", nodes.len())
    }

    pub(super) fn blend(&mut self, node: &Node) {
        let &[stored, value, weight] = node.inputs.as_slice() else { unreachable!("checked when the node was added") };
        let operands = self.buffers(&[value, weight, stored]);
        let kernel = Blend::new(self.options.isa, self.len(stored));
        self.push(node, kernel, operands, shape_text(self.shape(stored)));
    }
}

/// A node for what several do together: of their layer if they have one in common.
fn joint(nodes: &[&Node]) -> Node {
    let mut joint = nodes[0].clone();
    if nodes.iter().any(|node| node.name != joint.name) {
        joint.name = String::new();
    }
    joint
}
