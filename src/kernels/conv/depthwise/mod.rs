//! Depthwise convolution: every output channel reads one input channel. There is no sum over channels, hence no matrix
//! product; vectors hold neighbouring channels, and the weights `[kh][kw][1][c]` are read where they are.
//!
//! [`Forward`] and [`BackwardData`] are one engine: every result pixel gathers its taps, the data gradient of a strided
//! convolution per residue of the input position, so that nothing is scattered. Along each axis, the positions whose
//! taps all lie on the source are known in advance: there, tiles of pixels run without a test per tap. Elsewhere a pixel
//! runs over the taps that it reaches. Padding is never multiplied, so a weight that is NaN or infinite shows only where
//! it meets a pixel.
//!
//! [`BackwardWeights`] sums over pixels, a kernel row at a time.
//!
//! Several output channels per input channel are the same on a source whose channels are repeated ([`Repeat`]); the data
//! gradient then has a value per output channel, of which neighbours are added up ([`SumRepeated`]).

mod backward_weights;
mod direct;
mod positions;
mod repeat;
mod tile;

pub use backward_weights::BackwardWeights;
pub use direct::{BackwardData, Forward};
pub use repeat::{Repeat, SumRepeated};

use super::Geometry;
use crate::simd::Isa;

/// Why the depthwise kernels are not the ones for a geometry, or nothing if they are: a pure rule in shape and ISA.
pub fn refusal(isa: Isa, geometry: &Geometry) -> Option<String> {
    let Geometry { ic, oc, groups, .. } = *geometry;
    if groups == 1 {
        return Some("one group".to_owned());
    }
    if groups != ic {
        return Some("groups do not equal channels".to_owned());
    }
    let multiplier = oc / ic;
    if multiplier > most_repeated(isa) {
        return Some(format!("{multiplier} output channels per channel fill vectors by themselves"));
    }
    None
}

/// Most output channels per input channel.
fn most_repeated(isa: Isa) -> usize {
    isa.lanes() / 2
}
