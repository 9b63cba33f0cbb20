//! Kernels make tables when they are constructed. Their sizes follow from the geometry alone, and an odd one asks for
//! more than there is; a vector that cannot grow would end the process, so it is refused before.

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Op};
use crate::window::Window2d;

/// Two spans and a reciprocal for each position of an axis.
const POSITION: usize = 56;
/// The lattice, cut and offsets of one class of result pixels, about.
const CLASS: usize = 1 << 10;
/// One block of a weight gradient, or one segment of a lattice.
const BLOCK: usize = 64;
/// Tables up to so many bytes are not worth the question.
const SMALL: usize = 1 << 20;

/// Refuses a node whose kernel needs tables that cannot be had.
pub fn afford(graph: &Graph, node: &Node) -> Result<()> {
    let bytes = estimate(graph, node);
    if bytes < SMALL {
        return Ok(());
    }
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| Error::Memory(bytes as u128))
}

fn estimate(graph: &Graph, node: &Node) -> usize {
    let shape = |id: crate::graph::ValueId| graph.value(id).shape.as_slice();
    let (x, y) = (node.inputs[0], node.outputs.first().copied());
    let Some(y) = y else { return 0 };
    let taps = |window: &Window2d| window.kernel[0].saturating_mul(window.kernel[1]).saturating_mul(BLOCK);
    match &node.op {
        Op::MaxPool2d { .. } | Op::AvgPool2d { .. } | Op::MaxPool2dBackward { .. } | Op::AvgPool2dBackward { .. } => {
            let positions = [shape(x)[1], shape(x)[2], shape(y)[1], shape(y)[2]];
            positions.into_iter().fold(0, usize::saturating_add).saturating_mul(POSITION)
        }
        Op::Conv2d { window, .. } => taps(window),
        Op::Conv2dBackwardData { window, input, .. } => {
            let classes = window.stride[0].min(input[0]).saturating_mul(window.stride[1].min(input[1]));
            classes.saturating_mul(CLASS).saturating_add(taps(window))
        }
        Op::Conv2dBackwardWeights { window, groups, .. } => {
            let (ic, oc) = (shape(x)[3] / groups, shape(node.inputs[1])[3] / groups);
            // Few channels: a whole kernel row is one segment.
            let [kh, kw] = window.kernel;
            let (segments, len) = if *groups == 1 && window.dilation[1] == 1 && ic <= 32 {
                (kh, kw.saturating_mul(ic))
            } else {
                (kh.saturating_mul(kw), ic)
            };
            [*groups, segments, len / 48 + 1, oc / 64 + 1, BLOCK].into_iter().fold(1, usize::saturating_mul)
        }
        _ => 0,
    }
}
