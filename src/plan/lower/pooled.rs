//! Convolutions whose result only a pooling reads: they are left for it, and write what is pooled.

use super::Lowering;
use crate::algorithm::Algorithm;
use crate::error::Result;
use crate::graph::{Fused, Node, Op, ValueId};
use crate::kernels::conv::planes::Planes;
use crate::kernels::conv::winograd::Product;
use crate::kernels::conv::{Epilogue, Geometry, Pooled, depthwise, planes, spread, winograd};
use crate::kernels::pool::{PoolGeometry, PoolKind};

/// What a convolution is to write instead of its result.
#[derive(Clone, Copy)]
pub(super) struct Pooling {
    pub kind: PoolKind,
    pub geometry: PoolGeometry,
    pub result: ValueId,
}

impl<'a> Lowering<'a> {
    /// Lowers the convolution whose result this node pools, if it was left for that: its kernel writes what is pooled.
    pub(super) fn pooled(&mut self, node: &Node) -> Result<bool> {
        let source = node.inputs[0];
        let Some(maker) = self.deferred_maker(source) else { return Ok(false) };
        let (Some(pooling), &Op::Conv2d { window, groups, algorithm, fused }) = (self.pooling(source, node), &maker.op)
        else {
            return Ok(false);
        };
        self.forward(maker, self.conv_geometry(maker, window, groups)?, algorithm, fused, Some(pooling));
        Ok(true)
    }

    /// The pooling of a value that is this node, if it is one and nobody asks where the largest were.
    fn pooling(&self, source: ValueId, node: &Node) -> Option<Pooling> {
        if node.inputs != [source] {
            return None;
        }
        let (kind, window) = match node.op {
            Op::MaxPool2d { window, .. } if !self.read[node.outputs[1].0] => (PoolKind::Max, window),
            Op::AvgPool2d { window, .. } if window.halves() => (PoolKind::Mean, window),
            _ => return None,
        };
        let result = node.outputs[0];
        Some(Pooling { kind, geometry: self.pool_geometry(source, result, window), result })
    }

    /// Whether nobody but a pooling reads a convolution's result, and its kernel can pool.
    pub(super) fn defers_conv(&mut self, node: &'a Node) -> bool {
        let (&Op::Conv2d { window, groups, algorithm, fused }, &[result]) = (&node.op, node.outputs.as_slice()) else {
            return false;
        };
        if self.readers[result.0] != 1 {
            return false;
        }
        let pooling = self.graph.nodes().iter().find_map(|node| self.pooling(result, node));
        let (Some(pooling), Ok(geometry)) = (pooling, self.conv_geometry(node, window, groups)) else { return false };
        let defers = self.pools(geometry, pooling, algorithm, fused);
        if defers {
            self.deferred.push((result, node));
        }
        defers
    }

    /// Whether the kernel that [`forward`](Self::forward) comes to can pool.
    fn pools(&self, geometry: Geometry, pooling: Pooling, algorithm: Algorithm, fused: Fused) -> bool {
        let isa = self.options.isa;
        let Fused { norm, add, activation } = fused;
        let epilogue = Epilogue { bias: false, norm: norm.is_some(), add, activation };
        if depthwise::refusal(isa, &geometry).is_none() {
            return false;
        }
        let (halves, largest) = (pooling.geometry.window.halves(), pooling.kind == PoolKind::Max);
        if winograd::refusal(self.options.algorithm.and(algorithm), &geometry).is_none() {
            return halves && largest && Product::pools(&geometry, epilogue);
        }
        if planes::refusal(isa, &geometry).is_none() {
            return halves && Planes::pools(&geometry, epilogue);
        }
        let direct = largest && spread::refusal(isa, &geometry, false).is_some();
        direct && Pooled::new(isa, geometry, pooling.geometry, epilogue).is_some()
    }
}
