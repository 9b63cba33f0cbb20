//! Nodes that write stored tensors.

use super::{FLOAT, Lowering};
use crate::graph::op::Optimizer;
use crate::graph::{Node, Op, Role, ValueId};
use crate::kernels::copy::Copies;
use crate::kernels::counter::Increment;
use crate::kernels::linear::{BackwardUpdate, BackwardWeights};
use crate::kernels::update::{Adagrad, Adam, Blend, RmsProp, Rule, Sgd, Update};
use crate::tensor::shape_text;

/// Bytes of a gradient from which its update makes it: what fits caches costs little to write and read.
const DEFERRED: usize = 1 << 20;

impl<'a> Lowering<'a> {
    pub(super) fn update(&mut self, node: &Node, optimizer: Optimizer) {
        match optimizer {
            Optimizer::Sgd { nesterov } => self.update_by(node, Sgd { nesterov }),
            Optimizer::RmsProp { centered } => self.update_by(node, RmsProp { centered }),
            Optimizer::Adam { amsgrad } => self.update_by(node, Adam { amsgrad }),
            Optimizer::Adagrad => self.update_by(node, Adagrad),
        }
    }

    fn update_by(&mut self, node: &Node, rule: impl Rule + Copy + 'static) {
        let per: Vec<&[ValueId]> = node.inputs[1..].chunks_exact(2 + rule.states()).collect();
        let (mut order, mut lens, mut rows) = (vec![node.inputs[0]], Vec::new(), Vec::new());
        for (row, one) in per.iter().enumerate() {
            if let Some(maker) = self.deferred_maker(one[1]) {
                self.update_by_product(node, maker, (rule, row), one);
                continue;
            }
            order.extend([one[1], one[0]]);
            order.extend(&one[2..]);
            lens.push(self.len(one[0]));
            rows.push(row);
        }
        if lens.is_empty() && !per.is_empty() {
            return;
        }
        let operands = self.buffers(&order);
        let shape = format!("{} tensors, {} values", lens.len(), lens.iter().sum::<usize>());
        self.push(node, Update::with_rows(self.options.isa, rule, &lens, rows), operands, shape);
    }

    /// Whether the node makes a gradient that the update, its only reader, may just as well make in cache where it takes
    /// it; if so the update will. What the gradient is made from must then not be a stored tensor, which may have been
    /// written by that time.
    pub(super) fn defers_gradient(&mut self, node: &'a Node) -> bool {
        let &[gradient] = node.outputs.as_slice() else { return false };
        let updates = self.graph.nodes().iter().any(|other| match other.op {
            Op::Update(optimizer) => {
                let per = 2 + optimizer.states();
                other.inputs[1..].chunks_exact(per).any(|one| one[1] == gradient)
            }
            _ => false,
        });
        let stored = |id: &ValueId| matches!(self.graph.value(self.origin[id.0]).role, Role::Parameter { .. });
        let &[rows, ..] = self.shape(node.inputs[0]) else { return false };
        let &[inputs, outputs] = self.shape(gradient) else { return false };
        let defers = updates
            && self.readers[gradient.0] == 1
            && !node.inputs.iter().any(stored)
            && self.len(gradient) * FLOAT >= DEFERRED
            && BackwardWeights::serves(rows, [inputs, outputs]);
        if defers {
            self.deferred.push((gradient, node));
        }
        defers
    }

    /// The update of one parameter by the gradient that `maker` makes; `one` is the parameter, the gradient, the states.
    fn update_by_product(
        &mut self,
        node: &Node,
        maker: &Node,
        (rule, row): (impl Rule + 'static, usize),
        one: &[ValueId],
    ) {
        let (rows, weights) = (self.shape(maker.inputs[0])[0], self.shape(one[0]));
        let kernel = BackwardUpdate::new(self.options.isa, rule, row, rows, [weights[0], weights[1]]);
        let mut order = maker.inputs.clone();
        order.extend([node.inputs[0], one[0]]);
        order.extend(&one[2..]);
        let (operands, shape) = (self.buffers(&order), format!("n{rows}ic{}oc{}", weights[0], weights[1]));
        self.push(&Node { name: maker.name.clone(), ..node.clone() }, kernel, operands, shape);
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
