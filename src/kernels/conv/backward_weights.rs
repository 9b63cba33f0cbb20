//! Weight gradient: for every kernel position and channel pair, a sum over pixels.
//!
//! Where the gradient is small and pixels are many, pixels are cut into a number of parts fixed by the shape, each with
//! a gradient of its own that a later step sums in order. Otherwise every task owns a block of the gradient.

use std::ops::Range;

use super::Geometry;
use super::gather::{Frame, Lattice, Walk};
use super::micro::{GradTile, grad_tile, tile_rows};
use super::tables::{Opened, Reading};
use crate::kernels::Kernel;
use crate::simd::Isa;
use crate::tensor::Args;

/// Pixels summed in registers before they are added to memory; also what keeps long sums accurate.
const PIXELS: usize = 256;
/// Most parts.
const PARTS: usize = 16;
/// Fewer blocks of pixels than this are not worth parts.
const MIN_PARTS: usize = 8;
/// A gradient up to so many bytes is kept once per part.
const PRIVATE: usize = 512 << 10;
/// Positions and panels of a block that a task owns.
const OWNED: [usize; 2] = [48, 4];

/// Weight gradient. Operands: input, gradient by the output, result of `parts()` × the weight's length.
#[derive(Debug)]
pub struct BackwardWeights {
    isa: Isa,
    geometry: Geometry,
    lattice: Lattice,
    reading: Reading,
    parts: usize,
    vectors: usize,
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
        let lattice = Lattice::forward(&geometry);
        let pixel_blocks = lattice.rows().div_ceil(PIXELS);
        let private = geometry.weights_len() * size_of::<f32>() <= PRIVATE && pixel_blocks >= MIN_PARTS;
        // A task that owns one tap would copy a band for that tap alone.
        let reading = if private || lattice.is_inside() {
            Reading::new(&lattice, PIXELS, pixel_blocks.max(1))
        } else {
            Reading::Pointers { rows: PIXELS }
        };
        let parts = if private { reading.units(&lattice).min(PARTS) } else { 1 };
        let vectors = if geometry.group_oc() <= isa.lanes() { 1 } else { 2 };
        let panels = geometry.group_oc().div_ceil(vectors * isa.lanes());
        let (segments, len) = (lattice.segments(), lattice.segment_len());
        let mut blocks = Vec::new();
        for group in 0..geometry.groups {
            if private {
                blocks.push(Block { group, segments: 0..segments, positions: 0..len, panels: 0..panels });
                continue;
            }
            for segment in 0..segments {
                for positions in pieces(len, OWNED[0]) {
                    for panels in pieces(panels, OWNED[1]) {
                        let positions = positions.clone();
                        blocks.push(Block { group, segments: segment..segment + 1, positions, panels });
                    }
                }
            }
        }
        Self { isa, geometry, lattice, reading, parts, vectors, blocks }
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
}

/// `0..total` in nearly equal pieces of at most `most`.
fn pieces(total: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = total.div_ceil(most);
    (0..count).map(move |i| i * total / count..(i + 1) * total / count)
}

/// One task's scratch.
struct Scratch {
    /// One pointer per pixel of a piece.
    table: *mut *const f32,
    head: *mut f32,
    patches: *mut f32,
}

impl Kernel for BackwardWeights {
    fn name(&self) -> String {
        let rows = tile_rows(self.isa, self.vectors);
        format!("conv_backward_weights_{rows}x{}_{}", self.nr(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.parts * self.blocks.len()
    }

    fn scratch(&self) -> usize {
        let patches = if self.reading.per_segment() { PIXELS * self.lattice.patch_len() } else { 0 };
        PIXELS * size_of::<*const f32>() + (self.head_len() + patches) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (part, block) = (task / self.blocks.len(), &self.blocks[task % self.blocks.len()]);
        let lattice = &self.lattice;
        let head = scratch.wrapping_add(PIXELS * size_of::<*const f32>()).cast::<f32>();
        let scratch = Scratch { table: scratch.cast(), head, patches: head.wrapping_add(self.head_len()) };
        let frame = self.reading.frame(lattice);
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
                let opened = self.reading.open(lattice, unit, rows.len(), source, scratch.head);
                for piece in pieces(rows.len(), PIXELS) {
                    let rows = rows.start + piece.start..rows.start + piece.end;
                    self.piece(block, part, rows, args, &opened, &frame, &scratch, add);
                    add = true;
                }
            }
            if !add {
                let nothing = Opened::nothing();
                self.piece(block, part, 0..0, args, &nothing, &frame, &scratch, false);
            }
        }
    }
}

impl BackwardWeights {
    /// Adds (or, first, writes) the sums over some pixels.
    ///
    /// # Safety
    /// At most [`PIXELS`] pixels of the opened unit; the rest as for `run`.
    unsafe fn piece(
        &self,
        block: &Block,
        part: usize,
        rows: Range<usize>,
        args: &Args<'_>,
        opened: &Opened,
        frame: &Frame,
        scratch: &Scratch,
        add: bool,
    ) {
        let (diff, out) = (args.src::<f32>(1), args.dst::<f32>(2));
        let (lattice, oc, group_oc) = (&self.lattice, self.geometry.oc, self.geometry.group_oc());
        let (nr, lanes, mr) = (self.nr(), self.isa.lanes(), tile_rows(self.isa, self.vectors));
        let base = part * self.geometry.weights_len();
        // SAFETY: the caller's word.
        unsafe {
            if !self.reading.per_segment() && !rows.is_empty() {
                let mut walk = lattice.walk(rows.start);
                for pixel in 0..rows.len() {
                    *scratch.table.add(pixel) = opened.pixel(frame, walk);
                    walk.step(lattice);
                }
            }
            for segment in block.segments.clone() {
                if self.reading.per_segment() && !rows.is_empty() {
                    self.point(segment, lattice.walk(rows.start), rows.len(), opened, scratch);
                }
                for positions in pieces(block.positions.len(), mr) {
                    let position = block.positions.start + positions.start;
                    for panel in block.panels.clone() {
                        let channels = nr.min(group_oc - panel * nr);
                        let column = block.group * group_oc + panel * nr;
                        let row = segment * lattice.segment_len() + position;
                        let tile = GradTile {
                            table: scratch.table,
                            offset: frame.deltas[segment] + position as isize,
                            pixels: rows.len(),
                            diff: if rows.is_empty() {
                                std::ptr::null()
                            } else {
                                diff.at(rows.start * oc + column, channels)
                            },
                            diff_pitch: oc,
                            result: out.at(base + row * oc + column, channels),
                            pitch: oc,
                            channels,
                            add,
                        };
                        let vectors = if channels <= lanes { 1 } else { 2 };
                        grad_tile(self.isa, positions.len(), vectors, &tile);
                    }
                }
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
