//! Which source pixels a result pixel is made of along one axis, and their weights.

use std::ops::Range;

use crate::error::{Error, Result};

/// The function that weighs pixels by their distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// A triangle: linear between two neighbours.
    Bilinear,
    /// Keys' piecewise cubic with a = −1/2.
    Bicubic,
}

impl Interpolation {
    /// The interpolation of that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "bilinear" => Ok(Self::Bilinear),
            "bicubic" => Ok(Self::Bicubic),
            _ => Err(Error::Value(format!("interpolation expects bilinear or bicubic, received {name:?}"))),
        }
    }

    /// Distance from which on the weight is zero.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    /// The weight at a distance.
    fn weight(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// Fractional bits of a weight: 8 bits for the pixel, 2 for what negative weights add, and the sum fits 32.
const BITS: u32 = 32 - 8 - 2;

/// Half a unit of the result: where sums begin, so that they are rounded.
pub(super) const HALF: i32 = 1 << (BITS - 1);

/// The pixel of a sum.
#[inline(always)]
pub(super) fn pixel(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// The sums of one axis: for each result pixel its first source pixel and the weights from there on.
#[derive(Debug, Clone)]
pub struct Taps {
    first: Vec<u32>,
    /// Where the weights of each result end in `weights`.
    end: Vec<u32>,
    weights: Vec<i32>,
}

impl Taps {
    /// Longest axis. With more pixels to a result than that, integer weights would lose their meaning.
    pub const MAX_SIZE: usize = 1 << 20;

    /// Resizes `src` pixels to `dst`, of which only those in `window` are wanted.
    ///
    /// A result that covers several source pixels weighs all of them (antialiasing): the interpolation is stretched by
    /// `src / dst` where that is above one.
    pub fn new(interpolation: Interpolation, src: usize, dst: usize, window: Range<usize>) -> Result<Self> {
        debug_assert!((1..=Self::MAX_SIZE).contains(&src) && (1..=Self::MAX_SIZE).contains(&dst));
        debug_assert!(window.end <= dst);
        let scale = src as f64 / dst as f64;
        let stretch = scale.max(1.0);
        let support = interpolation.support() * stretch;
        let shrink = 1.0 / stretch;
        // Bounded by a few times the sizes; the results of a window overlap by the support alone.
        let most = window.len() * (support.ceil() as usize * 2 + 1).min(src);
        let mut taps = Self { first: vec(window.len())?, end: vec(window.len())?, weights: vec(most)? };
        let mut exact: Vec<f64> = vec((support.ceil() as usize * 2 + 1).min(src))?;
        for place in window {
            let centre = (place as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(src);
            exact.clear();
            exact.extend((first..end).map(|i| interpolation.weight((i as f64 - centre + 0.5) * shrink)));
            let total: f64 = exact.iter().sum();
            taps.first.push(first as u32);
            taps.weights.extend(exact.iter().map(|&weight| {
                let weight = if total == 0.0 { weight } else { weight / total };
                (weight * f64::from(1 << BITS) + 0.5f64.copysign(weight)) as i32
            }));
            taps.end.push(taps.weights.len() as u32);
        }
        Ok(taps)
    }

    /// Number of results.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// True for no results.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// The source pixels that any result reads.
    pub fn span(&self) -> Range<usize> {
        let Some(&first) = self.first.first() else { return 0..0 };
        let last = self.len() - 1;
        first as usize..self.first[last] as usize + self.weights(last).len()
    }

    /// First source pixel of a result.
    #[inline(always)]
    pub(super) fn first(&self, place: usize) -> usize {
        self.first[place] as usize
    }

    /// Weights of a result.
    #[inline(always)]
    pub(super) fn weights(&self, place: usize) -> &[i32] {
        let start = if place == 0 { 0 } else { self.end[place - 1] as usize };
        &self.weights[start..self.end[place] as usize]
    }

    /// Most weights of a result.
    pub(super) fn most(&self) -> usize {
        (0..self.len()).map(|place| self.weights(place).len()).max().unwrap_or(0)
    }
}

/// An empty vector with room for `count`, or a memory error that names the bytes.
fn vec<T>(count: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(count).map_err(|_| Error::Memory(count as u128 * size_of::<T>() as u128))?;
    Ok(vec)
}
