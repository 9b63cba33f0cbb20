//! Random numbers many at a time: Philox4x32-10 with a block per lane, and the laws made of its words.
//!
//! What is drawn is the same bits on every level: no product is fused with a sum here, and whatever else is used is
//! exact or correctly rounded.

use crate::random::{KEY_STEPS, MULTIPLIERS, ROUNDS};
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Blocks that are drawn side by side.
const BLOCKS: usize = 16;
/// Draws made of them.
pub const DRAWS: usize = 4 * BLOCKS;

/// Seed, and the words of the counter behind the first.
pub type Key = ([u32; 2], [u32; 3]);

/// What the numbers of a stream become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Law {
    /// `u · width + low` of a uniform number on [0, 1), rounded twice.
    Uniform {
        /// The least number.
        low: f32,
        /// What all numbers lie within, from there.
        width: f32,
    },
    /// `z · std + mean` of a standard normal number, rounded twice; Box and Muller: numbers 2k and 2k + 1 are the two
    /// coordinates of the point whose radius comes from word 2k and whose angle from word 2k + 1.
    Normal {
        /// The mean.
        mean: f32,
        /// The standard deviation.
        std: f32,
    },
}

/// Uniform numbers in [0, 1), on a grid of 2⁻²⁴, of the words of blocks `block ..`: those of the same place in a block
/// side by side.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn fractions<S: Simd>(block: usize, (seed, rest): Key) -> [[f32; BLOCKS]; 4] {
    let first: [u32; BLOCKS] = std::array::from_fn(|i| (block + i) as u32);
    let mut words = [[0.0f32; BLOCKS]; 4];
    // SAFETY: every access lies within the arrays, of whole vectors; the rest is the caller's word.
    unsafe {
        let pattern = |word: u32| S::splat_i32(word as i32);
        for i in (0..BLOCKS).step_by(S::LANES) {
            let mut c = [S::load(first.as_ptr().add(i).cast()), pattern(rest[0]), pattern(rest[1]), pattern(rest[2])];
            let mut key = seed;
            for round in 0..ROUNDS {
                if round > 0 {
                    key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
                }
                let left = S::multiply(c[0], pattern(MULTIPLIERS[0]));
                let right = S::multiply(c[2], pattern(MULTIPLIERS[1]));
                c = [
                    S::xor(S::xor(right.1, c[1]), pattern(key[0])),
                    right.0,
                    S::xor(S::xor(left.1, c[3]), pattern(key[1])),
                    left.0,
                ];
            }
            for (word, c) in words.iter_mut().zip(c) {
                S::store(word.as_mut_ptr().add(i), S::fraction(c));
            }
        }
    }
    words
}

/// The numbers of blocks side by side, in the order of the stream.
#[inline(always)]
fn in_order(words: &[[f32; BLOCKS]; 4]) -> [f32; DRAWS] {
    let mut draws = [0.0; DRAWS];
    for i in 0..BLOCKS {
        for j in 0..4 {
            draws[4 * i + j] = words[j][i];
        }
    }
    draws
}

/// Uniform numbers in [0, 1), on a grid of 2⁻²⁴, of units `4 · block ..`.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
pub unsafe fn uniform<S: Simd>(block: usize, key: Key) -> [f32; DRAWS] {
    // SAFETY: the caller's word.
    in_order(&unsafe { fractions::<S>(block, key) })
}

/// A polynomial, highest power first, without fused operations.
#[inline(always)]
unsafe fn polynomial<S: Simd>(x: S::V, coefficients: &[f32]) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        coefficients[1..]
            .iter()
            .fold(S::splat(coefficients[0]), |sum, &coefficient| S::add(S::mul(sum, x), S::splat(coefficient)))
    }
}

/// `−2·ln x` for normal `x` in (0, 1] (fdlibm `logf`, nothing fused).
#[inline(always)]
unsafe fn minus_twice_log<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let one = S::splat(1.0);
        let (m, e) = S::split(x);
        let high = S::gt(m, S::splat(std::f32::consts::SQRT_2));
        let f = S::sub(S::select(high, S::mul(m, S::splat(0.5)), m), one);
        let k = S::add(e, S::select(high, one, S::splat(0.0)));
        let s = S::div(f, S::add(S::splat(2.0), f));
        let z = S::mul(s, s);
        let r = S::mul(z, polynomial::<S>(z, &[2.427_907_9e-1, 2.849_878_7e-1, 4.000_097_2e-1, 6.666_666e-1]));
        let half_square = S::mul(S::splat(0.5), S::mul(f, f));
        let low = S::add(S::mul(k, S::splat(9.058_001e-6)), S::mul(s, S::add(half_square, r)));
        let log = S::sub(S::mul(k, S::splat(6.931_381e-1)), S::sub(S::sub(half_square, low), f));
        S::mul(S::splat(-2.0), log)
    }
}

/// Cosine and sine of `turn` whole turns, in [0, 1] (Cephes `sinf`, `cosf` on an eighth of a turn to both sides).
#[inline(always)]
unsafe fn cos_sin<S: Simd>(turn: S::V) -> (S::V, S::V) {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        let quarters = S::mul(S::splat(4.0), turn);
        let quarter = S::round(quarters);
        let x = S::mul(S::splat(std::f32::consts::FRAC_PI_2), S::sub(quarters, quarter));
        let z = S::mul(x, x);
        let odd = polynomial::<S>(z, &[-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1]);
        let even = polynomial::<S>(z, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2, -0.5, 1.0]);
        let (sin, cos) = (S::add(x, S::mul(x, S::mul(z, odd))), even);
        let minus = |v| S::sub(S::splat(0.0), v);
        let at = |number: f32| S::eq(quarter, S::splat(number));
        let turned =
            |zero, one, two, three| S::select(at(1.0), one, S::select(at(2.0), two, S::select(at(3.0), three, zero)));
        (turned(cos, minus(sin), minus(cos), sin), turned(sin, cos, minus(sin), minus(cos)))
    }
}

/// # Safety
/// `n` floats at `dst`, the first of which is number `4 · block` of the stream.
#[inline(always)]
unsafe fn fill_body<S: Simd>(dst: *mut f32, n: usize, block: usize, key: Key, law: Law) {
    // SAFETY: every access lies within `n` floats or within arrays of whole vectors.
    unsafe {
        for start in (0..n).step_by(DRAWS) {
            let mut words = fractions::<S>(block + start / 4, key);
            let (factor, offset) = match law {
                Law::Uniform { low, width } => (width, low),
                Law::Normal { mean, std } => (std, mean),
            };
            let (factor, offset) = (S::splat(factor), S::splat(offset));
            for i in (0..BLOCKS).step_by(S::LANES) {
                for pair in [0, 2] {
                    let (first, second) = (words[pair].as_mut_ptr().add(i), words[pair + 1].as_mut_ptr().add(i));
                    let (mut a, mut b) = (S::load(first), S::load(second));
                    if matches!(law, Law::Normal { .. }) {
                        let radius = S::sqrt(minus_twice_log::<S>(S::sub(S::splat(1.0), a)));
                        let (cos, sin) = cos_sin::<S>(b);
                        (a, b) = (S::mul(radius, cos), S::mul(radius, sin));
                    }
                    S::store(first, S::add(S::mul(a, factor), offset));
                    S::store(second, S::add(S::mul(b, factor), offset));
                }
            }
            let draws = in_order(&words);
            std::ptr::copy_nonoverlapping(draws.as_ptr(), dst.add(start), DRAWS.min(n - start));
        }
    }
}

multiversion! { fn fill_level(dst: *mut f32, n: usize, block: usize, key: Key, law: Law) = fill_body; }

/// Writes numbers `first ..` of a stream; `first` is a multiple of [`DRAWS`].
///
/// # Panics
/// The numbers lie on both sides of a multiple of 2³⁴, where the second word of the counter changes.
pub fn fill(isa: Isa, dst: &mut [f32], first: usize, seed: u64, stream: u64, law: Law) {
    let high = (first as u64) >> 34;
    assert!(
        isa <= Isa::detect()
            && first.is_multiple_of(DRAWS)
            && ((first + dst.len()) as u64).div_ceil(1 << 34) <= high + 1
    );
    let key = ([seed as u32, (seed >> 32) as u32], [high as u32, stream as u32, (stream >> 32) as u32]);
    // SAFETY: the slice's own length, and a level that the CPU has.
    unsafe { fill_level(isa, dst.as_mut_ptr(), dst.len(), first / 4, key, law) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn every_level_draws_the_words_of_the_stream() {
        for isa in Isa::available() {
            for (first, n) in [(0, 1), (64, 0), (64, 130), (128, 5), ((1 << 20) - 64, 200)] {
                let mut found = vec![f32::NAN; n];
                fill(isa, &mut found, first, 7 << 40 | 3, 9 << 33 | 1, Law::Uniform { low: -1.5, width: 3.0 });
                let mut stream = Stream::new(7 << 40 | 3, 9 << 33 | 1);
                (0..first).for_each(|_| _ = stream.word());
                assert!(
                    found.iter().all(|&x| x.to_bits() == (stream.uniform() * 3.0 - 1.5).to_bits()),
                    "{isa:?} {first} {n}"
                );
            }
        }
    }

    #[test]
    fn normal_numbers_are_those_of_box_and_muller_on_every_level() {
        let n = 100_000;
        let draw = |isa| {
            let mut found = vec![f32::NAN; n];
            fill(isa, &mut found, 0, 5, 6, Law::Normal { mean: 0.0, std: 1.0 });
            found
        };
        let found = draw(Isa::Portable);
        let mut stream = Stream::new(5, 6);
        for pair in found.chunks_exact(2) {
            let (u, v) = (f64::from(stream.uniform()), f64::from(stream.uniform()));
            let (radius, angle) = ((-2.0 * (1.0 - u).ln()).sqrt(), std::f64::consts::TAU * v);
            for (x, expected) in pair.iter().zip([radius * angle.cos(), radius * angle.sin()]) {
                assert!((f64::from(*x) - expected).abs() <= 1e-6 * radius, "{x} {expected}");
            }
        }
        for isa in Isa::available() {
            assert!(draw(isa).iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()), "{isa:?}");
        }
    }
}
