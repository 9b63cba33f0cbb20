//! Sums into results.

use super::transform::{IN, Result, SMALL, Transform, square};
use crate::kernels::conv::epilogue::{Finish, mode};
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
    /// Sums and results along each axis of a tile.
    pub side: usize,
    pub out: usize,
}

/// # Safety
/// `sums` is a tile's place in positions of whole vectors; `size` pixels from `dst` on are writable for the channels.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn results_body<S: Simd, const MODE: u8, const SIDE: usize, const OUT: usize>(
    sums: *const f32,
    dst: *mut f32,
    size: [usize; 2],
    write: &Write,
) where
    Result: Transform<SIDE, OUT>,
{
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
            let values = square::<S, Result, SIDE, OUT>(values);
            for y in 0..OUT {
                for x in 0..OUT {
                    if y >= size[0] || x >= size[1] {
                        continue;
                    }
                    let value = S::add(values[y][x], channel.bias);
                    let at = dst.wrapping_add(y * write.pitch[0] + x * write.pitch[1] + c);
                    if lanes == S::LANES {
                        S::store(at, write.finish.finish::<S, true, MODE>(value, &channel, at, lanes));
                    } else {
                        S::store_partial(at, write.finish.finish::<S, false, MODE>(value, &channel, at, lanes), lanes);
                    }
                }
            }
        }
    }
}

/// Transforms the sums of a tile into results.
///
/// # Safety
/// As for [`results_body`]; the CPU has `isa`.
pub unsafe fn results_of(isa: Isa, sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) {
    macro_rules! run {
        ($mode:ident, $side:ident, $out:literal) => {{
            multiversion! {
                fn run(sums: *const f32, dst: *mut f32, size: [usize; 2], write: &Write) = results_body, [{ mode::$mode }, $side, $out];
            }
            // SAFETY: the caller's word.
            unsafe { run(isa, sums, dst, size, write) }
        }};
    }
    macro_rules! by_mode {
        ($side:ident, $out:literal) => {
            match write.finish.mode() {
                mode::PLAIN => run!(PLAIN, $side, $out),
                mode::NORM => run!(NORM, $side, $out),
                _ => run!(ADD, $side, $out),
            }
        };
    }
    match (write.side, write.out) {
        (SMALL, _) => by_mode!(SMALL, 2),
        (_, 4) => by_mode!(IN, 4),
        _ => by_mode!(IN, 2),
    }
}
