//! Weight gradient: for every kernel position and channel pair, a sum over pixels.
//!
//! Where the gradient is small and pixels are many, pixels are cut into a number of parts fixed by the shape, each with
//! a gradient of its own that a later step sums in order. Otherwise every task owns a block of the gradient.

use std::ops::Range;

use super::Geometry;
use super::gather::{Axis, Frame, Lattice, Walk, reads_rows};
use super::micro::tile_rows;
use super::micro_gradient::{GradTile, grad_tile};
use super::tables::{Opened, Reading, SET};
use crate::kernels::Kernel;
use crate::kernels::panels::{Weights, fill};
use crate::simd::Isa;
use crate::tensor::Args;

/// Pixels summed in registers before they are added to memory; also what keeps long sums accurate.
const PIXELS: usize = 128;
/// The same where both operands are copied: their results crowd, too, and are added to less often.
const PACKED_PIXELS: usize = 256;
/// Most parts.
const PARTS: usize = 16;
/// Fewer blocks of pixels than this are not worth parts.
const MIN_PARTS: usize = 16;
/// A gradient up to so many bytes is kept once per part.
const PRIVATE: usize = 512 << 10;
/// Bytes beyond which the processor does not guess what is read next.
const PAGE: usize = 4096;
/// A panel of gradients that crowd in the cache is copied if so many positions read the copy.
const READERS: usize = 48;
/// Positions and panels of a block that a task owns.
const OWNED: [usize; 2] = [96, 8];
/// The same where a panel of gradients is copied for all positions.
const COPIED: [usize; 2] = [256, 2];

/// Weight gradient. Operands: input, gradient by the output, result of `parts()` × the weight's length.
#[derive(Debug)]
pub struct BackwardWeights {
    isa: Isa,
    geometry: Geometry,
    lattice: Lattice,
    reading: Reading,
    frame: Frame,
    parts: usize,
    /// Neighbouring pixels whose gradients lie side by side in a vector.
    fold: usize,
    /// Output channels of one group, of all folded pixels.
    channels: usize,
    vectors: usize,
    /// Whether the gradients of a piece are copied panel by panel.
    copies: bool,
    /// Whether the positions of a block are copied, too.
    packs: bool,
    /// Pixels of a piece.
    pixels: usize,
    /// What tasks of one part own.
    blocks: Vec<Block>,
}

/// A block of the gradient: segments × positions of a segment × panels of output channels, of one group.
#[derive(Debug, Clone)]
struct Block {
    group: usize,
    segments: Range<usize>,
    positions: Range<usize>,
    panels: Range<usize>,
}

impl BackwardWeights {
    /// The weight gradient of this convolution.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        let pixel_blocks = (geometry.n * geometry.oh * geometry.ow).div_ceil(PIXELS);
        let private = geometry.weights_len() * size_of::<f32>() <= PRIVATE && pixel_blocks >= MIN_PARTS;
        let w = Axis::forward(&geometry, 1);
        let foldable = private && reads_rows(&w, geometry.ic, geometry.groups);
        let fold = if foldable { w.best_fold(geometry.oc, isa.lanes()) } else { 1 };
        let w = if fold > 1 { w.folded(fold) } else { w };
        let lattice = Lattice::new(geometry.n, Axis::forward(&geometry, 0), w, geometry.ic, geometry.groups);
        let channels = geometry.group_oc() * fold;
        let vectors = if channels <= isa.lanes() { 1 } else { 2 };
        // With parts, which have more to keep in cache, half the distance is too close.
        let close = if private { SET / 2 } else { SET };
        let crowd = |floats: usize| (floats * size_of::<f32>()).is_multiple_of(close);
        let copies = vectors == 2 && fold == 1 && lattice.segment_len() >= READERS && crowd(geometry.oc);
        let packs = copies && !private && crowd(lattice.w.src_step * lattice.src_channels);
        let pixels = if packs { PACKED_PIXELS } else { PIXELS };
        // A task that owns one tap would copy a band for that tap alone.
        let reading = match (private, lattice.is_inside()) {
            (false, false) => Reading::Pointers { rows: pixels },
            (false, true) if packs => Reading::InPlace { rows: pixels },
            _ => Reading::new(&lattice, pixels, pixel_blocks.max(1)),
        };
        let frame = reading.frame(&lattice);
        let parts = if private { reading.units(&lattice).min(PARTS) } else { 1 };
        let panels = channels.div_ceil(vectors * isa.lanes());
        let (segments, len) = (lattice.segments(), lattice.segment_len());
        let owned = if copies { COPIED } else { OWNED };
        let mut blocks = Vec::new();
        for group in 0..geometry.groups {
            if private {
                blocks.push(Block { group, segments: 0..segments, positions: 0..len, panels: 0..panels });
                continue;
            }
            for segment in 0..segments {
                for positions in pieces(len, owned[0]) {
                    for panels in pieces(panels, owned[1]) {
                        let positions = positions.clone();
                        blocks.push(Block { group, segments: segment..segment + 1, positions, panels });
                    }
                }
            }
        }
        Self { isa, geometry, lattice, reading, frame, parts, fold, channels, vectors, copies, packs, pixels, blocks }
    }

    /// Gradients in the result operand, to be summed in order.
    pub fn parts(&self) -> usize {
        self.parts
    }

    fn nr(&self) -> usize {
        self.vectors * self.isa.lanes()
    }

    /// Floats of zeros or of a band.
    fn head_len(&self) -> usize {
        self.reading.head_len(&self.lattice).next_multiple_of(16)
    }

    /// Floats of one patch per pixel.
    fn patches_len(&self) -> usize {
        if self.reading.per_segment() { self.pixels * self.lattice.patch_len() } else { 0 }
    }

    /// Floats of a panel of a piece's gradients, and of a block's positions.
    fn panel_len(&self) -> usize {
        let positions = if self.packs { self.pixels * COPIED[0] } else { 0 };
        positions + if self.copies { self.pixels * self.nr() } else { 0 }
    }

    /// Floats of the gradient by folded positions, which is taken apart at the end of a task.
    fn folded_len(&self) -> usize {
        if self.fold > 1 { self.lattice.depth() * self.channels } else { 0 }
    }

    /// Adds up the gradient by folded positions: of folded pixel `p`, position `e` is the kernel's `e − p·step`.
    ///
    /// # Safety
    /// `folded` has `folded_len()` floats, `out` the weights' length.
    unsafe fn unfold(&self, folded: *const f32, out: *mut f32) {
        let (oc, depth) = (self.geometry.oc, self.lattice.group_channels);
        let (taps, len) = (self.geometry.window.kernel[1], self.lattice.segment_len());
        let step = self.geometry.window.stride[1] * depth;
        for segment in 0..self.lattice.segments() {
            for (position, channel) in (0..taps * depth).flat_map(|e| (0..oc).map(move |k| (e, k))) {
                let mut sum = 0.0f32;
                for pixel in 0..self.fold {
                    let from = (segment * len + position + pixel * step) * self.channels + pixel * oc + channel;
                    // SAFETY: inside the folded gradient.
                    sum += unsafe { *folded.wrapping_add(from) };
                }
                // SAFETY: inside this part's gradient, which belongs to this task.
                unsafe { *out.wrapping_add((segment * taps * depth + position) * oc + channel) = sum };
            }
        }
    }
}

/// `0..total` in nearly equal pieces of at most `most`.
fn pieces(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = total.div_ceil(most);
    (0..count).map(move |i| i * total / count..(i + 1) * total / count)
}

/// One task's scratch.
struct Scratch {
    /// One pointer per pixel of a piece, then one to its copy.
    table: *mut *const f32,
    head: *mut f32,
    patches: *mut f32,
    folded: *mut f32,
    panel: *mut f32,
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        let rows = tile_rows(self.isa, self.vectors);
        let fold = if self.fold > 1 { format!("_fold{}", self.fold) } else { String::new() };
        format!("conv_backward_weights{fold}_{rows}x{}_{}", self.nr(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts * self.blocks.len()
    }

    fn scratch(&self) -> usize {
        2 * self.pixels * size_of::<*const f32>()
            + (self.head_len() + self.patches_len() + self.folded_len() + self.panel_len()) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (part, block) = (task / self.blocks.len(), &self.blocks[task % self.blocks.len()]);
        let lattice = &self.lattice;
        let head = scratch.wrapping_add(2 * self.pixels * size_of::<*const f32>()).cast::<f32>();
        let patches = head.wrapping_add(self.head_len());
        let folded = patches.wrapping_add(self.patches_len());
        let panel = folded.wrapping_add(self.folded_len());
        let scratch = Scratch { table: scratch.cast(), head, patches, folded, panel };
        let source = args.src::<f32>(0).at(0, 0).wrapping_add(block.group * lattice.group_channels);
        let units = self.reading.units(lattice);
        let mut add = false;
        // SAFETY: scratch is as large as `scratch()` says; pointers come from the lattice; the block's results lie in
        // this part of the result operand and belong to this task.
        unsafe {
            if self.reading.per_segment() {
                std::ptr::write_bytes(scratch.head, 0, self.head_len());
            }
            for unit in part * units / self.parts..(part + 1) * units / self.parts {
                let rows = self.reading.rows(lattice, unit);
                let opened = self.reading.open(lattice, rows.clone(), source, scratch.head);
                for piece in pieces(rows.len(), self.pixels) {
                    let rows = rows.start + piece.start..rows.start + piece.end;
                    self.piece(block, part, rows, args, &opened, &scratch, add);
                    add = true;
                }
            }
            if !add {
                let nothing = Opened::nothing();
                self.piece(block, part, 0..0, args, &nothing, &scratch, false);
            }
            if self.fold > 1 {
                let len = self.geometry.weights_len();
                self.unfold(scratch.folded, args.dst::<f32>(2).at(part * len, len));
            }
        }
    }
}

impl BackwardWeights {
    /// Adds (or, first, writes) the sums over some pixels.
    ///
    /// # Safety
    /// At most `pixels` pixels of the opened unit; the rest as for `run`.
    unsafe fn piece(
        &self,
        block: &Block,
        part: usize,
        rows: Range<usize>,
        args: &Args<'_>,
        opened: &Opened,
        scratch: &Scratch,
        add: bool,
    ) {
        let (diff_dst, out) = (args.src::<f32>(1), args.dst::<f32>(2));
        let (lattice, frame) = (&self.lattice, &self.frame);
        let (nr, lanes, mr) = (self.nr(), self.isa.lanes(), tile_rows(self.isa, self.vectors));
        let diff_pitch = self.geometry.oc * self.fold;
        let base = part * self.geometry.weights_len();
        let pointed = self.reading.per_segment();
        // Where a task passes once over its part of both operands these come from memory, and gradients that lie a page apart
        // come unforeseen: it asks for the next piece, unless they end before.
        let far = self.parts > 1 || diff_pitch * size_of::<f32>() >= PAGE;
        let more = far && rows.end + rows.len() <= lattice.rows();
        let ahead = match self.reading {
            Reading::InPlace { .. } if more => {
                [rows.len() * frame.pixel, if self.copies { 0 } else { rows.len() * diff_pitch }]
            }
            Reading::Copied { .. } | Reading::Band { .. } if more && !self.copies => [0, rows.len() * diff_pitch],
            _ => [0; 2],
        };
        // SAFETY: the caller's word.
        unsafe {
            if !pointed && !rows.is_empty() {
                let mut walk = lattice.walk(rows.start);
                let mut done = 0;
                while done < rows.len() {
                    let run = walk.left(lattice).min(rows.len() - done);
                    let start = opened.pixel(frame, walk);
                    for i in 0..run {
                        *scratch.table.add(done + i) = start.wrapping_add(i * frame.pixel);
                    }
                    done += run;
                    walk.skip(run, lattice);
                }
            }
            for segment in block.segments.clone() {
                if pointed && !rows.is_empty() {
                    self.point(segment, lattice.walk(rows.start), rows.len(), opened, scratch);
                }
                let (table, origin) = if self.packs && !rows.is_empty() {
                    let offset = frame.deltas[segment] + block.positions.start as isize;
                    self.pack(block, rows.len(), offset, scratch);
                    (scratch.table.wrapping_add(self.pixels), block.positions.start as isize)
                } else {
                    (scratch.table, -frame.deltas[segment])
                };
                let tile = |positions: &Range<usize>, panel: usize| {
                    let position = block.positions.start + positions.start;
                    let row = segment * lattice.segment_len() + position;
                    let channels = nr.min(self.channels - panel * nr);
                    let column = block.group * self.channels + panel * nr;
                    let diff = rows.start * diff_pitch + column;
                    let tile = GradTile {
                        table,
                        offset: position as isize - origin,
                        pixels: rows.len(),
                        diff: if self.copies {
                            scratch.panel.cast_const()
                        } else if rows.is_empty() {
                            std::ptr::null()
                        } else {
                            diff_dst.at(diff, channels)
                        },
                        diff_pitch: if self.copies { nr } else { diff_pitch },
                        result: if self.fold > 1 {
                            scratch.folded.wrapping_add(row * diff_pitch + column)
                        } else {
                            out.at(base + row * diff_pitch + column, channels)
                        },
                        pitch: diff_pitch,
                        channels,
                        add,
                        ahead,
                    };
                    let vectors = if channels <= lanes { 1 } else { 2 };
                    grad_tile(self.isa, positions.len(), vectors, &tile);
                };
                let positions = || pieces(block.positions.len(), mr);
                if !self.copies {
                    positions().for_each(|positions| block.panels.clone().for_each(|panel| tile(&positions, panel)));
                    continue;
                }
                for panel in block.panels.clone() {
                    if !rows.is_empty() {
                        let channels = nr.min(self.channels - panel * nr);
                        let first = rows.start * diff_pitch + block.group * self.channels + panel * nr;
                        let from = diff_dst.at(first, (rows.len() - 1) * diff_pitch + channels);
                        let to = scratch.panel;
                        let of = Weights { from, pitch: diff_pitch, depth: rows.len(), channels, nr, to };
                        fill(self.isa, &of, false);
                    }
                    positions().for_each(|positions| tile(&positions, panel));
                }
            }
        }
    }

    /// Copies a block's positions of a segment, pixel by pixel.
    ///
    /// # Safety
    /// As for [`Self::piece`]; the table points at the pixels, `offset` floats before the block's positions.
    unsafe fn pack(&self, block: &Block, pixels: usize, offset: isize, scratch: &Scratch) {
        let to = scratch.panel.wrapping_add(self.pixels * self.nr());
        let count = block.positions.len();
        for pixel in 0..pixels {
            let to = to.wrapping_add(pixel * COPIED[0]);
            // SAFETY: the caller's word; the scratch has room for the positions of a block.
            unsafe {
                let from = (*scratch.table.add(pixel)).wrapping_offset(offset);
                to.copy_from_nonoverlapping(from, count);
                *scratch.table.add(self.pixels + pixel) = to;
            }
        }
    }

    /// One pointer per pixel to one segment.
    ///
    /// # Safety
    /// As for [`Self::piece`].
    unsafe fn point(&self, segment: usize, mut walk: Walk, pixels: usize, opened: &Opened, scratch: &Scratch) {
        let (r, c) = self.lattice.position(segment);
        for pixel in 0..pixels {
            let patch = scratch.patches.wrapping_add(pixel * self.lattice.patch_len());
            // SAFETY: the head is zeros, a patch per pixel; the rest is the caller's word.
            unsafe {
                let pointer = self.lattice.segment(walk, r, c, opened.memory(), scratch.head, patch);
                *scratch.table.add(pixel) = pointer;
            }
            walk.step(&self.lattice);
        }
    }
}
