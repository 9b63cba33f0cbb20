//! Element-wise functions, arithmetic with broadcasting, reductions.

use super::{FLOAT, Lowering};
use crate::error::Result;
use crate::function::{BinaryKind, ReduceKind, UnaryKind};
use crate::graph::Node;
use crate::kernels::{elementwise, reduce};
use crate::tensor::shape_text;

impl Lowering<'_> {
    pub(super) fn unary(&mut self, node: &Node, kind: UnaryKind) {
        let kernel = elementwise::Unary::new(self.options.isa, kind, self.len(node.inputs[0]));
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push_in_place(node, kernel, operands, shape_text(self.shape(node.inputs[0])), [(0, 1)]);
    }

    pub(super) fn binary(&mut self, node: &Node, kind: BinaryKind) -> Result<()> {
        let [a, b] = [self.shape(node.inputs[0]), self.shape(node.inputs[1])];
        let dst = self.shape(node.outputs[0]);
        let kernel = elementwise::Binary::new(self.options.isa, kind, dst, a, b)?;
        let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
        // An operand with as many elements as the result has its shape, and is read element by element.
        let text = if a == b { shape_text(a) } else { format!("{} {}", shape_text(a), shape_text(b)) };
        self.push_in_place(node, kernel, operands, text, [(0, 2), (1, 2)]);
        Ok(())
    }

    pub(super) fn reduce(&mut self, node: &Node, kind: ReduceKind, axes: &[usize]) {
        if self.sum_rows(node) {
            return;
        }
        let x = self.shape(node.inputs[0]);
        let count: usize = axes.iter().map(|&axis| x[axis]).product();
        let divisor = (kind == ReduceKind::Mean).then_some(count as f32);
        let mut runs = runs(x, axes);
        let mut source = self.buffer(node.inputs[0]);
        let mut kind = kind;
        loop {
            // The longest first: what is left is smallest.
            let reduced = runs.iter().enumerate().filter(|(_, run)| run.reduced);
            let at = reduced.max_by_key(|(index, run)| (run.size, *index)).map_or(0, |(index, _)| index);
            let [outer, inner] = [&runs[..at], &runs[at + 1..]].map(|part| part.iter().map(|run| run.size).product());
            let shape = [outer, runs[at].size, inner];
            runs.remove(at);
            if runs.iter().any(|run| run.reduced) {
                let partial = self.temp(outer * inner * FLOAT);
                self.push_reduce(node, kind, shape, [source, partial], None);
                source = partial;
            } else {
                let result = self.buffer(node.outputs[0]);
                self.push_reduce(node, kind, shape, [source, result], divisor);
                return;
            }
            kind = reduce::of_totals(kind);
        }
    }

    /// One reduction of the middle of three axes, and the step that joins its parts.
    fn push_reduce(
        &mut self,
        node: &Node,
        kind: ReduceKind,
        shape: [usize; 3],
        [source, result]: [usize; 2],
        divisor: Option<f32>,
    ) {
        let isa = self.options.isa;
        let kernel = reduce::Reduce::new(isa, kind, shape, divisor);
        let [outer, reduced, inner] = shape;
        let (text, parts, len) = (format!("o{outer}r{reduced}i{inner}"), kernel.parts(), outer * inner);
        if parts == 1 {
            self.push(node, kernel, vec![source, result], text);
            return;
        }
        let partials = self.temp(parts * len * FLOAT);
        self.push(node, kernel, vec![source, partials], text.clone());
        let joining = reduce::Reduce::new(isa, reduce::of_totals(kind), [1, parts, len], divisor);
        self.push(node, joining, vec![partials, result], text);
    }

    /// The operand that only lends its shape is no operand of the step.
    pub(super) fn expand(&mut self, node: &Node, mean: bool) -> Result<()> {
        let (x, dst) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        let copies = self.len(node.outputs[0]) / self.len(node.inputs[0]).max(1);
        let divisor = mean.then_some(copies as f32);
        let kernel = elementwise::Expand::new(self.options.isa, dst, x, divisor)?;
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push(node, kernel, operands, format!("{} {}", shape_text(x), shape_text(dst)));
        Ok(())
    }
}

/// Neighbouring axes that are all reduced, or all kept.
struct Run {
    reduced: bool,
    size: usize,
}

/// The axes of a shape as alternating runs, at least one of them reduced.
fn runs(shape: &[usize], axes: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (axis, &size) in shape.iter().enumerate().filter(|(_, size)| **size != 1) {
        let reduced = axes.contains(&axis);
        match runs.last_mut().filter(|run| run.reduced == reduced) {
            Some(run) => run.size *= size,
            None => runs.push(Run { reduced, size }),
        }
    }
    if runs.iter().all(|run| !run.reduced) {
        runs.insert(0, Run { reduced: true, size: 1 });
    }
    runs
}
