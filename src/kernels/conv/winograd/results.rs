//! Sums into results.

use super::Kind;
use super::transform::{IN, Result, SMALL, STRIDED, Transform, square};
use crate::kernels::conv::epilogue::{Finish, PerChannel, mode};
use crate::kernels::conv::moments::Tiles;
use crate::kernels::norm::Sums;
use crate::kernels::pool::largest;
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// What the results of a block and a panel have in common.
pub struct Write {
    /// Floats from one position of the sums to the next.
    pub plane: usize,
    /// What follows the sums, from the panel's first channel on.
    pub finish: Finish,
    /// Floats from one result row and pixel to the next.
    pub pitch: [usize; 2],
    pub channels: usize,
    /// Which transform makes results of sums.
    pub kind: Kind,
    /// Whether the largest of 2×2 results is written for them: pitches are those of what is written.
    pub pool: bool,
    /// Whether results are written past the caches.
    pub streams: bool,
}

/// What follows a sum.
///
/// # Safety
/// As [`results_body`].
#[inline(always)]
unsafe fn finished<S: Simd, const MODE: u8>(
    write: &Write,
    sum: S::V,
    channel: &PerChannel<S::V>,
    at: *mut f32,
    lanes: usize,
) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let value = S::add(sum, channel.bias);
        if lanes == S::LANES {
            write.finish.finish::<S, true, MODE>(value, channel, at, lanes)
        } else {
            write.finish.finish::<S, false, MODE>(value, channel, at, lanes)
        }
    }
}

/// # Safety
/// `sums` is a tile's place in positions of whole vectors; `size` pixels from `dst` on, or half as many along each axis if
/// `POOL`, are writable for the channels.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn results_body<
    S: Simd,
    const MODE: u8,
    const SIDE: usize,
    const OUT: usize,
    const POOL: bool,
    const MOMENTS: bool,
>(
    sums: *const f32,
    dst: *mut f32,
    size: [usize; 2],
    write: &Write,
    moments: Option<(&mut Sums, bool)>,
) where
    Result: Transform<SIDE, OUT>,
{
    let mut moments = moments;
    // SAFETY: the caller's word.
    unsafe {
        for c in (0..write.channels).step_by(S::LANES) {
            let lanes = S::LANES.min(write.channels - c);
            let zero = S::splat(0.0);
            let channel = write.finish.per_channel::<S, false, MODE>(c, lanes);
            let mut values = [[zero; SIDE]; SIDE];
            for y in 0..SIDE {
                for x in 0..SIDE {
                    values[y][x] = S::load(sums.wrapping_add((y * SIDE + x) * write.plane + c));
                }
            }
            let mut values = square::<S, Result, SIDE, OUT>(values);
            let step = if POOL { 2 } else { 1 };
            for y in (0..OUT).step_by(step) {
                for x in (0..OUT).step_by(step) {
                    if y >= size[0] || x >= size[1] {
                        continue;
                    }
                    let at = dst.wrapping_add(y / step * write.pitch[0] + x / step * write.pitch[1] + c);
                    let mut result = finished::<S, MODE>(write, values[y][x], &channel, at, lanes);
                    if POOL {
                        let mut window = [result, values[y][x + 1], values[y + 1][x], values[y + 1][x + 1]];
                        for i in 1..4 {
                            window[i] = finished::<S, MODE>(write, window[i], &channel, at, lanes);
                        }
                        result = largest::<S, 4>(window);
                    }
                    if lanes == S::LANES && write.streams {
                        S::store_streaming(at, result);
                    } else if lanes == S::LANES {
                        S::store(at, result);
                    } else {
                        S::store_partial(at, result, lanes);
                    }
                    if MOMENTS {
                        values[y][x] = result;
                    }
                }
            }
            if MOMENTS && let Some((sums, first)) = &mut moments {
                add_to_sums::<S, OUT>(&values, size, sums, c, *first);
            }
        }
    }
}

/// Adds the results of a tile to the sums of the vector of channels from `c` on; the `first` tile makes their pivot, its
/// own mean, by differences, so that equal numbers have a spread of exactly zero.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // as above
unsafe fn add_to_sums<S: Simd, const OUT: usize>(
    values: &[[S::V; OUT]; OUT],
    size: [usize; 2],
    to: &mut Sums,
    c: usize,
    first: bool,
) {
    debug_assert!(c + S::LANES <= to.pivot.len());
    // SAFETY: a vector of channels lies within the sums.
    unsafe {
        let zero = S::splat(0.0);
        let [pivot_at, sums_at, squares_at] =
            [to.pivot.as_mut_ptr().add(c), to.s1.as_mut_ptr().add(c), to.s2.as_mut_ptr().add(c)];
        let pivot = if first {
            let mut sum = zero;
            for y in 0..OUT.min(size[0]) {
                for x in 0..OUT.min(size[1]) {
                    sum = S::add(sum, S::sub(values[y][x], values[0][0]));
                }
            }
            let pivot = S::fma(sum, S::splat(1.0 / (size[0] * size[1]) as f32), values[0][0]);
            S::store(pivot_at, pivot);
            pivot
        } else {
            S::load(pivot_at)
        };
        // Sums of their own for every other column: additions need not wait for each other.
        let (mut sums, mut squares) = ([S::load(sums_at), zero], [S::load(squares_at), zero]);
        for y in 0..OUT {
            for x in 0..OUT {
                if y < size[0] && x < size[1] {
                    let d = S::sub(values[y][x], pivot);
                    sums[x % 2] = S::add(sums[x % 2], d);
                    squares[x % 2] = S::fma(d, d, squares[x % 2]);
                }
            }
        }
        S::store(sums_at, S::add(sums[0], sums[1]));
        S::store(squares_at, S::add(squares[0], squares[1]));
    }
}

/// Transforms the sums of a tile into results, and adds these to `moments`.
///
/// # Safety
/// As for [`results_body`]; the CPU has `isa`; the statistics belong to this task, and nothing but bias and relu is behind
/// the sums of results that have some.
pub unsafe fn results_of(
    isa: Isa,
    sums: *const f32,
    dst: *mut f32,
    size: [usize; 2],
    write: &Write,
    moments: Option<&mut Tiles>,
) {
    macro_rules! run {
        ($mode:ident, $side:ident, $out:literal, $pool:literal) => {
            run!($mode, $side, $out, $pool, false, None)
        };
        ($mode:ident, $side:ident, $out:literal, $pool:literal, $moments:literal, $to:expr) => {{
            multiversion! {
                fn run(
                    sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write, to: Option<(&mut Sums, bool)>,
                ) = results_body, [{ mode::$mode }, $side, $out, $pool, $moments];
            }
            // SAFETY: the caller's word.
            unsafe { run(isa, sums, dst, size, write, $to) }
        }};
    }
    if let Some(tiles) = moments {
        let pixels = size[0] * size[1];
        debug_assert!(write.finish.mode() == mode::PLAIN && !write.pool);
        // SAFETY: the caller's word.
        unsafe { tiles.open(pixels) };
        let first = tiles.is_first();
        let to = Some((&mut tiles.sums, first));
        match write.kind {
            Kind::F4 => run!(PLAIN, IN, 4, false, true, to),
            Kind::F2 => run!(PLAIN, SMALL, 2, false, true, to),
            Kind::F2K5 => run!(PLAIN, IN, 2, false, true, to),
            Kind::F3K4 => run!(PLAIN, IN, 3, false, true, to),
            Kind::Strided => run!(PLAIN, STRIDED, 2, false, true, to),
            Kind::StridedBack => run!(PLAIN, STRIDED, 4, false, true, to),
        }
        tiles.count(pixels);
        return;
    }
    macro_rules! by_mode {
        ($side:ident, $out:literal) => {
            match write.finish.mode() {
                mode::PLAIN => run!(PLAIN, $side, $out, false),
                mode::NORM => run!(NORM, $side, $out, false),
                _ => run!(ADD, $side, $out, false),
            }
        };
    }
    match write.kind {
        Kind::F4 if write.pool && write.finish.mode() == mode::PLAIN => run!(PLAIN, IN, 4, true),
        Kind::F4 if write.pool => run!(NORM, IN, 4, true),
        Kind::F4 => by_mode!(IN, 4),
        Kind::F2 => by_mode!(SMALL, 2),
        Kind::F2K5 => by_mode!(IN, 2),
        Kind::F3K4 => by_mode!(IN, 3),
        Kind::Strided => by_mode!(STRIDED, 2),
        Kind::StridedBack => by_mode!(STRIDED, 4),
    }
}
