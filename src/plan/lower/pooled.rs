//! Convolutions whose result only a pooling reads, over windows or whole images: they are left for it, and write what is
//! pooled.

use super::Lowering;
use crate::algorithm::Algorithm;
use crate::error::Result;
use crate::function::ReduceKind;
use crate::graph::{Fused, Node, Op, ValueId};
use crate::kernels::conv::planes::Planes;
use crate::kernels::conv::winograd::Product;
use crate::kernels::conv::{
    ByChannels, Epilogue, Forward, Geometry, GlobalPool, Pooled, depthwise, planes, spread, winograd,
};
use crate::kernels::pool::{PoolGeometry, PoolKind};
use crate::kernels::reduce::Reduce;

/// What a convolution is to write, where it was left for that.
pub(super) struct Pooling {
    pub of: Pool,
    pub result: ValueId,
}

/// What is pooled.
pub(super) enum Pool {
    /// Windows: the convolution's own result is not written.
    Windows(PoolKind, PoolGeometry),
    /// All pixels of every image.
    Images(Reduce),
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
        self.forward(maker, self.conv_geometry(maker, window, groups)?, algorithm, fused, Some(&pooling));
        Ok(true)
    }

    /// The pooling of a value that is this node, if it is one and nobody asks where the largest were.
    fn pooling(&self, source: ValueId, node: &Node) -> Option<Pooling> {
        if node.inputs != [source] {
            return None;
        }
        let result = node.outputs[0];
        let windows = |kind, window| Pool::Windows(kind, self.pool_geometry(source, result, window));
        let of = match node.op {
            Op::MaxPool2d { window, .. } if !self.read[node.outputs[1].0] => windows(PoolKind::Max, window),
            Op::AvgPool2d { window, .. } if window.halves() => windows(PoolKind::Mean, window),
            Op::Reduce { kind, ref axes, .. } if axes == &[1, 2] => {
                let &[n, h, w, c] = self.shape(source) else { return None };
                let divisor = (kind == ReduceKind::Mean).then_some((h * w) as f32);
                Pool::Images(Reduce::new(self.options.isa, kind, [n, h * w, c], divisor))
            }
            _ => return None,
        };
        Some(Pooling { of, result })
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
        let defers = self.pools(node, geometry, &pooling.of, algorithm, fused);
        if defers {
            self.deferred.push((result, node));
        }
        defers
    }

    /// Whether the kernel that [`forward`](Self::forward) comes to can pool.
    fn pools(&self, node: &Node, geometry: Geometry, pool: &Pool, algorithm: Algorithm, fused: Fused) -> bool {
        let isa = self.options.isa;
        let Fused { norm, add, activation } = fused;
        let epilogue = Epilogue { bias: false, norm: norm.is_some(), add, activation };
        if depthwise::refusal(isa, &geometry).is_none() {
            return false;
        }
        let tiles = winograd::refusal(self.options.algorithm.and(algorithm), &geometry).is_none();
        let by_planes = !tiles && planes::refusal(isa, &geometry).is_none();
        let direct = !tiles && !by_planes && spread::refusal(isa, &geometry, false).is_some();
        match pool {
            Pool::Windows(kind, windows) => {
                let (halves, largest) = (windows.window.halves(), *kind == PoolKind::Max);
                let by_tiles = || Pooled::by_tiles(isa, geometry, *windows, epilogue).is_some();
                tiles && largest && (halves && Product::pools(&geometry, epilogue) || by_tiles())
                    || by_planes && halves && Planes::pools(&geometry, epilogue)
                    || direct && largest && Pooled::new(isa, geometry, *windows, epilogue).is_some()
            }
            Pool::Images(pool) => {
                let packed = self.keeps_packed(node.inputs[1]);
                tiles && GlobalPool::serves(&Product::forward(isa, &geometry, epilogue, packed), pool)
                    || direct && GlobalPool::serves(&Forward::copying_once(isa, geometry, epilogue), pool)
            }
        }
    }

    /// A step that is a convolution and, if it was left for that, the pooling of the whole images it makes.
    pub(super) fn push_pooling(
        &mut self,
        node: &Node,
        (kernel, mut operands, in_place): (impl ByChannels + 'static, Vec<usize>, Option<(usize, usize)>),
        pooling: Option<&Pooling>,
        shape: String,
    ) {
        match pooling {
            Some(Pooling { of: Pool::Images(pool), result }) => {
                operands.push(self.buffer(*result));
                self.push_in_place(node, GlobalPool::new(kernel, pool.clone()), operands, shape, in_place);
            }
            _ => self.push_in_place(node, kernel, operands, shape, in_place),
        }
    }
}
