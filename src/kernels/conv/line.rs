//! What follows the sums of a line of results whose pixels have few channels: vectors run over pixels and channels, and
//! numbers per channel are repeated along the line.

use std::ops::Range;

use super::Epilogue;
use super::epilogue::{Finish, mode};
use crate::kernels::elementwise;
use crate::multiversion;
use crate::simd::{Isa, Simd};
use crate::tensor::Dst;

/// Numbers per channel along a line: bias, mean, scale and offset.
const NUMBERS: usize = 4;
/// Floats of results that are finished before an activation passes over them.
const ACTIVATED: usize = 1 << 11;

/// The lines of a task, from the first to the last.
#[derive(Debug)]
pub struct Ending<'a> {
    isa: Isa,
    epilogue: Epilogue,
    finish: Finish,
    dst: Dst<'a, f32>,
    /// Lines that are not written, and, up to these, those that no activation has passed over.
    rows: Range<usize>,
    waiting: usize,
    numbers: *const f32,
    /// Floats of a line.
    len: usize,
    /// Floats from one line of numbers to the next.
    pitch: usize,
}

impl<'a> Ending<'a> {
    /// Floats of scratch for lines of `len` floats.
    pub fn scratch(len: usize, isa: Isa) -> usize {
        NUMBERS * Self::pitch(len, isa)
    }

    fn pitch(len: usize, isa: Isa) -> usize {
        len.next_multiple_of(isa.lanes())
    }

    /// For lines `rows` of `dst`, of `len` floats of `channels` channels each.
    ///
    /// # Safety
    /// The epilogue's operands hold their channels; `scratch` has room as said and is not used otherwise; the lines
    /// belong to the running task, and what is added is not in their memory.
    pub unsafe fn new(
        isa: Isa,
        (epilogue, finish): (Epilogue, Finish),
        (dst, rows): (Dst<'a, f32>, Range<usize>),
        channels: usize,
        len: usize,
        scratch: *mut f32,
    ) -> Self {
        let pitch = Self::pitch(len, isa);
        let waiting = rows.start;
        let ending = Self { isa, epilogue, finish, dst, rows, waiting, numbers: scratch, len, pitch };
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

    /// Writes the next line of results from their sums; an activation follows after some lines, while they are in cache.
    ///
    /// # Safety
    /// The sums are readable for whole vectors; there is a next line.
    pub unsafe fn write(&mut self, sums: *const f32) {
        let row = self.rows.start;
        self.rows.start += 1;
        // What a vector writes behind the line is written once more, unless something of another's would be read there.
        let over = !self.epilogue.add && self.rows.len() * self.len >= self.isa.lanes();
        let call = Call { ending: self, sums, result: self.dst.at(row * self.len, self.len), over };
        // SAFETY: the caller's word and that of `new`.
        unsafe {
            match self.finish.mode() {
                mode::PLAIN => plain(self.isa, &call),
                mode::NORM => norm(self.isa, &call),
                _ => add(self.isa, &call),
            }
        }
        let count = (self.rows.start - self.waiting) * self.len;
        let Some(kind) = self.epilogue.later().filter(|_| count >= ACTIVATED || self.rows.is_empty()) else { return };
        let values = self.dst.at(self.waiting * self.len, count);
        // SAFETY: these lines are written and belong to this task.
        unsafe { elementwise::activate(self.isa, kind, values, values, count) };
        self.waiting = self.rows.start;
    }
}

struct Call<'a> {
    ending: &'a Ending<'a>,
    sums: *const f32,
    result: *mut f32,
    over: bool,
}

/// # Safety
/// As [`Ending::write`]; `MODE` is the epilogue's.
#[inline(always)]
unsafe fn body<S: Simd, const MODE: u8>(call: &Call<'_>) {
    let Ending { ref finish, epilogue, numbers, len, pitch, .. } = *call.ending;
    // SAFETY: the caller's word.
    unsafe {
        let floor = S::splat(if finish.relu { 0.0 } else { f32::NEG_INFINITY });
        for at in (0..len).step_by(S::LANES) {
            let lanes = S::LANES.min(len - at);
            let number = |line: usize| numbers.wrapping_add(line * pitch + at);
            let to = call.result.wrapping_add(at);
            let mut value = S::load(call.sums.wrapping_add(at));
            if epilogue.bias {
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
