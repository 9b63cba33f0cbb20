//! Which input floats each result pixel meets: lattices of result pixels and the pointers of their segments.

use super::Geometry;

/// Result positions along one axis and the source positions each of them reads.
///
/// Position `i` lies at `dst_start + i·dst_step` of the result and reads source position `i·src_step + offset` for each
/// offset; what falls outside `0..src_size` is zero. Offsets ascend.
#[derive(Debug, Clone)]
pub struct Axis {
    pub count: usize,
    pub dst_start: usize,
    pub dst_step: usize,
    pub src_step: usize,
    pub src_size: usize,
    pub offsets: Vec<isize>,
    /// The kernel index behind each offset.
    pub taps: Vec<usize>,
}

impl Axis {
    /// Outputs of a convolution: output `i` reads inputs `i·stride + m·dilation − pad`.
    pub fn forward(geometry: &Geometry, axis: usize) -> Self {
        let window = &geometry.window;
        let offset = |m: usize| (m * window.dilation[axis]) as isize - window.pad[axis][0] as isize;
        Self {
            count: [geometry.oh, geometry.ow][axis],
            dst_start: 0,
            dst_step: 1,
            src_step: window.stride[axis],
            src_size: [geometry.ih, geometry.iw][axis],
            offsets: (0..window.kernel[axis]).map(offset).collect(),
            taps: (0..window.kernel[axis]).collect(),
        }
    }

    /// Inputs `≡ residue` modulo the stride: input `i` meets tap `m` at output `(i + pad − m·dilation) / stride`, where
    /// that is a whole number; the same taps for the whole class.
    pub fn backward(geometry: &Geometry, axis: usize, residue: usize) -> Self {
        let window = &geometry.window;
        let (stride, size) = (window.stride[axis], [geometry.ih, geometry.iw][axis]);
        let base = (residue + window.pad[axis][0]) as isize;
        let hit = |&m: &usize| (base - (m * window.dilation[axis]) as isize).rem_euclid(stride as isize) == 0;
        let taps: Vec<usize> = (0..window.kernel[axis]).rev().filter(hit).collect();
        Self {
            count: size.saturating_sub(residue).div_ceil(stride),
            dst_start: residue,
            dst_step: stride,
            src_step: 1,
            src_size: [geometry.oh, geometry.ow][axis],
            offsets: taps
                .iter()
                .map(|&m| (base - (m * window.dilation[axis]) as isize).div_euclid(stride as isize))
                .collect(),
            taps,
        }
    }

    /// The same axis in steps of `fold` neighbouring positions, which together read the union of what each reads.
    pub fn folded(&self, fold: usize) -> Self {
        debug_assert!(self.is_dense() && self.count.is_multiple_of(fold));
        let more = (fold - 1) * self.src_step;
        let last = self.offsets.last().copied().unwrap_or(0);
        let mut axis = self.clone();
        axis.count /= fold;
        axis.dst_step *= fold;
        axis.src_step *= fold;
        axis.offsets.extend((1..=more as isize).map(|i| last + i));
        axis
    }

    /// Neighbouring result positions that are best computed together in the lanes of one vector, if `channels` of each
    /// are fewer than `lanes`: the number with the fewest products per position.
    pub fn best_fold(&self, channels: usize, lanes: usize) -> usize {
        if self.dst_step != 1 || self.offsets.is_empty() || channels == 0 {
            return 1;
        }
        let products = |fold: usize| (self.offsets.len() + (fold - 1) * self.src_step) as f64 / fold as f64;
        let fits = (1..=lanes / channels).filter(|&fold| self.count.is_multiple_of(fold));
        fits.min_by(|&a, &b| products(a).total_cmp(&products(b))).unwrap_or(1)
    }

    fn is_dense(&self) -> bool {
        self.offsets.windows(2).all(|pair| pair[1] - pair[0] == 1)
    }
}

/// Result pixels (all images × two axes) and how the source lies under them.
#[derive(Debug, Clone)]
pub struct Lattice {
    pub images: usize,
    pub h: Axis,
    pub w: Axis,
    /// Channels of a source pixel.
    pub src_channels: usize,
    /// Channels of one group: what one tap contributes.
    pub group_channels: usize,
    /// Column offset of each segment's first pixel.
    columns: Vec<isize>,
    /// Pixels per segment.
    span: usize,
}

/// Up to so many channels, a whole kernel row is one segment: the loop over it is longer and pointers are fewer.
const ROW_CHANNELS: usize = 32;

/// Whether a segment is a whole kernel row.
pub fn reads_rows(w: &Axis, group_channels: usize, groups: usize) -> bool {
    groups == 1 && w.is_dense() && group_channels <= ROW_CHANNELS && !w.offsets.is_empty()
}

impl Lattice {
    pub fn new(images: usize, h: Axis, w: Axis, src_channels: usize, groups: usize) -> Self {
        let group_channels = src_channels / groups;
        let whole_row = reads_rows(&w, group_channels, groups);
        let (columns, span) = if whole_row { (vec![w.offsets[0]], w.offsets.len()) } else { (w.offsets.clone(), 1) };
        Self { images, h, w, src_channels, group_channels, columns, span }
    }

    /// Result pixels.
    pub fn rows(&self) -> usize {
        self.images * self.h.count * self.w.count
    }

    /// Segments per result pixel.
    pub fn segments(&self) -> usize {
        self.h.offsets.len() * self.columns.len()
    }

    /// Floats per segment.
    pub fn segment_len(&self) -> usize {
        self.span * self.group_channels
    }

    /// Floats of the reduction: all segments.
    pub fn depth(&self) -> usize {
        self.segments() * self.segment_len()
    }

    /// A walk over the result pixels from `row` on.
    pub fn walk(&self, row: usize) -> Walk {
        let (x, rest) = (row % self.w.count, row / self.w.count);
        Walk { image: rest / self.h.count, y: rest % self.h.count, x }
    }

    /// Floats of one patch, in which a segment that lies partly outside is put together.
    pub fn patch_len(&self) -> usize {
        if self.span > 1 { self.segment_len() } else { 0 }
    }

    /// The pointer to segment (`r`, `c`) of a pixel; `zeros` if all of it is padding. A segment that lies partly outside
    /// is copied to `patch` first.
    ///
    /// # Safety
    /// `src` is the source of this lattice, offset to the group's first channel; `zeros` holds `segment_len()` zeros and
    /// `patch` has room for `patch_len()` floats.
    #[inline(always)]
    pub unsafe fn segment(
        &self,
        at: Walk,
        r: usize,
        c: usize,
        src: *const f32,
        zeros: *const f32,
        patch: *mut f32,
    ) -> *const f32 {
        let y = (at.y * self.h.src_step) as isize + self.h.offsets[r];
        let x = (at.x * self.w.src_step) as isize + self.columns[c];
        let (height, width, span) = (self.h.src_size as isize, self.w.src_size as isize, self.span as isize);
        if y < 0 || y >= height || x + span <= 0 || x >= width {
            return zeros;
        }
        let pixel = (at.image as isize * height + y) * width + x;
        let start = src.wrapping_offset(pixel * self.src_channels as isize);
        if x >= 0 && x + span <= width {
            return start;
        }
        let channels = self.src_channels;
        let (before, after) = ((-x).max(0) as usize, (x + span - width).max(0) as usize);
        let inside = self.span - before - after;
        // SAFETY: `inside` pixels from column `x + before` lie in the source; the patch has room for `span` pixels.
        unsafe {
            std::ptr::write_bytes(patch, 0, before * channels);
            let middle = patch.add(before * channels);
            std::ptr::copy_nonoverlapping(start.wrapping_add(before * channels), middle, inside * channels);
            std::ptr::write_bytes(middle.add(inside * channels), 0, after * channels);
        }
        patch
    }

    /// Row and column of segment number `index`.
    pub fn position(&self, index: usize) -> (usize, usize) {
        (index / self.columns.len(), index % self.columns.len())
    }

    /// Segments that some pixel with a line in `first..=last` finds inside the source, as a range of whole kernel rows;
    /// the others are padding for all of these pixels.
    pub fn reached(&self, first: usize, last: usize) -> (usize, usize) {
        let (offsets, step) = (&self.h.offsets, self.h.src_step);
        let low = offsets.partition_point(|&offset| (last * step) as isize + offset < 0);
        let high = offsets.partition_point(|&offset| (first * step) as isize + offset < self.h.src_size as isize);
        (low.min(high) * self.columns.len(), high * self.columns.len())
    }

    /// True if no pixel reads outside the source.
    pub fn is_inside(&self) -> bool {
        let inside = |axis: &Axis, offsets: &[isize], span: usize| match (offsets.first(), offsets.last()) {
            (Some(&first), Some(&last)) if axis.count > 0 => {
                first >= 0
                    && ((axis.count - 1) * axis.src_step) as isize + last + span as isize <= axis.src_size as isize
            }
            _ => true,
        };
        inside(&self.h, &self.h.offsets, 1) && inside(&self.w, &self.columns, self.span)
    }

    /// Source lines that `lines` result lines span, and source columns that all result columns span, with padding.
    fn extent(&self, lines: usize) -> [usize; 2] {
        let reach = |offsets: &[isize], span: usize| match (offsets.first(), offsets.last()) {
            (Some(first), Some(last)) => (last - first) as usize + span,
            _ => 0,
        };
        let extent = |axis: &Axis, count: usize, reach: usize| (count.max(1) - 1) * axis.src_step + reach;
        let height = extent(&self.h, lines, reach(&self.h.offsets, 1));
        [height, extent(&self.w, self.w.count, reach(&self.columns, self.span))]
    }

    /// Floats of the padded copy of the source under `lines` result lines, one group's channels.
    pub fn band_len(&self, lines: usize) -> usize {
        let [height, width] = self.extent(lines);
        height.saturating_mul(width).saturating_mul(self.group_channels)
    }

    /// Copies the source under result lines `first..first + lines` of an image, with its padding.
    ///
    /// # Safety
    /// `src` is the source offset to the group's first channel; `band` has room for `band_len(lines)` floats.
    pub unsafe fn copy_band(&self, image: usize, first: usize, lines: usize, src: *const f32, band: *mut f32) {
        let ([height, width], channels) = (self.extent(lines), self.group_channels);
        let (Some(&top), Some(&left)) = (self.h.offsets.first(), self.columns.first()) else { return };
        let top = (first * self.h.src_step) as isize + top;
        let before = (-left).clamp(0, width as isize) as usize;
        let start = left.max(0) as usize;
        let middle = (width - before).min(self.w.src_size.saturating_sub(start));
        for line in 0..height {
            let y = top + line as isize;
            let to = band.wrapping_add(line * width * channels);
            // SAFETY: a line of the band is `width` pixels; `middle` pixels from `start` on lie in the source line.
            unsafe {
                if y < 0 || y >= self.h.src_size as isize {
                    std::ptr::write_bytes(to, 0, width * channels);
                    continue;
                }
                std::ptr::write_bytes(to, 0, before * channels);
                let pixel = (image * self.h.src_size + y as usize) * self.w.src_size + start;
                let from = src.wrapping_add(pixel * self.src_channels);
                let to = to.add(before * channels);
                if channels == self.src_channels {
                    std::ptr::copy_nonoverlapping(from, to, middle * channels);
                } else {
                    for x in 0..middle {
                        let from = from.wrapping_add(x * self.src_channels);
                        std::ptr::copy_nonoverlapping(from, to.add(x * channels), channels);
                    }
                }
                std::ptr::write_bytes(to.add(middle * channels), 0, (width - before - middle) * channels);
            }
        }
    }

    /// Copies the only segment of each of these result pixels to `to`, `pitch` floats apart.
    ///
    /// # Safety
    /// No pixel reads outside the source; `src` is the source at the group's first channel; `to` has room for the rows.
    pub unsafe fn copy_rows(&self, rows: std::ops::Range<usize>, src: *const f32, to: *mut f32, pitch: usize) {
        let frame = self.whole();
        let mut walk = self.walk(rows.start);
        for row in 0..rows.len() {
            let from = src.wrapping_offset(frame.offset(walk));
            // SAFETY: the caller's word.
            unsafe { std::ptr::copy_nonoverlapping(from, to.wrapping_add(row * pitch), self.segment_len()) };
            walk.step(self);
        }
    }

    /// How pixels lie if they follow each other, `pitch` floats apart.
    pub fn listed(&self, pitch: usize) -> Frame {
        let line = self.w.count * pitch;
        Frame { origin: 0, image: self.h.count * line, line, pixel: pitch, deltas: vec![0] }
    }

    /// How pixels lie in the source itself.
    pub fn whole(&self) -> Frame {
        let line = self.w.src_size * self.src_channels;
        let origin = match (self.h.offsets.first(), self.columns.first()) {
            (Some(top), Some(left)) => top * line as isize + left * self.src_channels as isize,
            _ => 0,
        };
        self.frame(self.h.src_size * line, line, self.src_channels, origin)
    }

    /// How pixels lie in a band.
    pub fn band(&self) -> Frame {
        let [_, width] = self.extent(1);
        self.frame(0, width * self.group_channels, self.group_channels, 0)
    }

    /// For pixels whose segments each have a pointer: no distances.
    pub fn pointed(&self) -> Frame {
        Frame { origin: 0, image: 0, line: 0, pixel: 0, deltas: vec![0; self.segments()] }
    }

    fn frame(&self, image: usize, line: usize, pixel: usize, origin: isize) -> Frame {
        let mut deltas = Vec::with_capacity(self.segments());
        for row in &self.h.offsets {
            for column in &self.columns {
                let (down, right) = (row - self.h.offsets[0], column - self.columns[0]);
                deltas.push(down * line as isize + right * pixel as isize);
            }
        }
        Frame { origin, image, line: line * self.h.src_step, pixel: pixel * self.w.src_step, deltas }
    }
}

/// Result pixels as an affine map into memory: where a pixel's first segment starts, and the others from there.
#[derive(Debug, Clone)]
pub struct Frame {
    origin: isize,
    image: usize,
    line: usize,
    /// Floats from a pixel to its neighbour.
    pub pixel: usize,
    /// Floats from the first segment to each.
    pub deltas: Vec<isize>,
}

impl Frame {
    /// Floats from the start of the memory to a pixel's first segment.
    #[inline(always)]
    pub fn offset(&self, at: Walk) -> isize {
        self.origin + (at.image * self.image + at.y * self.line + at.x * self.pixel) as isize
    }
}

/// A place on a lattice.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    pub image: usize,
    pub y: usize,
    pub x: usize,
}

impl Walk {
    /// To the next result pixel.
    #[inline(always)]
    pub fn step(&mut self, lattice: &Lattice) {
        self.skip(1, lattice);
    }

    /// Result pixels left on this line.
    #[inline(always)]
    pub fn left(&self, lattice: &Lattice) -> usize {
        lattice.w.count - self.x
    }

    /// Over so many result pixels, at most to the start of the next line.
    #[inline(always)]
    pub fn skip(&mut self, count: usize, lattice: &Lattice) {
        self.x += count;
        if self.x == lattice.w.count {
            self.x = 0;
            self.y += 1;
            if self.y == lattice.h.count {
                self.y = 0;
                self.image += 1;
            }
        }
    }
}
