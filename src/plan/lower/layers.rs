//! Convolutions, products of matrices and the geometry of pooling.

use super::pooled::{Pool, Pooling};
use super::{FLOAT, Lowering};
use crate::algorithm::Algorithm;
use crate::error::{Error, Result};
use crate::graph::{Fused, FusedOperands, Node, UnaryKind};
use crate::kernels::Kernel;
use crate::kernels::batch::Batch;
use crate::kernels::conv::{self, Epilogue, Geometry, planes, spread, winograd};
use crate::kernels::linear;
use crate::kernels::reduce::Reduce;
use crate::tensor::shape_text;
use crate::window::Window2d;

impl Lowering<'_> {
    /// A convolution by the first kernel that is not refused, to its result or, where it was left for that, to what is pooled
    /// of it.
    pub(super) fn forward(
        &mut self,
        node: &Node,
        geometry: Geometry,
        algorithm: Algorithm,
        fused: Fused,
        pooling: Option<&Pooling>,
    ) {
        let isa = self.options.isa;
        let Some(refusal) = conv::depthwise::refusal(isa, &geometry) else {
            return self.depthwise_forward(node, geometry, fused);
        };
        let Some(other) = winograd::refusal(self.options.algorithm.and(algorithm), &geometry) else {
            return self.winograd_forward(node, geometry, fused, pooling);
        };
        let Some(planes) = planes::refusal(isa, &geometry) else {
            return self.planes_forward(node, geometry, fused, pooling);
        };
        let Some(spread) = spread::refusal(isa, &geometry, false) else {
            return self.spread_forward(node, geometry, fused);
        };
        let (epilogue, behind) = self.epilogue(node, fused);
        let pack = conv::PackForward::new(isa, geometry);
        let (floats, format) = (pack.packed_len(), pack.format());
        let packed = self.pack(node, node.inputs[1], pack, floats, format);
        let mut operands = vec![self.buffer(node.inputs[0]), packed];
        operands.extend(behind);
        self.refuse_depthwise(&geometry, "conv_depthwise", refusal);
        self.refuse_winograd(&geometry, "conv_winograd", other);
        if geometry.ic == 1 {
            self.refused.push(("conv_planes".to_owned(), planes));
        }
        self.refuse_spread(&geometry, "conv_spread", spread);
        if let Some(&Pooling { of: Pool::Windows(_, pooling), result }) = pooling {
            let kernel = conv::Pooled::new(isa, geometry, pooling, epilogue).expect("deferred because there is one");
            operands.push(self.buffer(result));
            if kernel.seams_len() > 0 {
                operands.push(self.temp(kernel.seams_len() * FLOAT));
            }
            return self.push(node, kernel, operands, geometry.describe());
        }
        operands.push(self.buffer(node.outputs[0]));
        let kernel = conv::Forward::copying_once(isa, geometry, epilogue);
        let moments = self.takes_moments(node.outputs[0], || kernel.moments_refusal());
        let kernel = if moments { kernel.with_moments() } else { kernel };
        let in_place = added_in_place(epilogue, kernel.adds_in_place(), &operands);
        if kernel.copy_len() > 0 {
            operands.push(self.temp(kernel.copy_len() * FLOAT));
        }
        if moments {
            operands.push(self.partials(node.outputs[0], kernel.parts()));
        }
        self.push_pooling(node, (kernel, operands, in_place), pooling, geometry.describe());
    }

    /// The geometry of a convolution node.
    pub(super) fn conv_geometry(&self, node: &Node, window: Window2d, groups: usize) -> Result<Geometry> {
        let x = self.shape(node.inputs[0]);
        Geometry::new(x[0], [x[1], x[2]], x[3], self.shape(node.outputs[0])[3], groups, window)
    }

    /// The geometry of the convolution whose data gradient this node is.
    pub(super) fn data_geometry(&self, node: &Node, window: Window2d, groups: usize) -> Result<Geometry> {
        let (x, y) = (self.shape(node.outputs[0]), self.shape(node.inputs[0]));
        Geometry::new(x[0], [x[1], x[2]], x[3], y[3], groups, window)
    }

    /// What follows the sums of a convolution, and its operands.
    pub(super) fn epilogue(&mut self, node: &Node, fused: Fused) -> (Epilogue, Vec<usize>) {
        let FusedOperands { bias, norm, added } = fused.split(&node.inputs);
        let mut operands: Vec<usize> = bias.map(|&bias| self.buffer(bias)).into_iter().collect();
        if let (Some(eps), &[weight, bias, mean, variance]) = (fused.norm, norm) {
            operands.extend(self.buffers(&[weight, bias, mean]));
            operands.push(self.reciprocal_deviation(node, variance, eps.get()));
        }
        operands.extend(added.map(|&added| self.buffer(added)));
        let Fused { norm, add, activation } = fused;
        (Epilogue { bias: bias.is_some(), norm: norm.is_some(), add, activation }, operands)
    }

    pub(super) fn backward_weights(&mut self, node: &Node, geometry: Geometry, algorithm: Algorithm) {
        let isa = self.options.isa;
        let Some(refusal) = conv::depthwise::refusal(isa, &geometry) else {
            return self.depthwise_backward_weights(node, geometry);
        };
        let Some(other) = winograd::refusal_of_weights(self.options.algorithm.and(algorithm), &geometry) else {
            return self.winograd_backward_weights(node, geometry);
        };
        let Some(spread) = spread::BackwardWeights::refusal(isa, &geometry) else {
            return self.spread_backward_weights(node, geometry);
        };
        let kernel = conv::BackwardWeights::new(isa, geometry);
        let (parts, operands) = (kernel.parts(), self.buffers(&node.inputs));
        self.refuse_spread(&geometry, "conv_spread_backward_weights", spread);
        self.refuse_depthwise(&geometry, "conv_depthwise_backward_weights", refusal);
        self.refuse_winograd(&geometry, "conv_winograd_backward_weights", other);
        self.push_parts(node, kernel, parts, operands, geometry.describe());
    }

    /// x (…, N, I), weight (…, I, O) → (…, N, O).
    pub(super) fn linear(&mut self, node: &Node, activation: Option<UnaryKind>) -> Result<()> {
        let product = Product::new(self.shape(node.inputs[0]), self.shape(node.outputs[0]))?;
        let isa = self.options.isa;
        if !self.keeps_packed(node.inputs[1]) {
            let Geometry { n, ic, oc, .. } = product.each;
            let kernel = linear::Product::forward(isa, n, [ic, oc], node.inputs.len() > 2, activation);
            let mut operands = self.buffers(&node.inputs);
            operands.push(self.buffer(node.outputs[0]));
            self.push_product(node, kernel, operands, &product);
            return Ok(());
        }
        let Some(count) = product.count else {
            self.forward(node, product.each, Algorithm::Auto, Fused::activation(activation), None);
            return Ok(());
        };
        let pack = conv::PackForward::new(isa, product.each);
        let (floats, format) = (count * pack.packed_len(), format!("{count} of {}", pack.format()));
        let packed = self.pack(node, node.inputs[1], Batch::new(pack, count), floats, format);
        let kernel = conv::Forward::new(isa, product.each, Epilogue { activation, ..Epilogue::default() });
        let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
        self.push(node, Batch::new(kernel, count), operands, product.describe());
        Ok(())
    }

    /// grad_y (…, N, O), weight (…, I, O) → (…, N, I).
    pub(super) fn linear_backward_data(&mut self, node: &Node) -> Result<()> {
        let product = Product::new(self.shape(node.outputs[0]), self.shape(node.inputs[0]))?;
        let isa = self.options.isa;
        if !self.keeps_packed(node.inputs[1]) {
            let Geometry { n, ic, oc, .. } = product.each;
            let kernel = linear::Product::backward_data(isa, n, [ic, oc]);
            let operands = self.buffers(&[node.inputs[0], node.inputs[1], node.outputs[0]]);
            self.push_product(node, kernel, operands, &product);
            return Ok(());
        }
        let Some(count) = product.count else {
            self.backward_data(node, product.each, Algorithm::Auto);
            return Ok(());
        };
        let pack = conv::PackBackwardData::new(isa, product.each);
        let (floats, format) = (count * pack.packed_len(), format!("{count} of {}", pack.format()));
        let packed = self.pack(node, node.inputs[1], Batch::new(pack, count), floats, format);
        let operands = vec![self.buffer(node.inputs[0]), packed, self.buffer(node.outputs[0])];
        let kernel = conv::BackwardData::new(isa, product.each);
        self.push(node, Batch::new(kernel, count), operands, product.describe());
        Ok(())
    }

    /// A kernel for each index of the leading axes.
    fn push_product(&mut self, node: &Node, kernel: impl Kernel + 'static, operands: Vec<usize>, product: &Product) {
        match product.count {
            Some(count) => self.push(node, Batch::new(kernel, count), operands, product.describe()),
            None => self.push(node, kernel, operands, product.describe()),
        }
    }

    /// x (…, N, I), grad_y (…, N, O) → (…, I, O).
    pub(super) fn linear_backward_weights(&mut self, node: &Node) -> Result<()> {
        let product = Product::new(self.shape(node.inputs[0]), self.shape(node.inputs[1]))?;
        let isa = self.options.isa;
        let Geometry { n, ic, oc, .. } = product.each;
        if linear::BackwardWeights::serves(n, [ic, oc]) {
            let mut operands = self.buffers(&node.inputs);
            operands.push(self.buffer(node.outputs[0]));
            self.push_product(node, linear::BackwardWeights::new(isa, n, [ic, oc]), operands, &product);
            return Ok(());
        }
        let Some(count) = product.count else {
            self.backward_weights(node, product.each, Algorithm::Auto);
            return Ok(());
        };
        let kernel = conv::BackwardWeights::new(isa, product.each);
        let (parts, len, result) = (kernel.parts(), product.each.weights_len(), self.buffer(node.outputs[0]));
        let mut operands = self.buffers(&node.inputs);
        if parts == 1 {
            operands.push(result);
            self.push(node, Batch::new(kernel, count), operands, product.describe());
            return Ok(());
        }
        let partials = self.temp(count * parts * len * FLOAT);
        operands.push(partials);
        self.push(node, Batch::new(kernel, count), operands, product.describe());
        let joining = Batch::new(Reduce::sum_of_parts(isa, parts, len), count);
        self.push(node, joining, vec![partials, result], product.describe());
        Ok(())
    }
}

/// The last operand but one, what an epilogue adds, may become the result if the kernel writes every result once and reads
/// no other operand there.
pub(super) fn added_in_place(epilogue: Epilogue, once: bool, operands: &[usize]) -> Option<(usize, usize)> {
    let [others @ .., added, _] = operands else { return None };
    (epilogue.add && once && !others.contains(added)).then_some((others.len(), others.len() + 1))
}

/// A matrix product as a convolution of one-pixel images, for each index of the leading axes.
struct Product {
    each: Geometry,
    /// `None` without leading axes.
    count: Option<usize>,
}

impl Product {
    /// From the shapes (…, N, I) and (…, N, O).
    fn new(x: &[usize], y: &[usize]) -> Result<Self> {
        let (&[.., rows, inputs], &[.., outputs]) = (x, y) else {
            return Err(Error::Internal(format!("a product of {} to {}", shape_text(x), shape_text(y))));
        };
        let each = Geometry::new(rows, [1, 1], inputs, outputs, 1, Window2d::UNIT)?;
        Ok(Self { each, count: (x.len() > 2).then(|| x[..x.len() - 2].iter().product()) })
    }

    fn describe(&self) -> String {
        self.count.map_or(String::new(), |count| format!("b{count}")) + &self.each.describe()
    }
}
