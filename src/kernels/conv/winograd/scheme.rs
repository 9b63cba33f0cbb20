//! The schemes: what a tile reads, takes and gives along each axis.

/// Which transforms there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// F(4×4, 3×3).
    F4,
    /// F(2×2, 3×3).
    F2,
    /// F(2×2, 5×5).
    F2K5,
    /// F(3×3, 4×4).
    F3K4,
    /// 2×2 results of a kernel of 3×3 with stride 2. Even source values meet the outer two taps, F(2, 2) along an axis; odd
    /// ones meet the middle tap.
    Strided,
    /// The data gradient of that: 4×4 results of 3×3 gradients.
    StridedBack,
}

/// The same with its numbers along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    pub kind: Kind,
    /// For names of kernels and formats.
    pub name: &'static str,
    /// Taps of the kernel.
    pub kernel: usize,
    /// Source values of a tile.
    pub side: usize,
    /// Source values from one tile to the next.
    pub step: usize,
    /// Products of a tile.
    pub products: usize,
    /// Transformed weights.
    pub weights: usize,
    /// Results of a tile.
    pub out: usize,
    /// Products that are summed in registers before the sum is put aside: short runs make up for the error that the
    /// transforms add. With runs of 8 for 5×5 AlexNet's gradients keep to their bound on every level.
    pub run: usize,
}

impl Scheme {
    pub const F4: Self =
        Self { kind: Kind::F4, name: "f4", kernel: 3, side: 6, step: 4, products: 6, weights: 6, out: 4, run: 32 };
    pub const F2: Self =
        Self { kind: Kind::F2, name: "f2", kernel: 3, side: 4, step: 2, products: 4, weights: 4, out: 2, run: 64 };
    pub const F2K5: Self =
        Self { kind: Kind::F2K5, name: "f2k5", kernel: 5, side: 6, step: 2, products: 6, weights: 6, out: 2, run: 8 };
    pub const F3K4: Self =
        Self { kind: Kind::F3K4, name: "f3k4", kernel: 4, side: 6, step: 3, products: 6, weights: 6, out: 3, run: 32 };
    pub const STRIDED: Self = Self {
        kind: Kind::Strided,
        name: "f2s2",
        kernel: 3,
        side: 5,
        step: 4,
        products: 5,
        weights: 4,
        out: 2,
        run: 64,
    };
    pub const STRIDED_BACK: Self = Self { kind: Kind::StridedBack, side: 3, step: 2, out: 4, ..Self::STRIDED };

    /// Whether the kernel goes by two pixels.
    pub fn strided(&self) -> bool {
        matches!(self.kind, Kind::Strided | Kind::StridedBack)
    }

    /// The first source value of the tile whose first result is `result`.
    #[inline]
    pub fn source_of(&self, result: usize) -> usize {
        match self.kind {
            Kind::Strided => 2 * result,
            Kind::StridedBack => result / 2,
            _ => result,
        }
    }

    /// Which of the transformed weights a position takes: with stride 2 the last two along an axis share the middle tap.
    #[inline]
    pub fn weight_of(&self, position: usize) -> usize {
        const SHARED: [usize; 25] =
            [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 11, 12, 13, 14, 15, 15, 12, 13, 14, 15, 15];
        if self.strided() { SHARED[position] } else { position }
    }

    /// The positions that take a transformed weight.
    pub fn positions_of(&self, weight: usize) -> impl Iterator<Item = usize> {
        let (products, weights) = (self.products, self.weights);
        let along = move |weight: usize| weight..if weight + 1 < weights { weight + 1 } else { products };
        along(weight / weights).flat_map(move |y| along(weight % weights).map(move |x| y * products + x))
    }
}
