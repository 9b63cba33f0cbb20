//! Changes of element order.

use super::Kernel;
use super::elementwise::Chunks;
use crate::tensor::Args;

/// Rows and columns of the square that is moved at a time: both of its sides stay in the first-level cache.
const TILE: usize = 16;

/// NHWC images to rows in torch's order, (N, C·H·W), or back. Operands: `src`, `dst` (`n·h·w·c` floats each).
///
/// Per image a transposition, of (H·W, C) or, for the inverse, of (C, H·W).
#[derive(Debug, Clone)]
pub struct FlattenChw {
    /// The source's rows and columns per image.
    rows: usize,
    columns: usize,
    inverse: bool,
    images: usize,
    /// Strips of `TILE` source columns, counted over all images.
    chunks: Chunks,
}

impl FlattenChw {
    /// `n` images of `h`×`w` pixels with `c` channels; `inverse` goes from (N, C·H·W) to NHWC.
    pub fn new(n: usize, h: usize, w: usize, c: usize, inverse: bool) -> Self {
        let (rows, columns) = if inverse { (c, h * w) } else { (h * w, c) };
        let strips = if rows == 0 { 0 } else { n * columns.div_ceil(TILE) };
        Self { rows, columns, inverse, images: n, chunks: Chunks::new(strips, rows * TILE.min(columns)) }
    }
}

impl Kernel for FlattenChw {
    fn name(&self) -> String {
        if self.inverse { "flatten_chw_inverse" } else { "flatten_chw" }.to_owned()
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        (self.images * self.rows * self.columns) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (rows, columns) = (self.rows, self.columns);
        let (src, dst) = (args.src::<f32>(0), args.dst::<f32>(1));
        let strips = columns.div_ceil(TILE);
        for strip in self.chunks.range(task) {
            let (image, first) = (strip / strips, strip % strips * TILE);
            let width = TILE.min(columns - first);
            let src = src.at(image * rows * columns, rows * columns);
            let dst = dst.at(image * rows * columns, rows * columns);
            for top in (0..rows).step_by(TILE) {
                for column in first..first + width {
                    for row in top..(top + TILE).min(rows) {
                        // SAFETY: both indices lie inside the image; destination rows `first..` belong to this strip.
                        unsafe {
                            let value = src.add(row * columns + column).read_unaligned();
                            dst.add(column * rows + row).write_unaligned(value);
                        }
                    }
                }
            }
        }
    }
}
