//! Convolutions whose result only a maximum pooling reads: they are left for it, and write what is pooled.

use super::Lowering;
use crate::algorithm::Algorithm;
use crate::error::Result;
use crate::graph::{Fused, Node, Op, ValueId};
use crate::kernels::conv::winograd::Product;
use crate::kernels::conv::{Epilogue, Geometry, Pooled, depthwise, planes, spread, winograd};
use crate::kernels::pool::PoolGeometry;

/// What a convolution is to write instead of its result.
#[derive(Clone, Copy)]
pub(super) struct Pooling {
    pub geometry: PoolGeometry,
    pub result: ValueId,
}

impl<'a> Lowering<'a> {
    /// Lowers the convolution whose result this node pools, if it was left for that: its kernel writes what is pooled.
    pub(super) fn pooled(&mut self, node: &Node) -> Result<bool> {
        let (source, Op::MaxPool2d { window: pool, .. }) = (node.inputs[0], &node.op) else { return Ok(false) };
        let Some(&(_, maker)) = self.deferred.iter().find(|(value, _)| *value == source) else { return Ok(false) };
        let Op::Conv2d { window, groups, algorithm, fused } = maker.op else { return Ok(false) };
        let result = node.outputs[0];
        let pooling = Pooling { geometry: self.pool_geometry(source, result, *pool), result };
        self.forward(maker, self.conv_geometry(maker, window, groups)?, algorithm, fused, Some(pooling));
        Ok(true)
    }

    /// Whether nobody but a maximum pooling reads a convolution's result, and its kernel can pool.
    pub(super) fn defers_conv(&mut self, node: &'a Node) -> bool {
        let (&Op::Conv2d { window, groups, algorithm, fused }, &[result]) = (&node.op, node.outputs.as_slice()) else {
            return false;
        };
        if self.readers[result.0] != 1 {
            return false;
        }
        let pooling = self.graph.nodes().iter().find_map(|node| match node.op {
            Op::MaxPool2d { window, .. } if node.inputs == [result] && !self.read[node.outputs[1].0] => {
                Some(self.pool_geometry(result, node.outputs[0], window))
            }
            _ => None,
        });
        let (Some(pooling), Ok(geometry)) = (pooling, self.conv_geometry(node, window, groups)) else { return false };
        let defers = self.pools(geometry, pooling, algorithm, fused);
        if defers {
            self.deferred.push((result, node));
        }
        defers
    }

    /// Whether the kernel that [`forward`](Self::forward) comes to can pool.
    fn pools(&self, geometry: Geometry, pooling: PoolGeometry, algorithm: Algorithm, fused: Fused) -> bool {
        let isa = self.options.isa;
        let Fused { norm, add, activation } = fused;
        let epilogue = Epilogue { bias: false, norm: norm.is_some(), add, activation };
        if depthwise::refusal(isa, &geometry).is_none() {
            return false;
        }
        if winograd::refusal(self.options.algorithm.and(algorithm), &geometry).is_none() {
            return pooling.window.halves() && Product::pools(&geometry, epilogue);
        }
        let direct = planes::refusal(isa, &geometry).is_some() && spread::refusal(isa, &geometry, false).is_some();
        direct && Pooled::new(isa, geometry, pooling, epilogue).is_some()
    }
}
