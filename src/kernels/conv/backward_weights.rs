//! Weight gradient: for every kernel position and channel pair, a sum over pixels.
//!
//! Where the gradient is small and pixels are many, pixels are cut into a number of parts fixed by the shape, each with
//! a gradient of its own that a later step sums in order. Otherwise every task owns a block of the gradient.

use super::Geometry;
use super::gather::Lattice;
use super::micro::{GradTile, grad_tile, tile_rows};
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
    parts: usize,
    vectors: usize,
    /// What tasks of one part own.
    blocks: Vec<Block>,
}

/// A block of the gradient: segments × positions of a segment × panels of output channels, of one group.
#[derive(Debug, Clone)]
struct Block {
    group: usize,
    segments: std::ops::Range<usize>,
    positions: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
}

impl BackwardWeights {
    /// The weight gradient of this convolution.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        let lattice = Lattice::forward(&geometry);
        let pixel_blocks = lattice.rows().div_ceil(PIXELS);
        let private = geometry.weight_len() * 4 <= PRIVATE && pixel_blocks >= MIN_PARTS;
        let parts = if private { pixel_blocks.min(PARTS) } else { 1 };
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
        Self { isa, geometry, lattice, parts, vectors, blocks }
    }

    /// Gradients in the result operand, to be summed in order.
    pub fn parts(&self) -> usize {
        self.parts
    }

    fn nr(&self) -> usize {
        self.vectors * self.isa.lanes()
    }

    fn zeros_len(&self) -> usize {
        self.lattice.segment_len().next_multiple_of(16)
    }
}

/// `0..total` in nearly equal pieces of at most `most`.
fn pieces(total: usize, most: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let count = total.div_ceil(most);
    (0..count).map(move |i| i * total / count..(i + 1) * total / count)
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
        let pointers = PIXELS * size_of::<*const f32>();
        (self.zeros_len() + PIXELS * self.lattice.patch_len()) * 4 + pointers
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (src, diff, out) = (args.src::<f32>(0), args.src::<f32>(1), args.dst::<f32>(2));
        let (part, block) = (task / self.blocks.len(), &self.blocks[task % self.blocks.len()]);
        let Geometry { oc, .. } = self.geometry;
        let (lattice, nr, lanes) = (&self.lattice, self.nr(), self.isa.lanes());
        let (len, group_oc) = (lattice.segment_len(), self.geometry.group_oc());
        let rows = part * lattice.rows() / self.parts..(part + 1) * lattice.rows() / self.parts;
        let base = part * self.geometry.weight_len();
        let table: *mut *const f32 = scratch.cast();
        let zeros = scratch.wrapping_add(PIXELS * size_of::<*const f32>()).cast::<f32>();
        let patches = zeros.wrapping_add(self.zeros_len());
        let mr = tile_rows(self.isa, self.vectors);
        // SAFETY: scratch is as large as `scratch()` says; pointers come from the lattice; the block's results lie in
        // this part of the result operand and belong to this task.
        unsafe {
            std::ptr::write_bytes(zeros, 0, self.zeros_len());
            let source = src.at(0, 0).wrapping_add(block.group * lattice.group_channels);
            let mut first = rows.start;
            loop {
                let pixels = PIXELS.min(rows.end - first);
                for segment in block.segments.clone() {
                    let (r, c) = lattice.position(segment);
                    if pixels > 0 {
                        let mut walk = lattice.walk(first);
                        for pixel in 0..pixels {
                            let patch = patches.wrapping_add(pixel * lattice.patch_len());
                            let pointer = lattice.segment(walk, r, c, source, zeros, patch);
                            *table.add(pixel) = pointer;
                            walk.step(lattice);
                        }
                    }
                    for positions in pieces(block.positions.len(), mr) {
                        let position = block.positions.start + positions.start;
                        for panel in block.panels.clone() {
                            let channel = panel * nr;
                            let channels = nr.min(group_oc - channel);
                            let column = block.group * group_oc + channel;
                            let row = segment * len + position;
                            let tile = GradTile {
                                table,
                                offset: position as isize,
                                pixels,
                                diff: diff.at(first * oc + column, if pixels > 0 { channels } else { 0 }),
                                diff_pitch: oc,
                                result: out.at(base + row * oc + column, channels),
                                pitch: oc,
                                channels,
                                add: first > rows.start,
                            };
                            let vectors = if channels <= lanes { 1 } else { 2 };
                            grad_tile(self.isa, positions.len(), vectors, &tile);
                        }
                    }
                }
                first += pixels;
                if first >= rows.end {
                    break;
                }
            }
        }
    }
}
