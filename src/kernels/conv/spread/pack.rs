//! Weights in the order in which pixels are spread.

use super::{Geometry, Spread};
use crate::kernels::Kernel;
use crate::simd::Isa;
use crate::tensor::Args;

/// Packs weights: for every kernel row by ascending source line, and every reduced channel, the stretch of result pixels
/// × channels, zero beyond its end. Operands: weights, packed.
#[derive(Debug)]
pub struct Pack(Spread);

impl Pack {
    /// Packing for the convolution or its data gradient.
    pub fn new(isa: Isa, geometry: Geometry, backward: bool) -> Self {
        Self(Spread::new(isa, geometry, backward))
    }

    /// Floats of the packed copy.
    pub fn packed_len(&self) -> usize {
        self.0.kernel()[0] * self.0.row_len()
    }

    /// Equal for equal layouts of the packed copy.
    pub fn format(&self) -> String {
        let Spread { sc, dc, backward, isa, .. } = self.0;
        let [kh, kw] = self.0.kernel();
        format!("spread {backward} {} sc{sc}dc{dc}kh{kh}kw{kw}", isa.name())
    }
}

impl Kernel for Pack {
    fn name(&self) -> String {
        "pack_spread".to_owned()
    }

    fn tasks(&self) -> usize {
        1
    }

    fn flops(&self) -> u64 {
        0
    }

    unsafe fn run(&self, _task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let Spread { geometry, sc, dc, backward, isa, .. } = self.0;
        let [kh, kw] = self.0.kernel();
        let pitch = self.0.vectors() * isa.lanes();
        let weights = args.src::<f32>(0).at(0, geometry.weights_len());
        let packed = args.dst::<f32>(1).at(0, self.packed_len());
        for (row, k) in (0..kh).flat_map(|row| (0..sc).map(move |k| (row, k))) {
            let to = packed.wrapping_add((row * sc + k) * pitch);
            for t in 0..kw {
                // A result reads forward and is written backward along the kernel.
                let (from, step) = if backward {
                    (((kh - 1 - row) * kw + t) * dc * sc + k, sc)
                } else {
                    (((row * kw + kw - 1 - t) * sc + k) * dc, 1)
                };
                for channel in 0..dc {
                    let from = weights.wrapping_add(from + channel * step);
                    // SAFETY: both inside their operands.
                    unsafe { *to.wrapping_add(t * dc + channel) = from.read_unaligned() };
                }
            }
            // SAFETY: up to where the next stretch begins.
            unsafe { to.wrapping_add(kw * dc).write_bytes(0, pitch - kw * dc) };
        }
    }
}
