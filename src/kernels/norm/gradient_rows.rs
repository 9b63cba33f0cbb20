//! Rows of gradients on their way through a gate into sums.

use super::SIDE;
use super::gate::{Gate, OPEN, RECOMPUTE, RESULT, pass};
use crate::kernels::elementwise::{load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion};

/// Where rows begin: `other` only if there is one, `result` only for a gate that reads it, `dst` only if it is written.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Rows {
    pub diff: *const f32,
    pub other: *const f32,
    pub src: *const f32,
    pub result: *const f32,
    pub dst: *mut f32,
}

impl Rows {
    /// All of them `count` elements further on.
    #[inline(always)]
    pub fn from(self, count: usize) -> Self {
        Self {
            diff: self.diff.wrapping_add(count),
            other: self.other.wrapping_add(count),
            src: self.src.wrapping_add(count),
            result: self.result.wrapping_add(count),
            dst: self.dst.wrapping_add(count),
        }
    }
}

/// Coefficients per column: `scale` and `bias` only for a gate that computes anew.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub centre: *const f32,
    pub scale: *const f32,
    pub bias: *const f32,
}

/// `grad` and `src − mean` of the first `lanes` numbers of a row from column `i` on; `grad` is written if `WRITE`.
///
/// # Safety
/// So many floats from there on in the rows and coefficients that are read.
#[inline(always)]
pub(super) unsafe fn terms<S: Simd, const GATE: u8, const WRITE: bool, const SUM: bool>(
    rows: Rows,
    at: usize,
    lanes: usize,
    [centre, scale, bias, limit]: [S::V; 4],
) -> (S::V, S::V) {
    // SAFETY: the caller's word.
    unsafe {
        let load = |p: *const f32| load_first::<S>(p.add(at), lanes);
        let (mut g, d) = (load(rows.diff), S::sub(load(rows.src), centre));
        if SUM {
            g = S::add(g, load(rows.other));
        }
        if GATE == RECOMPUTE {
            g = pass::<S>(S::fma(d, scale, bias), limit, g);
        } else if GATE == RESULT {
            g = pass::<S>(load(rows.result), limit, g);
        }
        if WRITE {
            store_first::<S>(rows.dst.add(at), g, lanes);
        }
        (g, d)
    }
}

/// Adds the sums over lines of `count` rows each, `V` vectors wide, to `first` and `second`; in single precision, so that
/// all rows should be at most [`BLOCK`](super::BLOCK).
///
/// # Safety
/// Rows of `first.len()` floats, `pitch` apart within lines and from one line to the next, which are `V` vectors, the last
/// with `lanes` lanes; as many coefficients.
#[inline(always)]
pub(super) unsafe fn block<S: Simd, const V: usize, const GATE: u8, const WRITE: bool, const SUM: bool>(
    rows: Rows,
    [lines, count]: [usize; 2],
    [line_pitch, pitch]: [usize; 2],
    lanes: usize,
    columns: Columns,
    limit: f32,
    first: &mut [f64],
    second: &mut [f64],
) {
    let (mut s1, mut s2) = ([0.0f32; SIDE], [0.0f32; SIDE]);
    // SAFETY: every access lies within a row; the arrays hold four vectors.
    unsafe {
        let width = |v: usize| if v + 1 == V { lanes } else { S::LANES };
        let (mut sums, mut products) = ([S::splat(0.0); V], [S::splat(0.0); V]);
        let mut coefficients = [[S::splat(limit); 4]; V];
        for (v, [centre, scale, bias, _]) in coefficients.iter_mut().enumerate() {
            *centre = load_first::<S>(columns.centre.add(v * S::LANES), width(v));
            if GATE == RECOMPUTE {
                *scale = load_first::<S>(columns.scale.add(v * S::LANES), width(v));
                *bias = load_first::<S>(columns.bias.add(v * S::LANES), width(v));
            }
        }
        for line in 0..lines {
            for row in 0..count {
                for v in 0..V {
                    let at = line * line_pitch + row * pitch + v * S::LANES;
                    let (g, d) = terms::<S, GATE, WRITE, SUM>(rows, at, width(v), coefficients[v]);
                    sums[v] = S::add(sums[v], g);
                    products[v] = S::fma(g, d, products[v]);
                }
            }
        }
        for v in 0..V {
            S::store(s1.as_mut_ptr().add(v * S::LANES), sums[v]);
            S::store(s2.as_mut_ptr().add(v * S::LANES), products[v]);
        }
    }
    for j in 0..first.len() {
        first[j] += f64::from(s1[j]);
        second[j] += f64::from(s2[j]);
    }
}

/// Numbers per channel that a gate and the sums need: `weight`, `rstd` and `bias` only for a gate that computes anew.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct PerChannel {
    pub mean: *const f32,
    pub weight: *const f32,
    pub rstd: *const f32,
    pub bias: *const f32,
}

impl PerChannel {
    /// Those from channel number `channel` on.
    #[inline(always)]
    pub fn at(self, channel: usize) -> Self {
        Self {
            mean: self.mean.wrapping_add(channel),
            weight: self.weight.wrapping_add(channel),
            rstd: self.rstd.wrapping_add(channel),
            bias: self.bias.wrapping_add(channel),
        }
    }
}

/// The sums of `V` vectors of columns, of which the last has `lanes` lanes, set or, unless `fresh`, added to those at `to`.
///
/// # Safety
/// As [`add_lines`].
#[inline(always)]
unsafe fn columns_of<S: Simd, const V: usize, const GATE: u8, const WRITE: bool>(
    rows: Rows,
    size: [usize; 2],
    pitch: [usize; 2],
    lanes: usize,
    numbers: PerChannel,
    limit: f32,
    to: [*mut f64; 2],
    fresh: bool,
) {
    let count = (V - 1) * S::LANES + lanes;
    let (mut first, mut second, mut scale) = ([0.0f64; SIDE], [0.0f64; SIDE], [0.0f32; SIDE]);
    // SAFETY: the caller's word; the arrays hold four vectors.
    unsafe {
        if GATE == RECOMPUTE {
            for v in 0..V {
                let (at, width) = (v * S::LANES, if v + 1 == V { lanes } else { S::LANES });
                let [weight, rstd] = [numbers.weight, numbers.rstd].map(|from| load_first::<S>(from.add(at), width));
                S::store(scale.as_mut_ptr().add(at), S::mul(weight, rstd));
            }
        }
        let columns = Columns { centre: numbers.mean, scale: scale.as_ptr(), bias: numbers.bias };
        let (one, other) = (&mut first[..count], &mut second[..count]);
        block::<S, V, GATE, WRITE, false>(rows, size, pitch, lanes, columns, limit, one, other);
        for j in 0..count {
            let (one, other) = (to[0].add(j), to[1].add(j));
            let before = if fresh { [0.0; 2] } else { [one.read_unaligned(), other.read_unaligned()] };
            one.write_unaligned(before[0] + first[j]);
            other.write_unaligned(before[1] + second[j]);
        }
    }
}

/// Takes lines of rows of gradients through a gate, where they are, and their sums of `grad` and `grad · (src − mean)`,
/// which are set or, unless `fresh`, added to those at `to`.
///
/// # Safety
/// `size[0]` lines of `size[1]` rows of `width` floats, `pitch` apart in lines and from one line or row to the next; as many
/// numbers per channel that the gate needs, and doubles at both sums.
#[inline(always)]
unsafe fn add_lines_body<S: Simd, const GATE: u8, const WRITE: bool>(
    rows: Rows,
    size: [usize; 2],
    pitch: [usize; 2],
    width: usize,
    numbers: PerChannel,
    limit: f32,
    to: [*mut f64; 2],
    fresh: bool,
) {
    let mut i = 0;
    // SAFETY: the caller's word.
    unsafe {
        while i < width {
            let (rows, numbers) = (rows.from(i), numbers.at(i));
            let to = [to[0].wrapping_add(i), to[1].wrapping_add(i)];
            if i + 4 * S::LANES <= width {
                columns_of::<S, 4, GATE, WRITE>(rows, size, pitch, S::LANES, numbers, limit, to, fresh);
                i += 4 * S::LANES;
            } else if i + 2 * S::LANES <= width {
                columns_of::<S, 2, GATE, WRITE>(rows, size, pitch, S::LANES, numbers, limit, to, fresh);
                i += 2 * S::LANES;
            } else {
                let lanes = S::LANES.min(width - i);
                columns_of::<S, 1, GATE, WRITE>(rows, size, pitch, lanes, numbers, limit, to, fresh);
                i += lanes;
            }
        }
    }
}

/// A loop for every level and gate.
macro_rules! loops {
    ($($name:ident [$($param:tt),*];)*) => {$(
        multiversion! {
            fn $name(
                rows: Rows, size: [usize; 2], pitch: [usize; 2], width: usize, numbers: PerChannel, limit: f32,
                to: [*mut f64; 2], fresh: bool,
            ) = add_lines_body, [$($param),*];
        }
    )*};
}
loops! {
    open [OPEN, false];
    recompute [RECOMPUTE, true];
    result [RESULT, true];
}

/// [`add_lines_body`] for this gate.
///
/// # Safety
/// As there; the CPU has `isa`.
pub(in crate::kernels) unsafe fn add_lines(
    isa: Isa,
    gate: Option<Gate>,
    rows: Rows,
    size: [usize; 2],
    pitch: [usize; 2],
    width: usize,
    numbers: PerChannel,
    to: [*mut f64; 2],
    fresh: bool,
) {
    let run = match Gate::mode(gate) {
        RECOMPUTE => recompute,
        RESULT => result,
        _ => open,
    };
    // SAFETY: the caller's word.
    unsafe { run(isa, rows, size, pitch, width, numbers, Gate::limit_of(gate), to, fresh) }
}
