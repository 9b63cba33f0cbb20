//! Local rules that take several nodes: arithmetic with broadcasting, reductions, frozen batch normalization.

use super::{Seed, Tape};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::op::{BinaryKind, Dim, Op, ReduceKind, Scalar, Span, UnaryKind};

/// x → factor · x.
pub(super) fn scaled(factor: f32) -> Op {
    Op::Unary(UnaryKind::Affine(Scalar::new(factor), Scalar::new(0.0)))
}

/// What takes a constant border away again.
pub(super) fn crop(pads: &[[usize; 2]]) -> Op {
    let span = |&[before, after]: &[usize; 2]| Span {
        start: Some(before as i64),
        stop: (after > 0).then_some(-(after as i64)),
        step: 1,
    };
    Op::Slice { spans: pads.iter().map(span).collect() }
}

impl Tape<'_> {
    fn node(&mut self, op: Op, inputs: &[ValueId], name: &str) -> Result<ValueId> {
        self.graph.add_one(op, inputs, name)
    }

    fn apply(&mut self, kind: BinaryKind, a: ValueId, b: ValueId, name: &str) -> Result<ValueId> {
        self.node(Op::Binary(kind), &[a, b], name)
    }

    /// Adds a gradient of a broadcast shape to that of the operand it came from: summed over the copies.
    pub(super) fn unbroadcast(&mut self, target: ValueId, grad: ValueId, name: &str) -> Result<()> {
        if !self.wants(target) {
            return Ok(());
        }
        let (to, from) = (self.graph.value(target).shape.clone(), self.graph.value(grad).shape.clone());
        let lead = from.len() - to.len();
        let axes: Vec<usize> =
            (0..from.len()).filter(|&axis| axis < lead || to[axis - lead] == 1 && from[axis] != 1).collect();
        let mut sum = grad;
        if !axes.is_empty() {
            sum = self.node(Op::Reduce { kind: ReduceKind::Sum, axes, keepdims: false }, &[grad], name)?;
        }
        if self.graph.value(sum).shape != to {
            sum = self.node(Op::ReshapeLike, &[sum, target], name)?;
        }
        self.add(target, Seed::Value(sum));
        Ok(())
    }

    pub(super) fn binary(
        &mut self,
        kind: BinaryKind,
        operands: &[ValueId],
        result: ValueId,
        grad: ValueId,
        name: &str,
    ) -> Result<()> {
        let (a, b) = (operands[0], operands[1]);
        let wants = [self.wants(a), self.wants(b)];
        let mut parts = [None, None];
        match kind {
            BinaryKind::Add => parts = [Some(grad), Some(grad)],
            BinaryKind::Sub => {
                parts[0] = Some(grad);
                if wants[1] {
                    parts[1] = Some(self.node(scaled(-1.0), &[grad], name)?);
                }
            }
            BinaryKind::Mul => {
                for (at, other) in [(0, b), (1, a)] {
                    if wants[at] {
                        parts[at] = Some(self.apply(BinaryKind::Mul, grad, other, name)?);
                    }
                }
            }
            BinaryKind::Div => {
                if wants[0] || wants[1] {
                    let share = self.apply(BinaryKind::Div, grad, b, name)?;
                    parts[0] = Some(share);
                    if wants[1] {
                        let down = self.apply(BinaryKind::Mul, share, result, name)?;
                        parts[1] = Some(self.node(scaled(-1.0), &[down], name)?);
                    }
                }
            }
            BinaryKind::Maximum | BinaryKind::Minimum => {
                let up = kind == BinaryKind::Maximum;
                for at in 0..2 {
                    if wants[at] {
                        let (x, y) = if up == (at == 0) { (a, b) } else { (b, a) };
                        let share = self.apply(BinaryKind::Share, x, y, name)?;
                        parts[at] = Some(self.apply(BinaryKind::Mul, grad, share, name)?);
                    }
                }
            }
            // Constant wherever they have a derivative.
            BinaryKind::Share | BinaryKind::Equal => {}
        }
        for (target, part) in [a, b].into_iter().zip(parts) {
            if let Some(part) = part {
                self.unbroadcast(target, part, name)?;
            }
        }
        Ok(())
    }

    /// A reduced value with its axes put back as single elements.
    pub(super) fn keep_dims(
        &mut self,
        operand: ValueId,
        reduced: ValueId,
        axes: &[usize],
        kept: bool,
        name: &str,
    ) -> Result<ValueId> {
        if kept || axes.is_empty() {
            return Ok(reduced);
        }
        let mut next = 0..;
        let dims = (0..self.graph.value(operand).shape.len())
            .map(|axis| if axes.contains(&axis) { Dim::Size(1) } else { Dim::Same(next.next().unwrap_or(0)) })
            .collect();
        self.node(Op::Reshape { dims }, &[reduced], name)
    }

    /// `result` and `grad` keep the reduced axes as single elements.
    pub(super) fn reduce(
        &mut self,
        kind: ReduceKind,
        axes: &[usize],
        operand: ValueId,
        result: ValueId,
        grad: ValueId,
        name: &str,
    ) -> Result<()> {
        if !self.wants(operand) {
            return Ok(());
        }
        let grad = match kind {
            ReduceKind::Sum => self.node(Op::Expand { mean: false }, &[grad, operand], name)?,
            ReduceKind::Mean => self.node(Op::Expand { mean: true }, &[grad, operand], name)?,
            ReduceKind::SumSquares => {
                let twice = self.node(scaled(2.0), &[grad], name)?;
                self.apply(BinaryKind::Mul, operand, twice, name)?
            }
            // Shared evenly by the elements that won.
            ReduceKind::Max | ReduceKind::Min => {
                let won = self.apply(BinaryKind::Equal, operand, result, name)?;
                let sum = Op::Reduce { kind: ReduceKind::Sum, axes: axes.to_vec(), keepdims: true };
                let count = self.node(sum, &[won], name)?;
                let share = self.apply(BinaryKind::Div, grad, count, name)?;
                self.apply(BinaryKind::Mul, won, share, name)?
            }
        };
        self.add(operand, Seed::Value(grad));
        Ok(())
    }

    /// Batch normalization with fixed statistics is affine in x, weight and bias.
    pub(super) fn batch_norm_infer(
        &mut self,
        eps: Scalar,
        inputs: &[ValueId],
        grad: ValueId,
        name: &str,
    ) -> Result<()> {
        let &[x, weight, bias, mean, var] = inputs else { return Ok(()) };
        let shifted = self.node(Op::Unary(UnaryKind::Affine(Scalar::new(1.0), eps)), &[var], name)?;
        let deviation = self.node(Op::Unary(UnaryKind::Sqrt), &[shifted], name)?;
        if self.wants(x) {
            let scale = self.apply(BinaryKind::Div, weight, deviation, name)?;
            let grad_x = self.apply(BinaryKind::Mul, grad, scale, name)?;
            self.add(x, Seed::Value(grad_x));
        }
        if self.wants(weight) {
            let centred = self.apply(BinaryKind::Sub, x, mean, name)?;
            let normal = self.apply(BinaryKind::Div, centred, deviation, name)?;
            let product = self.apply(BinaryKind::Mul, grad, normal, name)?;
            self.unbroadcast(weight, product, name)?;
        }
        self.unbroadcast(bias, grad, name)
    }
}
