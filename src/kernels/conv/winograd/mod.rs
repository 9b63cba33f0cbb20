//! Winograd convolution F(4×4, 3×3) and F(2×2, 5×5): 36 products where direct summation needs 144 or 100; and F(2×2, 3×3)
//! for small images: 16 where it needs 36, with fewer weights to read.
//!
//! Results are cut into tiles of 4×4 pixels under a kernel of 3×3, of 2×2 under one of 5×5. The 6×6 source pixels of a
//! tile (4×4 of a small one) are transformed, channel by channel, into 36 (16) *positions*; for each position the tiles
//! are the rows of one matrix product with the transformed weights; what comes out is transformed back into results. A *block* of tiles goes through
//! all three stages while it is in the second-level cache ([`Product`]). The data gradient is the same on weights that
//! are turned by half a turn. [`BackwardWeights`] runs the transposed transforms and reduces over tiles.
//!
//! Within a tile the sums of different results meet in transformed form: a NaN or an infinity in the source makes NaN of
//! all 16 results of its tiles (of four only those that read it, some of which an infinity leaves infinite), and the last
//! bits of a result depend on where its tile lies.

mod backward_weights;
mod pack;
mod product;
mod results;
mod sides;
mod source;
mod stages;
mod tile;
mod transform;

pub use backward_weights::BackwardWeights;
pub use pack::Pack;
pub use product::Product;

use super::Geometry;
use crate::algorithm::Algorithm;
use source::Positions;
use transform::IN;

/// Kernels that there are transforms for.
pub const KERNELS: [[usize; 2]; 2] = [[3, 3], [5, 5]];
/// Fewer channels on either side than this do not pay for the transforms.
const CHANNELS: usize = 32;
/// Fewer tiles than this leave the products without rows.
const TILES: usize = 12;
/// Fewer tiles than this leave the weight gradient without terms.
const TERMS: usize = 16;

/// A convolution by 3×3 or 5×5 with stride 1, forward or its data gradient: from `sc` channels of `sh`×`sw` pixels to
/// `dc` channels of `dh`×`dw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // said above
pub struct Task {
    pub n: usize,
    pub sh: usize,
    pub sw: usize,
    pub sc: usize,
    pub dh: usize,
    pub dw: usize,
    pub dc: usize,
    /// Taps along each axis: 3 or 5.
    pub kernel: usize,
    /// Results along each axis of a tile: 4 or 2 under 3×3, 2 under 5×5.
    pub out: usize,
    /// Zeros above and to the left.
    pub pad: [usize; 2],
    /// Whether the weights are turned: the data gradient.
    pub turned: bool,
}

impl Task {
    /// The convolution itself.
    pub fn forward(geometry: &Geometry) -> Self {
        let task = Self::backward_weights(geometry);
        Self { out: task.best_out(), ..task }
    }

    /// Its data gradient; [`refusal`] has made sure that padding is less than the kernel.
    pub fn backward_data(geometry: &Geometry) -> Self {
        let Geometry { n, ih, iw, ic, oc, oh, ow, window, .. } = *geometry;
        let kernel = window.kernel[0];
        let pad = [kernel - 1 - window.pad[0][0], kernel - 1 - window.pad[1][0]];
        let out = IN + 1 - kernel;
        let task = Self { n, sh: oh, sw: ow, sc: oc, dh: ih, dw: iw, dc: ic, kernel, out, pad, turned: true };
        Self { out: task.best_out(), ..task }
    }

    /// The convolution as its weight gradient sees it, whose tiles are always large.
    pub fn backward_weights(geometry: &Geometry) -> Self {
        let Geometry { n, ih, iw, ic, oc, oh, ow, window, .. } = *geometry;
        let (kernel, pad) = (window.kernel[0], [window.pad[0][0], window.pad[1][0]]);
        let out = IN + 1 - kernel;
        Self { n, sh: ih, sw: iw, sc: ic, dh: oh, dw: ow, dc: oc, kernel, out, pad, turned: false }
    }

    /// Results of a tile so that there are rows enough: few tiles read 36 transformed weights for 9 only to multiply each
    /// of them a few times.
    fn best_out(&self) -> usize {
        if self.kernel == 3 && self.tiles() < TILES { 2 } else { self.out }
    }

    /// Source values along each axis of a tile: 6 or 4.
    pub fn side(&self) -> usize {
        self.out + self.kernel - 1
    }

    /// Products of a tile.
    pub fn positions(&self) -> usize {
        self.side() * self.side()
    }

    /// Where the positions of so many tiles and channels go.
    fn places(&self, tiles: usize, channels: usize) -> Positions {
        Positions::new(self.positions(), tiles, channels)
    }

    /// Results and taps of a tile, for names of kernels.
    pub fn scheme(&self) -> &'static str {
        match (self.kernel, self.out) {
            (3, 4) => "f4",
            (3, _) => "f2",
            _ => "f2k5",
        }
    }

    /// Products that are summed in registers before the sum is put aside: short runs make up for the error that the
    /// transforms add. With runs of 8 for 5×5 AlexNet's gradients keep to their bound on every level.
    pub fn run(&self) -> usize {
        match (self.kernel, self.out) {
            (3, 4) => 32,
            (3, _) => 128,
            _ => 8,
        }
    }

    /// Floats of the weights.
    pub fn weights_len(&self) -> usize {
        self.kernel * self.kernel * self.sc * self.dc
    }

    /// Tiles along each axis of an image.
    pub fn grid(&self) -> [usize; 2] {
        [self.dh.div_ceil(self.out), self.dw.div_ceil(self.out)]
    }

    /// Tiles of all images.
    pub fn tiles(&self) -> usize {
        let [h, w] = self.grid();
        self.n * h * w
    }

    /// A tile by its number.
    pub fn tile(&self, index: usize) -> Tile {
        let [h, w] = self.grid();
        Tile { image: index / (h * w), y: index / w % h * self.out, x: index % w * self.out }
    }

    /// The tile behind another; behind the last the first of an image that is none.
    #[inline]
    pub fn behind(&self, tile: Tile) -> Tile {
        let Tile { image, y, x } = tile;
        if x + self.out < self.dw {
            Tile { image, y, x: x + self.out }
        } else if y + self.out < self.dh {
            Tile { image, y: y + self.out, x: 0 }
        } else {
            Tile { image: image + 1, y: 0, x: 0 }
        }
    }

    /// That tile, or the same if it is the last.
    #[inline]
    pub fn next(&self, tile: Tile) -> Tile {
        let behind = self.behind(tile);
        if behind.image < self.n { behind } else { tile }
    }
}

/// A tile: its image and its first result pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // said above
pub struct Tile {
    pub image: usize,
    pub y: usize,
    pub x: usize,
}

/// Why a convolution and its data gradient are not computed this way; `None` if they are. A rule in shape and permission
/// only.
pub fn refusal(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    refused(algorithm, geometry).or_else(|| {
        let tiles = Task::forward(geometry).tiles();
        (tiles < TILES).then(|| format!("{tiles} tiles, fewer than {TILES}"))
    })
}

/// The same of the weight gradient.
pub fn refusal_of_weights(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    refused(algorithm, geometry).or_else(|| {
        let tiles = Task::backward_weights(geometry).tiles();
        (tiles < TERMS).then(|| format!("{tiles} tiles, fewer than {TERMS}"))
    })
}

/// Why no pass is.
fn refused(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    let Geometry { ic, oc, groups, window, .. } = *geometry;
    if algorithm == Algorithm::Direct {
        return Some("algorithm is direct".to_owned());
    }
    if !KERNELS.contains(&window.kernel) || window.stride != [1, 1] || window.dilation != [1, 1] || groups != 1 {
        return Some("not 3x3 or 5x5 with stride 1, dilation 1 and one group".to_owned());
    }
    let most = window.kernel[0] - 1;
    if window.pad.iter().flatten().any(|&pad| pad > most) {
        return Some(format!("padding above {most}"));
    }
    (ic < CHANNELS || oc < CHANNELS).then(|| format!("fewer than {CHANNELS} channels"))
}
