//! What follows the sums of a line of results whose pixels have few channels: vectors run over pixels and channels, and
//! numbers per channel are repeated along the line.

use super::Epilogue;
use super::epilogue::{Finish, mode};
use crate::multiversion;
use crate::simd::{Isa, Simd};

/// Numbers per channel along a line: bias, mean, scale and offset.
pub const NUMBERS: usize = 4;

/// What the lines of a task have in common.
#[derive(Debug, Clone, Copy)]
pub struct Ending {
    isa: Isa,
    finish: Finish,
    bias: bool,
    numbers: *const f32,
    /// Floats of a line.
    len: usize,
    /// Floats from one line of numbers to the next.
    pitch: usize,
}

impl Ending {
    /// Floats of scratch for lines of `len` floats.
    pub fn scratch(len: usize, isa: Isa) -> usize {
        NUMBERS * Self::pitch(len, isa)
    }

    fn pitch(len: usize, isa: Isa) -> usize {
        len.next_multiple_of(isa.lanes())
    }

    /// Repeats the numbers of `channels` channels along a line of `len` floats.
    ///
    /// # Safety
    /// The epilogue's operands hold their channels; `scratch` has room as said and is not used otherwise.
    pub unsafe fn new(
        isa: Isa,
        epilogue: Epilogue,
        finish: Finish,
        channels: usize,
        len: usize,
        scratch: *mut f32,
    ) -> Self {
        let pitch = Self::pitch(len, isa);
        let ending = Self { isa, finish, bias: epilogue.bias, numbers: scratch, len, pitch };
        // SAFETY: the caller's word; `len` is whole pixels.
        unsafe {
            std::ptr::write_bytes(scratch, 0, Self::scratch(len, isa));
            let [weight, offset, mean, rstd] = finish.norm;
            for channel in 0..channels {
                let of = |numbers: *const f32| numbers.add(channel).read();
                let mut numbers = [0.0; NUMBERS];
                if epilogue.bias {
                    numbers[0] = of(finish.bias);
                }
                if epilogue.norm {
                    numbers[1..].copy_from_slice(&[of(mean), of(weight) * of(rstd), of(offset)]);
                }
                for (line, number) in numbers.into_iter().enumerate().take(if epilogue.norm { NUMBERS } else { 1 }) {
                    for at in (channel..len).step_by(channels) {
                        *scratch.add(line * pitch + at) = number;
                    }
                }
            }
        }
        ending
    }

    /// Writes a line of results from their sums. If `over`, a vector may be written behind the line's end.
    ///
    /// # Safety
    /// The sums are readable for whole vectors; `result` is a line of the results and writable, for a vector more if
    /// `over`; what is added is not in the same memory.
    pub unsafe fn write(&self, sums: *const f32, result: *mut f32, over: bool) {
        let call = Call { ending: self, sums, result, over };
        // SAFETY: the caller's word.
        unsafe {
            match self.finish.mode() {
                mode::PLAIN => plain(self.isa, &call),
                mode::NORM => norm(self.isa, &call),
                _ => add(self.isa, &call),
            }
        }
    }
}

struct Call<'a> {
    ending: &'a Ending,
    sums: *const f32,
    result: *mut f32,
    over: bool,
}

/// # Safety
/// As [`Ending::write`]; `MODE` is the epilogue's.
#[inline(always)]
unsafe fn body<S: Simd, const MODE: u8>(call: &Call<'_>) {
    let Ending { ref finish, bias, numbers, len, pitch, .. } = *call.ending;
    // SAFETY: the caller's word.
    unsafe {
        let floor = S::splat(if finish.relu { 0.0 } else { f32::NEG_INFINITY });
        for at in (0..len).step_by(S::LANES) {
            let lanes = S::LANES.min(len - at);
            let number = |line: usize| numbers.wrapping_add(line * pitch + at);
            let to = call.result.wrapping_add(at);
            let mut value = S::load(call.sums.wrapping_add(at));
            if bias {
                value = S::add(value, S::load(number(0)));
            }
            if MODE != mode::PLAIN && !finish.norm[0].is_null() {
                value = S::fma(S::sub(value, S::load(number(1))), S::load(number(2)), S::load(number(3)));
            }
            if MODE == mode::ADD {
                value = S::add(value, S::load_partial(finish.beside(to), lanes));
            }
            let value = S::max(floor, value);
            if call.over || lanes == S::LANES {
                S::store(to, value);
            } else {
                S::store_partial(to, value, lanes);
            }
        }
    }
}

multiversion! { fn plain(call: &Call<'_>) = body, [{ mode::PLAIN }]; }
multiversion! { fn norm(call: &Call<'_>) = body, [{ mode::NORM }]; }
multiversion! { fn add(call: &Call<'_>) = body, [{ mode::ADD }]; }
