//! The transforms of F(4×4, 3×3), F(3×3, 4×4) and F(2×2, 5×5) with the points 0, ±√½, ±√2, ∞, of F(2×2, 3×3) with the
//! points 0, ±1, ∞, and of 3×3 with stride 2 with the points 0, 1, ∞, along one axis, on vectors of channels.
//!
//! With `y = Aᵀ((G g) ⊙ (Bᵀ d))` the results of a row of six source values come from six products: four results of three
//! weights, three of four, or two of five. `Bᵀ` is the same for all. The small scheme has four products for two results of three weights.
//! These points keep all factors near one, which is what keeps the error close to that of direct summation (Barabasz,
//! Anderson, Soodhalter and Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep neural
//! networks", 2020).
//!
//! With stride 2 a result takes the outer two weights times even source values and the middle one times an odd value: F(2,
//! 2), three products for two results, and one product for each (Yepez and Ko, "Stride 2 1-D, 2-D, and 3-D Winograd for
//! convolutional neural networks", 2020). Nothing is multiplied but by one, and the error is that of direct summation.

use crate::simd::Simd;

/// Products along one axis of a tile, of one with stride 2, and of a small one.
pub const IN: usize = 6;
pub const STRIDED: usize = 5;
pub const SMALL: usize = 4;

const ROOT: f32 = std::f32::consts::SQRT_2;
const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// A transform along one axis.
pub trait Transform<const FROM: usize, const TO: usize> {
    /// # Safety
    /// The CPU has the level of `S`.
    unsafe fn apply<S: Simd>(d: [S::V; FROM]) -> [S::V; TO];
}

/// `Bᵀ`, of source values.
pub struct Source;
/// `Aᵀ`, of products to results.
pub struct Result;
/// `A`, the transpose of [`Result`]: of gradients by results.
pub struct ResultTransposed;
/// `G`, of weights.
pub struct Weights;
/// `G` with stride 2: the last of the four is the weight of the last two products.
pub struct WeightsStrided;
/// `Gᵀ`, the transpose of [`Weights`]: to gradients by weights.
pub struct WeightsTransposed;

/// Sums and differences of the products at opposite points.
///
/// # Safety
/// As [`Transform::apply`].
#[inline(always)]
unsafe fn pairs<S: Simd>(m: [S::V; IN]) -> [S::V; 4] {
    // SAFETY: the caller's word.
    unsafe { [S::add(m[1], m[2]), S::sub(m[1], m[2]), S::add(m[3], m[4]), S::sub(m[3], m[4])] }
}

impl Transform<IN, IN> for Source {
    #[inline(always)]
    unsafe fn apply<S: Simd>(d: [S::V; IN]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let (two, half, more) = (S::splat(-2.0), S::splat(-0.5), S::splat(-2.5));
            let a = S::fma(two, d[2], d[4]);
            let b = S::mul(S::splat(HALF_ROOT), S::fma(two, d[1], d[3]));
            let c = S::fma(half, d[2], d[4]);
            let e = S::mul(S::splat(ROOT), S::fma(half, d[1], d[3]));
            [
                S::fma(more, d[2], S::add(d[0], d[4])),
                S::add(a, b),
                S::sub(a, b),
                S::add(c, e),
                S::sub(c, e),
                S::fma(more, d[3], S::add(d[1], d[5])),
            ]
        }
    }
}

impl Transform<SMALL, SMALL> for Source {
    #[inline(always)]
    unsafe fn apply<S: Simd>(d: [S::V; SMALL]) -> [S::V; SMALL] {
        // SAFETY: the caller's word.
        unsafe { [S::sub(d[0], d[2]), S::add(d[1], d[2]), S::sub(d[2], d[1]), S::sub(d[3], d[1])] }
    }
}

impl Transform<STRIDED, STRIDED> for Source {
    #[inline(always)]
    unsafe fn apply<S: Simd>(d: [S::V; STRIDED]) -> [S::V; STRIDED] {
        // SAFETY: the caller's word.
        unsafe { [S::sub(d[0], d[2]), d[2], S::sub(d[4], d[2]), d[1], d[3]] }
    }
}

impl Transform<3, STRIDED> for Source {
    #[inline(always)]
    unsafe fn apply<S: Simd>(d: [S::V; 3]) -> [S::V; STRIDED] {
        // SAFETY: the caller's word.
        unsafe { [S::sub(d[0], d[1]), d[1], S::sub(d[2], d[1]), d[0], d[1]] }
    }
}

impl Transform<IN, 4> for Result {
    #[inline(always)]
    unsafe fn apply<S: Simd>(m: [S::V; IN]) -> [S::V; 4] {
        // SAFETY: the caller's word.
        unsafe {
            let [sum1, diff1, sum2, diff2] = pairs::<S>(m);
            [
                S::add(m[0], S::add(sum1, sum2)),
                S::mul(S::splat(HALF_ROOT), S::fma(S::splat(2.0), diff2, diff1)),
                S::mul(S::splat(0.5), S::fma(S::splat(4.0), sum2, sum1)),
                S::fma(S::splat(ROOT / 4.0), S::fma(S::splat(8.0), diff2, diff1), m[5]),
            ]
        }
    }
}

impl Transform<IN, 2> for Result {
    #[inline(always)]
    unsafe fn apply<S: Simd>(m: [S::V; IN]) -> [S::V; 2] {
        // SAFETY: the caller's word.
        unsafe {
            let [sum1, diff1, sum2, diff2] = pairs::<S>(m);
            [S::add(m[0], S::add(sum1, sum2)), S::fma(S::splat(HALF_ROOT), S::fma(S::splat(2.0), diff2, diff1), m[5])]
        }
    }
}

impl Transform<IN, 3> for Result {
    #[inline(always)]
    unsafe fn apply<S: Simd>(m: [S::V; IN]) -> [S::V; 3] {
        // SAFETY: the caller's word.
        unsafe {
            let [sum1, diff1, sum2, diff2] = pairs::<S>(m);
            [
                S::add(m[0], S::add(sum1, sum2)),
                S::mul(S::splat(HALF_ROOT), S::fma(S::splat(2.0), diff2, diff1)),
                S::fma(S::splat(0.5), S::fma(S::splat(4.0), sum2, sum1), m[5]),
            ]
        }
    }
}

impl Transform<SMALL, 2> for Result {
    #[inline(always)]
    unsafe fn apply<S: Simd>(m: [S::V; SMALL]) -> [S::V; 2] {
        // SAFETY: the caller's word.
        unsafe { [S::add(m[0], S::add(m[1], m[2])), S::add(S::sub(m[1], m[2]), m[3])] }
    }
}

impl Transform<STRIDED, 2> for Result {
    #[inline(always)]
    unsafe fn apply<S: Simd>(m: [S::V; STRIDED]) -> [S::V; 2] {
        // SAFETY: the caller's word.
        unsafe { [S::add(S::add(m[0], m[1]), m[3]), S::add(S::add(m[1], m[2]), m[4])] }
    }
}

impl Transform<STRIDED, 4> for Result {
    #[inline(always)]
    unsafe fn apply<S: Simd>(m: [S::V; STRIDED]) -> [S::V; 4] {
        // SAFETY: the caller's word.
        unsafe { [m[3], S::add(m[0], m[1]), m[4], S::add(m[1], m[2])] }
    }
}

impl Transform<4, IN> for ResultTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(y: [S::V; 4]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let even1 = S::fma(S::splat(0.5), y[2], y[0]);
            let odd1 = S::mul(S::splat(HALF_ROOT), S::fma(S::splat(0.5), y[3], y[1]));
            let even2 = S::fma(S::splat(2.0), y[2], y[0]);
            let odd2 = S::mul(S::splat(ROOT), S::fma(S::splat(2.0), y[3], y[1]));
            [y[0], S::add(even1, odd1), S::sub(even1, odd1), S::add(even2, odd2), S::sub(even2, odd2), y[3]]
        }
    }
}

impl Transform<2, IN> for ResultTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(y: [S::V; 2]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let (odd1, odd2) = (S::mul(S::splat(HALF_ROOT), y[1]), S::mul(S::splat(ROOT), y[1]));
            [y[0], S::add(y[0], odd1), S::sub(y[0], odd1), S::add(y[0], odd2), S::sub(y[0], odd2), y[1]]
        }
    }
}

impl Transform<3, IN> for ResultTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(y: [S::V; 3]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let (even1, odd1) = (S::fma(S::splat(0.5), y[2], y[0]), S::mul(S::splat(HALF_ROOT), y[1]));
            let (even2, odd2) = (S::fma(S::splat(2.0), y[2], y[0]), S::mul(S::splat(ROOT), y[1]));
            [y[0], S::add(even1, odd1), S::sub(even1, odd1), S::add(even2, odd2), S::sub(even2, odd2), y[2]]
        }
    }
}

impl Transform<2, STRIDED> for ResultTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(y: [S::V; 2]) -> [S::V; STRIDED] {
        // SAFETY: the caller's word.
        unsafe { [y[0], S::add(y[0], y[1]), y[1], y[0], y[1]] }
    }
}

impl Transform<3, IN> for Weights {
    #[inline(always)]
    unsafe fn apply<S: Simd>(g: [S::V; 3]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let third = S::splat(1.0 / 3.0);
            let even1 = S::mul(third, S::fma(S::splat(2.0), g[0], g[2]));
            let odd1 = S::mul(S::splat(ROOT / 3.0), g[1]);
            let even2 = S::mul(third, S::fma(S::splat(0.5), g[0], g[2]));
            let odd2 = S::mul(S::splat(ROOT / 6.0), g[1]);
            let minus = S::sub(S::splat(0.0), even1);
            [g[0], S::sub(minus, odd1), S::add(minus, odd1), S::add(even2, odd2), S::sub(even2, odd2), g[2]]
        }
    }
}

impl Transform<3, SMALL> for Weights {
    #[inline(always)]
    unsafe fn apply<S: Simd>(g: [S::V; 3]) -> [S::V; SMALL] {
        // SAFETY: the caller's word.
        unsafe {
            let half = S::splat(0.5);
            let (even, odd) = (S::mul(half, S::add(g[0], g[2])), S::mul(half, g[1]));
            [g[0], S::add(even, odd), S::sub(even, odd), g[2]]
        }
    }
}

impl Transform<3, 4> for WeightsStrided {
    #[inline(always)]
    unsafe fn apply<S: Simd>(g: [S::V; 3]) -> [S::V; 4] {
        // SAFETY: the caller's word.
        unsafe { [g[0], S::add(g[0], g[2]), g[2], g[1]] }
    }
}

impl Transform<4, IN> for Weights {
    #[inline(always)]
    unsafe fn apply<S: Simd>(g: [S::V; 4]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let (third, half, two) = (S::splat(1.0 / 3.0), S::splat(0.5), S::splat(2.0));
            let even1 = S::mul(third, S::fma(two, g[0], g[2]));
            let odd1 = S::mul(S::splat(ROOT / 3.0), S::fma(half, g[3], g[1]));
            let even2 = S::mul(third, S::fma(half, g[0], g[2]));
            let odd2 = S::mul(S::splat(ROOT / 6.0), S::fma(two, g[3], g[1]));
            let minus = S::sub(S::splat(0.0), even1);
            [g[0], S::sub(minus, odd1), S::add(minus, odd1), S::add(even2, odd2), S::sub(even2, odd2), g[3]]
        }
    }
}

impl Transform<5, IN> for Weights {
    #[inline(always)]
    unsafe fn apply<S: Simd>(g: [S::V; 5]) -> [S::V; IN] {
        // SAFETY: the caller's word.
        unsafe {
            let (half, two) = (S::splat(0.5), S::splat(2.0));
            let even1 = S::mul(S::splat(2.0 / 3.0), S::fma(half, S::fma(half, g[4], g[2]), g[0]));
            let odd1 = S::mul(S::splat(ROOT / 3.0), S::fma(half, g[3], g[1]));
            let even2 = S::mul(S::splat(1.0 / 6.0), S::fma(two, S::fma(two, g[4], g[2]), g[0]));
            let odd2 = S::mul(S::splat(ROOT / 6.0), S::fma(two, g[3], g[1]));
            let minus = S::sub(S::splat(0.0), even1);
            [g[0], S::sub(minus, odd1), S::add(minus, odd1), S::add(even2, odd2), S::sub(even2, odd2), g[4]]
        }
    }
}

impl Transform<IN, 3> for WeightsTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(u: [S::V; IN]) -> [S::V; 3] {
        // SAFETY: the caller's word.
        unsafe {
            let [sum1, diff1, sum2, diff2] = pairs::<S>([u[0], u[2], u[1], u[3], u[4], u[5]]);
            let third = S::splat(1.0 / 3.0);
            [
                S::fma(third, S::fma(S::splat(0.5), sum2, S::mul(S::splat(-2.0), sum1)), u[0]),
                S::mul(S::splat(ROOT / 6.0), S::fma(S::splat(2.0), diff1, diff2)),
                S::fma(third, S::sub(sum2, sum1), u[5]),
            ]
        }
    }
}

impl Transform<4, 3> for WeightsTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(u: [S::V; 4]) -> [S::V; 3] {
        // SAFETY: the caller's word.
        unsafe { [S::add(u[0], u[1]), u[3], S::add(u[1], u[2])] }
    }
}

impl Transform<IN, 4> for WeightsTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(u: [S::V; IN]) -> [S::V; 4] {
        // SAFETY: the caller's word.
        unsafe {
            let [sum1, diff1, sum2, diff2] = pairs::<S>([u[0], u[2], u[1], u[3], u[4], u[5]]);
            let (third, sixth) = (S::splat(1.0 / 3.0), S::splat(ROOT / 6.0));
            let (half, two) = (S::splat(0.5), S::splat(2.0));
            [
                S::fma(third, S::fma(half, sum2, S::mul(S::splat(-2.0), sum1)), u[0]),
                S::mul(sixth, S::fma(two, diff1, diff2)),
                S::mul(third, S::sub(sum2, sum1)),
                S::fma(sixth, S::fma(two, diff2, diff1), u[5]),
            ]
        }
    }
}

impl Transform<IN, 5> for WeightsTransposed {
    #[inline(always)]
    unsafe fn apply<S: Simd>(u: [S::V; IN]) -> [S::V; 5] {
        // SAFETY: the caller's word.
        unsafe {
            let [sum1, diff1, sum2, diff2] = pairs::<S>([u[0], u[2], u[1], u[3], u[4], u[5]]);
            let (third, sixth) = (S::splat(1.0 / 3.0), S::splat(ROOT / 6.0));
            let (half, two) = (S::splat(0.5), S::splat(2.0));
            [
                S::fma(third, S::fma(half, sum2, S::mul(S::splat(-2.0), sum1)), u[0]),
                S::mul(sixth, S::fma(two, diff1, diff2)),
                S::mul(third, S::sub(sum2, sum1)),
                S::mul(sixth, S::fma(two, diff2, diff1)),
                S::fma(third, S::fma(two, sum2, S::mul(S::splat(-0.5), sum1)), u[5]),
            ]
        }
    }
}

/// The transform along both axes of a square, rows first: `values[y][x]` to `[y][x]`.
///
/// # Safety
/// As [`Transform::apply`].
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
pub unsafe fn square<S: Simd, T: Transform<FROM, TO>, const FROM: usize, const TO: usize>(
    values: [[S::V; FROM]; FROM],
) -> [[S::V; TO]; TO] {
    // SAFETY: the caller's word.
    unsafe {
        let zero = S::splat(0.0);
        let mut half = [[zero; FROM]; TO];
        for x in 0..FROM {
            let mut column = [zero; FROM];
            for y in 0..FROM {
                column[y] = values[y][x];
            }
            let column = T::apply::<S>(column);
            for y in 0..TO {
                half[y][x] = column[y];
            }
        }
        let mut whole = [[zero; TO]; TO];
        for y in 0..TO {
            whole[y] = T::apply::<S>(half[y]);
        }
        whole
    }
}
