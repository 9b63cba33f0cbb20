//! Winograd convolution F(4×4, 3×3) and F(2×2, 5×5): 36 products where direct summation needs 144 or 100; F(2×2, 3×3)
//! for small images: 16 where it needs 36, with fewer weights to read; and 2×2 results of a 3×3 kernel with stride 2: 25
//! where it needs 36. Layers of few channels with larger kernels and strides, as the first ones of many networks, are
//! F(4×4, 3×3) or F(3×3, 4×4) of pixels put together ([`SpaceToDepth`]): per channel, 576 products for 16 results of 11×11
//! with stride 4 where direct summation needs 1936, 144 for 9 of 7×7 with stride 2 where it needs 441.
//!
//! Results are cut into tiles ([`Scheme`]). The source pixels of a tile are transformed, channel by channel, into
//! *positions*; for each position the tiles are the rows of one matrix product with the transformed weights; what comes
//! out is transformed back into results. A *block* of tiles goes through all three stages while it is in the second-level
//! cache ([`Product`]). The data gradient is the same on weights that are turned by half a turn. [`BackwardWeights`] runs
//! the transposed transforms and reduces over tiles.
//!
//! Within a tile the sums of different results meet in transformed form: a NaN or an infinity in the source makes NaN of
//! all 16 results of its tiles (of four only those that read it, some of which an infinity leaves infinite), and the last
//! bits of a result depend on where its tile lies.

mod backward_weights;
mod lines;
mod pack;
mod product;
mod results;
mod scheme;
mod sides;
mod source;
mod space_to_depth;
mod stages;
mod tile;
mod transform;

pub use backward_weights::BackwardWeights;
pub use pack::Pack;
pub use product::Product;

use super::Geometry;
use crate::algorithm::Algorithm;
use scheme::{Kind, Scheme};
use source::Positions;
use space_to_depth::{SpaceToDepth, Taps};

/// Kernels that there are transforms for.
const KERNELS: [[usize; 2]; 2] = [[3, 3], [5, 5]];
/// Fewer channels on either side than this do not pay for the transforms, with stride 1 and 2.
const CHANNELS: [usize; 2] = [32, 64];
/// Fewer channels than this of pixels that are put together.
const DEPTH: usize = 12;
/// Fewer tiles than this leave the products without rows.
const TILES: usize = 12;
/// Fewer tiles than this leave the weight gradient without terms.
const TERMS: usize = 16;
/// Up to so many strided tiles may reach far beyond their images.
const MANY: usize = 128;

/// A convolution by 3×3, 4×4 or 5×5 with stride 1, or by 3×3 with stride 2, forward or its data gradient: from `sc`
/// channels of `sh`×`sw` pixels to `dc` channels of `dh`×`dw`.
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
    pub scheme: Scheme,
    /// Zeros above and to the left.
    pub pad: [usize; 2],
    /// Whether the weights are turned: the data gradient.
    pub turned: bool,
    /// Where the pixels of the source come from, if they are put together.
    pub space_to_depth: Option<SpaceToDepth>,
}

impl Task {
    /// The convolution itself.
    pub fn forward(geometry: &Geometry) -> Self {
        Self::backward_weights(geometry).small()
    }

    /// Its data gradient; [`refusal`] has made sure that padding is less than the kernel.
    pub fn backward_data(geometry: &Geometry) -> Self {
        let Geometry { n, ih, iw, ic, oc, oh, ow, window, .. } = *geometry;
        let (most, first) = (window.kernel[0] - 1, [window.pad[0][0], window.pad[1][0]]);
        let (scheme, pad) = match Self::large(geometry) {
            Scheme::STRIDED => (Scheme::STRIDED_BACK, first.map(|pad| (most - pad) / 2)),
            scheme => (scheme, first.map(|pad| most - pad)),
        };
        Self { n, sh: oh, sw: ow, sc: oc, dh: ih, dw: iw, dc: ic, scheme, pad, turned: true, space_to_depth: None }
            .small()
    }

    /// The convolution as its weight gradient sees it, whose tiles are always large.
    pub fn backward_weights(geometry: &Geometry) -> Self {
        let Geometry { n, ih, iw, ic, oc, oh, ow, window, .. } = *geometry;
        let (scheme, pad) = (Self::large(geometry), [window.pad[0][0], window.pad[1][0]]);
        let (space_to_depth, turned) = (SpaceToDepth::of(geometry), false);
        let Some(image) = space_to_depth else {
            return Self { n, sh: ih, sw: iw, sc: ic, dh: oh, dw: ow, dc: oc, scheme, pad, turned, space_to_depth };
        };
        let ([sh, sw], sc) = ([oh, ow].map(|results| results + image.taps() - 1), image.depth());
        Self { n, sh, sw, sc, dh: oh, dw: ow, dc: oc, scheme, pad: [0; 2], turned, space_to_depth }
    }

    /// The scheme of many tiles.
    fn large(geometry: &Geometry) -> Scheme {
        if let Some(image) = SpaceToDepth::of(geometry) {
            return if image.taps() == 3 { Scheme::F4 } else { Scheme::F3K4 };
        }
        match (geometry.window.kernel[0], geometry.window.stride[0]) {
            (3, 1) => Scheme::F4,
            (3, _) => Scheme::STRIDED,
            _ => Scheme::F2K5,
        }
    }

    /// The same by tiles of which there are rows enough: few large tiles read 36 transformed weights for 9 only to multiply
    /// each of them a few times.
    fn small(self) -> Self {
        let small = self.scheme == Scheme::F4 && self.tiles() < TILES;
        Self { scheme: if small { Scheme::F2 } else { self.scheme }, ..self }
    }

    /// Products of a tile.
    pub fn positions(&self) -> usize {
        self.scheme.products.pow(2)
    }

    /// Transformed weights of a source and a result channel.
    pub fn weights(&self) -> usize {
        self.scheme.weights.pow(2)
    }

    /// Where the positions of so many tiles and channels go.
    fn places(&self, tiles: usize, channels: usize) -> Positions {
        Positions::new(self.positions(), tiles, channels)
    }

    /// Taps of the kernel along an axis, as the layer has it.
    pub fn kernel(&self) -> usize {
        self.space_to_depth.map_or(self.scheme.kernel, |image| image.kernel)
    }

    /// Floats of the weights.
    pub fn weights_len(&self) -> usize {
        self.kernel().pow(2) * self.space_to_depth.map_or(self.sc, |image| image.channels) * self.dc
    }

    /// Floats of an image of the source.
    pub fn image_len(&self) -> usize {
        self.space_to_depth.map_or(self.sh * self.sw * self.sc, |image| image.image())
    }

    /// Where the weights of a source channel lie.
    fn taps_of(&self, channel: usize) -> Taps {
        let (kernel, tap) = (self.scheme.kernel, self.sc * self.dc);
        let plain = Taps { first: channel * self.dc, step: [kernel * tap, tap], count: [kernel; 2] };
        self.space_to_depth.map_or(plain, |image| image.taps_of(channel, self.dc))
    }

    /// The scheme, and the stride if pixels are put together, for names of kernels and formats.
    fn name(&self) -> String {
        let stride = self.space_to_depth.map_or(String::new(), |image| format!("s{}", image.stride));
        format!("{}{stride}", self.scheme.name)
    }

    /// Tiles along each axis of an image.
    pub fn grid(&self) -> [usize; 2] {
        [self.dh, self.dw].map(|results| results.div_ceil(self.scheme.out))
    }

    /// Tiles of all images.
    pub fn tiles(&self) -> usize {
        let [h, w] = self.grid();
        self.n * h * w
    }

    /// A tile by its number.
    pub fn tile(&self, index: usize) -> Tile {
        let ([h, w], out) = (self.grid(), self.scheme.out);
        Tile { image: index / (h * w), y: index / w % h * out, x: index % w * out }
    }

    /// The first line and column of its source, counted from where the padding starts.
    #[inline]
    fn source_of(&self, tile: Tile) -> [usize; 2] {
        [tile.y, tile.x].map(|result| self.scheme.source_of(result))
    }

    /// The tile behind another; behind the last the first of an image that is none.
    #[inline]
    pub fn behind(&self, tile: Tile) -> Tile {
        let (Tile { image, y, x }, out) = (tile, self.scheme.out);
        if x + out < self.dw {
            Tile { image, y, x: x + out }
        } else if y + out < self.dh {
            Tile { image, y: y + out, x: 0 }
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

/// Whether there are transforms for its kernel, so that it is a question whether they pay.
pub fn has_scheme(geometry: &Geometry) -> bool {
    KERNELS.contains(&geometry.window.kernel) || SpaceToDepth::of(geometry).is_some()
}

/// Why a convolution is not computed this way; `None` if it is. A rule in shape and permission only.
pub fn refusal(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    refused(algorithm, geometry).or_else(|| {
        let tiles = Task::forward(geometry).tiles();
        let wasteful = || wasteful(geometry).filter(|_| tiles > MANY);
        if tiles < TILES { Some(format!("{tiles} tiles, fewer than {TILES}")) } else { wasteful() }
    })
}

/// The same of the data gradient.
pub fn refusal_of_data(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    refusal(algorithm, geometry).or_else(|| SpaceToDepth::of(geometry).map(|_| "few channels".to_owned()))
}

/// The same of the weight gradient.
pub fn refusal_of_weights(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    refused(algorithm, geometry).or_else(|| {
        let tiles = Task::backward_weights(geometry).tiles();
        if tiles < TERMS { Some(format!("{tiles} tiles, fewer than {TERMS}")) } else { wasteful(geometry) }
    })
}

/// Why strided tiles save too few products: as many as direct summation has, nearly, where a quarter of their results is
/// none (7×7).
fn wasteful(geometry: &Geometry) -> Option<String> {
    let task = Task::forward(geometry);
    let (computed, results) = (task.tiles() * task.scheme.out.pow(2), task.n * task.dh * task.dw);
    let wasteful = task.scheme.strided() && 5 * computed > 6 * results;
    wasteful.then(|| format!("tiles of {computed} results for {results}, more than a fifth too many"))
}

/// Why no pass is.
fn refused(algorithm: Algorithm, geometry: &Geometry) -> Option<String> {
    let Geometry { ic, oc, groups, window, .. } = *geometry;
    if algorithm == Algorithm::Direct {
        return Some("algorithm is direct".to_owned());
    }
    let image = SpaceToDepth::of(geometry);
    if let Some(image) = image {
        let ([least, _], depth) = (CHANNELS, image.depth());
        let few = oc < least || depth < DEPTH;
        return few.then(|| {
            format!("{depth} channels of {0}x{0} pixels to {oc}, fewer than {DEPTH} or {least}", image.stride)
        });
    }
    if !KERNELS.contains(&window.kernel) || window.dilation != [1, 1] || groups != 1 {
        return Some("not 3x3 or 5x5 with dilation 1 and one group".to_owned());
    }
    let strided = window.kernel == [3, 3] && window.stride == [2, 2] && window.pad.map(|pad| pad[0]) == [1, 1];
    if window.stride != [1, 1] && !strided {
        return Some("neither stride 1 nor 3x3 with stride 2 and padding 1".to_owned());
    }
    let most = window.kernel[0] - 1;
    if window.pad.iter().flatten().any(|&pad| pad > most) {
        return Some(format!("padding above {most}"));
    }
    let least = CHANNELS[usize::from(strided)];
    (ic < least || oc < least).then(|| format!("fewer than {least} channels"))
}
