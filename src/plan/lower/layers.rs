//! Convolutions, products of matrices and the geometry of pooling.

use super::Lowering;
use crate::error::{Error, Result};
use crate::graph::{Node, UnaryKind, ValueId};
use crate::kernels::conv::{self, Epilogue, Geometry};
use crate::kernels::pool::PoolGeometry;
use crate::window::Window2d;

impl Lowering<'_> {
    pub(super) fn forward(&mut self, node: &Node, geometry: Geometry, activation: Option<UnaryKind>) {
        let isa = self.options.isa;
        let pack = conv::PackForward::new(isa, geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let epilogue = Epilogue { bias: node.inputs.len() == 3, activation };
        let mut operands = vec![self.buffer(node.inputs[0]), packed];
        if let Some(&bias) = node.inputs.get(2) {
            operands.push(self.buffer(bias));
        }
        operands.push(self.buffer(node.outputs[0]));
        self.push(node, conv::Forward::new(isa, geometry, epilogue), operands, geometry.describe());
    }

    pub(super) fn backward_data(&mut self, node: &Node, geometry: Geometry) {
        let isa = self.options.isa;
        let pack = conv::PackBackwardData::new(isa, geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
        self.push(node, conv::BackwardData::new(isa, geometry), operands, geometry.describe());
    }

    pub(super) fn backward_weights(&mut self, node: &Node, geometry: Geometry) {
        let kernel = conv::BackwardWeights::new(self.options.isa, geometry);
        let parts = kernel.parts();
        self.push_parts(node, kernel, parts, &node.inputs, geometry.describe());
    }

    pub(super) fn linear(&mut self, node: &Node, activation: Option<UnaryKind>) -> Result<()> {
        let (x, y) = (self.shape(node.inputs[0]), self.shape(node.outputs[0]));
        let &[rows, inputs] = x else { return Err(later("a product for each index of leading axes")) };
        self.forward(node, matrix(rows, inputs, y[1])?, activation);
        Ok(())
    }

    pub(super) fn linear_backward_data(&mut self, node: &Node) -> Result<()> {
        let (x, y) = (self.shape(node.outputs[0]), self.shape(node.inputs[0]));
        let &[rows, inputs] = x else { return Err(later("a product for each index of leading axes")) };
        self.backward_data(node, matrix(rows, inputs, y[1])?);
        Ok(())
    }

    pub(super) fn linear_backward_weights(&mut self, node: &Node) -> Result<()> {
        let (x, y) = (self.shape(node.inputs[0]), self.shape(node.inputs[1]));
        let &[rows, inputs] = x else { return Err(later("a product for each index of leading axes")) };
        self.backward_weights(node, matrix(rows, inputs, y[1])?);
        Ok(())
    }

    pub(super) fn pool_geometry(&self, x: ValueId, y: ValueId, window: Window2d) -> PoolGeometry {
        let (x, y) = (self.shape(x), self.shape(y));
        PoolGeometry { n: x[0], ih: x[1], iw: x[2], c: x[3], oh: y[1], ow: y[2], window }
    }

    pub(super) fn pool_shape(&self, x: ValueId, window: Window2d) -> String {
        let x = self.shape(x);
        format!("n{}ih{}iw{}c{}{}", x[0], x[1], x[2], x[3], window.describe())
    }
}

/// A matrix product as a convolution of one-pixel images.
fn matrix(rows: usize, inputs: usize, outputs: usize) -> Result<Geometry> {
    Geometry::new(rows, [1, 1], inputs, outputs, 1, Window2d::UNIT)
}

fn later(what: &str) -> Error {
    Error::Unsupported(format!("{what} is not there yet"))
}
