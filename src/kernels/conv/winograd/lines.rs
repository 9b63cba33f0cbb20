//! Lines of results of an image, for what takes them on while they are in cache ([`Pooled`](crate::kernels::conv::Pooled)).

use std::ops::Range;

use super::Product;
use super::stages::Run;
use crate::kernels::conv::epilogue::Finish;
use crate::kernels::share;

impl Product {
    /// Lines that [`lines`](Self::lines) makes at a time, if it can: of pixels that are put together.
    pub fn lines_at_a_time(&self) -> Option<usize> {
        self.task.space_to_depth.map(|_| self.task.scheme.out)
    }

    /// Runs result lines of an image, all their channels, in one task; the last tiles may reach beyond `lines`.
    ///
    /// # Safety
    /// As [`Kernel::run`] for source and packed weights; from `dst` on, where the first image would begin, there is room for
    /// these lines, the first of which is where tiles begin, rounded up to whole tiles.
    pub(in crate::kernels::conv) unsafe fn lines(
        &self,
        image: usize,
        lines: Range<usize>,
        [src, packed]: [*const f32; 2],
        (finish, dst): (Finish, *mut f32),
        scratch: *mut f32,
    ) {
        let (of, layout, [rows, columns]) = (&self.task, self.layout(), self.task.grid());
        let [start, end] = [lines.start / of.scheme.out, lines.end.div_ceil(of.scheme.out)];
        let (first, count) = ((image * rows + start) * columns, (end - start) * columns);
        let blocks = count.div_ceil(layout.tiles);
        let source = scratch;
        let sums = source.wrapping_add(layout.source);
        let spare = sums.wrapping_add(layout.sums.floats());
        // SAFETY: the caller's word.
        unsafe {
            spare.write_bytes(0, layout.spare);
            for block in 0..blocks {
                let tiles = share(block, blocks, count);
                let [begin, behind] = [tiles.start, tiles.end].map(|tile| of.tile(first + tile));
                let mut run = Run::new((begin, tiles.len()), (sums, layout.sums), finish, src, dst);
                self.block(&mut run, behind, (source, layout.tiles), spare, packed);
            }
        }
    }
}
