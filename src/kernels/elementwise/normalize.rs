//! Image bytes to network inputs.

use super::Chunks;
use crate::kernels::Kernel;
use crate::simd::Isa;
use crate::tensor::Args;

/// Image bytes to numbers, `(x/255 − mean)/std` per channel. Operands: `src` (u8), `dst` (floats), `pixels · channels`
/// each.
///
/// A byte has 256 values, so each channel's results are rounded once, into a table, at construction: the kernel looks
/// up, on every level alike.
#[derive(Debug, Clone)]
pub struct Normalize {
    tables: Vec<[f32; 256]>,
    chunks: Chunks,
}

impl Normalize {
    /// `pixels` of `channels` bytes; `mean` and `std` have one value per channel, or one for all.
    pub fn new(_isa: Isa, pixels: usize, channels: usize, mean: &[f32], std: &[f32]) -> Self {
        for list in [mean, std] {
            assert!(list.len() == 1 || list.len() == channels, "normalize: {} values for {channels}", list.len());
        }
        let table = |channel: usize| {
            let pick = |list: &[f32]| f64::from(list[if list.len() == 1 { 0 } else { channel }]);
            let (mean, std) = (pick(mean), pick(std));
            std::array::from_fn(|byte| ((byte as f64 / 255.0 - mean) / std) as f32)
        };
        // One pair of numbers makes all channels alike: then every byte counts as a pixel of one channel.
        let shared = mean.len() == 1 && std.len() == 1;
        let (items, width) = if shared { (pixels * channels, 1) } else { (pixels, channels) };
        Self { tables: (0..width).map(table).collect(), chunks: Chunks::new(items, width) }
    }
}

impl Kernel for Normalize {
    fn name(&self) -> String {
        "normalize_table".to_owned()
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        (self.chunks.count * self.tables.len()) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (range, channels) = (self.chunks.range(task), self.tables.len());
        let src = args.src::<u8>(0).at(range.start * channels, range.len() * channels);
        let dst = args.dst::<f32>(1).at(range.start * channels, range.len() * channels);
        for (channel, table) in self.tables.iter().enumerate() {
            for pixel in 0..range.len() {
                let i = pixel * channels + channel;
                // SAFETY: the operands hold the chunk's pixels, which belong to this task.
                unsafe { dst.add(i).write_unaligned(table[usize::from(src.add(i).read())]) };
            }
        }
    }
}
