//! Everything that only moves elements, and the linear maps along an axis.

use super::Lowering;
use crate::error::Result;
use crate::function::AxisMap;
use crate::graph::op::Span;
use crate::graph::{FlattenOrder, Node, ValueId};
use crate::kernels::axis_map;
use crate::kernels::strided::{Axis, StridedCopy};
use crate::tensor::shape_text;

impl Lowering<'_> {
    /// The result is the operand's memory.
    pub(super) fn alias(&mut self, node: &Node) {
        self.same_memory(node.inputs[0], node.outputs[0]);
    }

    fn same_memory(&mut self, source: ValueId, result: ValueId) {
        let buffer = self.buffer(source);
        self.of_value[result.0] = Some(buffer);
        self.origin[result.0] = self.origin[source.0];
    }

    /// A copy from one operand to the result; `shape` is the larger side's.
    fn strided(&mut self, node: &Node, kernel: StridedCopy, source: ValueId, shape: &[usize]) {
        let operands = self.buffers(&[source, node.outputs[0]]);
        self.push(node, kernel, operands, shape_text(shape));
    }

    /// `map` is the value of rank 4; in NumPy's order both sides are the same memory.
    pub(super) fn flatten(&mut self, node: &Node, order: FlattenOrder, map: ValueId, inverse: bool) {
        let &[n, h, w, c] = self.shape(map) else { return };
        if order == FlattenOrder::Hwc {
            self.alias(node);
        } else if inverse {
            self.permute(node, &[n, c, h * w], &[0, 2, 1]);
        } else {
            self.permute(node, &[n, h * w, c], &[0, 2, 1]);
        }
    }

    pub(super) fn transpose(&mut self, node: &Node, axes: &[usize]) {
        self.permute(node, self.shape(node.inputs[0]), axes);
    }

    /// The operand, seen as `shape`, with axis `axes[i]` as axis i.
    fn permute(&mut self, node: &Node, shape: &[usize], axes: &[usize]) {
        // Where only axes of one element change places, no element does.
        let moving: Vec<usize> = axes.iter().copied().filter(|&axis| shape[axis] != 1).collect();
        if moving.is_sorted() {
            self.alias(node);
            return;
        }
        let sizes: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
        let (src, dst) = (strides(shape), strides(&sizes));
        let dense = |(i, &axis): (usize, &usize)| Axis::dense(sizes[i], dst[i], src[axis] as isize);
        let parts: Vec<Axis> = axes.iter().enumerate().map(dense).collect();
        self.strided(node, StridedCopy::new(self.options.isa, &parts, 0, 0, 0.0), node.inputs[0], shape);
    }

    pub(super) fn slice(&mut self, node: &Node, spans: &[Span]) {
        let (whole, part) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        if whole == part && spans.iter().zip(whole).all(|(span, &size)| size <= 1 || span.step == 1) {
            self.alias(node);
            return;
        }
        let (src, dst) = (strides(whole), strides(part));
        let mut first = 0;
        let mut axes = Vec::with_capacity(spans.len());
        for (axis, span) in spans.iter().enumerate() {
            let (start, count) = span.resolve(whole[axis]);
            first += start * src[axis];
            let stride = if count > 1 { span.step as isize * src[axis] as isize } else { 0 };
            axes.push(Axis::dense(count, dst[axis], stride));
        }
        self.strided(node, StridedCopy::new(self.options.isa, &axes, first, 0, 0.0), node.inputs[0], whole);
    }

    pub(super) fn slice_backward(&mut self, node: &Node, spans: &[Span]) {
        let (part, whole) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        if whole == part && spans.iter().zip(whole).all(|(span, &size)| size <= 1 || span.step == 1) {
            self.alias(node);
            return;
        }
        let (src, dst) = (strides(part), strides(whole));
        let mut from = 0;
        let mut axes = Vec::with_capacity(spans.len());
        for (axis, span) in spans.iter().enumerate() {
            let (start, count) = span.resolve(whole[axis]);
            let step = if count > 1 { span.step.unsigned_abs() as usize } else { 1 };
            // Backwards, the last element of the gradient belongs to the first one chosen in memory.
            let back = span.step < 0 && count > 1;
            let (first, stride) =
                if back { (start - (count - 1) * step, -(src[axis] as isize)) } else { (start, src[axis] as isize) };
            from += if back { (count - 1) * src[axis] } else { 0 };
            let first = if count == 0 { 0 } else { first };
            axes.push(Axis { size: whole[axis], dst_stride: dst[axis], first, step, count, src_stride: stride });
        }
        self.strided(node, StridedCopy::new(self.options.isa, &axes, from, 0, 0.0), node.inputs[0], whole);
    }

    pub(super) fn pad(&mut self, node: &Node, pads: &[[usize; 2]], value: f32) {
        let (inside, whole) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        if inside == whole {
            self.alias(node);
            return;
        }
        let (src, dst) = (strides(inside), strides(whole));
        let bordered = |(axis, &[before, _]): (usize, &[usize; 2])| Axis {
            size: whole[axis],
            dst_stride: dst[axis],
            first: before,
            step: 1,
            count: inside[axis],
            src_stride: src[axis] as isize,
        };
        let axes: Vec<Axis> = pads.iter().enumerate().map(bordered).collect();
        self.strided(node, StridedCopy::new(self.options.isa, &axes, 0, 0, value), node.inputs[0], whole);
    }

    /// One step per part: each writes its own elements of the result.
    pub(super) fn concat(&mut self, node: &Node, axis: usize) {
        let whole = self.shape(node.outputs[0]);
        if let Some(&part) = node.inputs.iter().find(|&&part| self.shape(part) == whole) {
            self.same_memory(part, node.outputs[0]);
            return;
        }
        let mut first = 0;
        for &part in &node.inputs {
            let shape = self.shape(part);
            if shape.contains(&0) {
                continue;
            }
            let (src, dst) = (strides(shape), strides(whole));
            let dense = |(i, &size): (usize, &usize)| Axis::dense(size, dst[i], src[i] as isize);
            let axes: Vec<Axis> = shape.iter().enumerate().map(dense).collect();
            self.strided(node, StridedCopy::new(self.options.isa, &axes, 0, first * dst[axis], 0.0), part, whole);
            first += shape[axis];
        }
    }

    pub(super) fn concat_part(&mut self, node: &Node, axis: usize, index: usize) {
        let (whole, part) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        if whole == part {
            self.alias(node);
            return;
        }
        let first: usize = node.inputs[1..=index].iter().map(|&part| self.shape(part)[axis]).sum();
        let (src, dst) = (strides(whole), strides(part));
        let dense = |(i, &size): (usize, &usize)| Axis::dense(size, dst[i], src[i] as isize);
        let axes: Vec<Axis> = part.iter().enumerate().map(dense).collect();
        self.strided(node, StridedCopy::new(self.options.isa, &axes, first * src[axis], 0, 0.0), node.inputs[0], whole);
    }

    pub(super) fn axis_map(&mut self, node: &Node, axis: usize, map: AxisMap) -> Result<()> {
        let shape = self.shape(node.inputs[0]);
        let (outer, inner) = around(shape, axis);
        let kernel = axis_map::AxisMap::forward(self.options.isa, map, outer, shape[axis], inner)?;
        self.mapped(node, kernel, shape);
        Ok(())
    }

    pub(super) fn axis_map_backward(&mut self, node: &Node, axis: usize, map: AxisMap, from: usize) -> Result<()> {
        let shape = self.shape(node.outputs[0]);
        let (outer, inner) = around(shape, axis);
        let kernel = axis_map::AxisMap::backward(self.options.isa, map, outer, from, inner)?;
        self.mapped(node, kernel, shape);
        Ok(())
    }

    fn mapped(&mut self, node: &Node, kernel: axis_map::AxisMap, shape: &[usize]) {
        if kernel.is_identity() {
            self.alias(node);
            return;
        }
        let operands = self.buffers(&[node.inputs[0], node.outputs[0]]);
        self.push(node, kernel, operands, shape_text(shape));
    }
}

/// Floats from one element of each axis to the next, in NumPy's order.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Elements outside and inside of an axis.
fn around(shape: &[usize], axis: usize) -> (usize, usize) {
    (shape[..axis].iter().product(), shape[axis + 1..].iter().product())
}
