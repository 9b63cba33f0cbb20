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

impl Lattice {
    pub fn new(images: usize, h: Axis, w: Axis, src_channels: usize, groups: usize) -> Self {
        let group_channels = src_channels / groups;
        let whole_row = groups == 1 && w.is_dense() && group_channels <= ROW_CHANNELS && !w.offsets.is_empty();
        let (columns, span) = if whole_row { (vec![w.offsets[0]], w.offsets.len()) } else { (w.offsets.clone(), 1) };
        Self { images, h, w, src_channels, group_channels, columns, span }
    }

    /// The lattice of a convolution's outputs.
    pub fn forward(geometry: &Geometry) -> Self {
        let axis = |axis| Axis::forward(geometry, axis);
        Self::new(geometry.n, axis(0), axis(1), geometry.ic, geometry.groups)
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
        self.x += 1;
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
