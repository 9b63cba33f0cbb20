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

/// Channels below which the portable level, whose partial vectors are loops, is faster group by group.
const FEW: usize = 5;
/// Most bytes of a source whose channels are repeated.
const REPEATED: usize = 256 << 20;

/// Why the depthwise kernels are not the ones for a geometry, or nothing if they are: a pure rule in shape and ISA.
///
/// Measured: on AVX2 and AVX-512 they are ahead from two channels on, with any number of output channels per channel.
pub fn refusal(isa: Isa, geometry: &Geometry) -> Option<String> {
    let Geometry { ic, oc, groups, .. } = *geometry;
    if groups == 1 {
        return Some("one group".to_owned());
    }
    if groups != ic {
        return Some("groups do not equal channels".to_owned());
    }
    if isa == Isa::Portable && oc < FEW {
        return Some(format!("fewer than {FEW} channels"));
    }
    let bytes = geometry.src_len().saturating_mul(oc / ic).saturating_mul(size_of::<f32>());
    if oc > ic && bytes > REPEATED {
        return Some(format!("a source with repeated channels would take {bytes} bytes"));
    }
    None
}
