//! The two passes as kernels.

use super::taps::{HALF, Taps, pixel};
use crate::kernels::Kernel;
use crate::kernels::elementwise::Chunks;
use crate::simd::Isa;
use crate::simd::Simd;
use crate::simd::dispatch::multiversion;
use crate::tensor::Args;

/// Sums along the rows. Operands: `src` (n, ih, iw, c), `dst` (n, rows, ow, c), both u8; `rows` are the source's rows
/// from `top` on.
#[derive(Debug)]
pub struct Horizontal {
    isa: Isa,
    taps: Taps,
    n: usize,
    ih: usize,
    iw: usize,
    c: usize,
    top: usize,
    rows: usize,
    chunks: Chunks,
}

impl Horizontal {
    /// Resizes the rows `top..top + rows` of each of `n` images.
    pub fn new(isa: Isa, taps: Taps, n: usize, [ih, iw, c]: [usize; 3], top: usize, rows: usize) -> Self {
        assert!(top + rows <= ih && taps.span().end <= iw, "resize: rows {top}+{rows} of {ih}");
        let chunks = Chunks::new(n * rows, taps.len() * c);
        Self { isa, taps, n, ih, iw, c, top, rows, chunks }
    }
}

impl Kernel for Horizontal {
    fn name(&self) -> String {
        format!("resize_horizontal_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        if self.taps.is_empty() { 0 } else { self.chunks.tasks() }
    }

    fn flops(&self) -> u64 {
        2 * (self.n * self.rows * self.taps.len() * self.c * self.taps.most()) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (src_row, dst_row) = (self.iw * self.c, self.taps.len() * self.c);
        let row = match self.c {
            1 => row1,
            3 => row3,
            4 => row4,
            _ => row_any,
        };
        for line in self.chunks.range(task) {
            let from = line / self.rows * self.ih + self.top + line % self.rows;
            let src = args.src::<u8>(0).at(from * src_row, src_row);
            let dst = args.dst::<u8>(1).at(line * dst_row, dst_row);
            // SAFETY: the operands hold these rows, the taps lie inside of them, and the row of `dst` is this task's.
            unsafe { row(self.isa, src, dst, self.c, &self.taps) };
        }
    }
}

/// Sums along the columns. Operands: `src` (n, rows, width), `dst` (n, oh, width), both u8; a row's pixels and channels
/// are alike here, and `src` begins with row `top` of what the taps count.
#[derive(Debug)]
pub struct Vertical {
    isa: Isa,
    taps: Taps,
    n: usize,
    top: usize,
    rows: usize,
    width: usize,
    chunks: Chunks,
}

impl Vertical {
    /// Resizes the columns of `n` images of `rows` rows, the first of which is number `top`.
    pub fn new(isa: Isa, taps: Taps, n: usize, top: usize, rows: usize, width: usize) -> Self {
        let span = taps.span();
        assert!(taps.is_empty() || top <= span.start && span.end <= top + rows, "resize: {span:?} of {top}+{rows}");
        let chunks = Chunks::new(n * taps.len(), width);
        Self { isa, taps, n, top, rows, width, chunks }
    }
}

impl Kernel for Vertical {
    fn name(&self) -> String {
        format!("resize_vertical_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        if self.width == 0 { 0 } else { self.chunks.tasks() }
    }

    fn flops(&self) -> u64 {
        2 * (self.n * self.taps.len() * self.width * self.taps.most()) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        for line in self.chunks.range(task) {
            let (image, place) = (line / self.taps.len(), line % self.taps.len());
            let weights = self.taps.weights(place);
            let from = image * self.rows + self.taps.first(place) - self.top;
            let src = args.src::<u8>(0).at(from * self.width, weights.len() * self.width);
            let dst = args.dst::<u8>(1).at(line * self.width, self.width);
            // SAFETY: the operands hold these rows, and the row of `dst` is this task's.
            unsafe { column(self.isa, src, dst, self.width, weights) };
        }
    }
}

/// One row with `C` channels, or `channels` where `C` is 0.
///
/// # Safety
/// The taps lie in the row at `src`; `dst` takes `channels` bytes for each.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)] // the level is that of the shell around the body
unsafe fn row_body<S: Simd, const C: usize>(src: *const u8, dst: *mut u8, channels: usize, taps: &Taps) {
    // SAFETY: inside the two rows, by the caller's word.
    unsafe {
        for place in 0..taps.len() {
            let (src, dst) = (src.add(taps.first(place) * channels), dst.add(place * channels));
            let weights = taps.weights(place);
            if C > 0 {
                let mut sums = [HALF; C];
                for (i, weight) in weights.iter().enumerate() {
                    for (k, sum) in sums.iter_mut().enumerate() {
                        *sum += i32::from(src.add(i * C + k).read()) * weight;
                    }
                }
                for (k, &sum) in sums.iter().enumerate() {
                    dst.add(k).write(pixel(sum));
                }
            } else {
                for k in 0..channels {
                    let products = weights.iter().enumerate();
                    let products = products.map(|(i, weight)| i32::from(src.add(i * channels + k).read()) * weight);
                    dst.add(k).write(pixel(HALF + products.sum::<i32>()));
                }
            }
        }
    }
}

multiversion! {
    /// A row of gray pixels.
    fn row1(src: *const u8, dst: *mut u8, channels: usize, taps: &Taps) = row_body, [1];
}
multiversion! {
    /// A row of pixels of three channels.
    fn row3(src: *const u8, dst: *mut u8, channels: usize, taps: &Taps) = row_body, [3];
}
multiversion! {
    /// A row of pixels of four channels.
    fn row4(src: *const u8, dst: *mut u8, channels: usize, taps: &Taps) = row_body, [4];
}
multiversion! {
    /// A row of pixels of any number of channels.
    fn row_any(src: *const u8, dst: *mut u8, channels: usize, taps: &Taps) = row_body, [0];
}
multiversion! {
    /// One row as the weighted sum of `weights.len()` rows, `width` bytes each.
    fn column(src: *const u8, dst: *mut u8, width: usize, weights: &[i32]) = column_body;
}

/// # Safety
/// `src` holds `weights.len()` rows of `width` bytes, `dst` takes one.
#[inline(always)]
#[allow(clippy::extra_unused_type_parameters)] // the level is that of the shell around the body
unsafe fn column_body<S: Simd>(src: *const u8, dst: *mut u8, width: usize, weights: &[i32]) {
    /// Sums that stay in the first cache while the rows pass.
    const BLOCK: usize = 1024;
    let mut sums = [0i32; BLOCK];
    for start in (0..width).step_by(BLOCK) {
        let sums = &mut sums[..BLOCK.min(width - start)];
        sums.fill(HALF);
        for (i, weight) in weights.iter().enumerate() {
            let line = src.wrapping_add(i * width + start);
            for (k, sum) in sums.iter_mut().enumerate() {
                // SAFETY: inside the row, by the caller's word.
                *sum += i32::from(unsafe { line.add(k).read() }) * weight;
            }
        }
        for (k, &sum) in sums.iter().enumerate() {
            // SAFETY: inside the row, by the caller's word.
            unsafe { dst.add(start + k).write(pixel(sum)) };
        }
    }
}
