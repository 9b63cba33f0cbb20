//! Local response normalization: every number is divided by a power of the squares of its neighbouring channels
//! (Krizhevsky, Sutskever, Hinton, 2012).

use crate::kernels::Kernel;
use crate::kernels::elementwise::{Chunks, load_first, store_first};
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::Args;

/// The window and the numbers of the formula `s = k + alpha/size · Σ x²`, `y = x / s^beta`.
#[derive(Debug, Clone, Copy)]
struct Formula {
    /// Channels before and behind that are summed over.
    before: usize,
    behind: usize,
    /// alpha / size.
    share: f32,
    beta: f32,
    k: f32,
}

/// Exponents with a way of their own; any other goes through logarithm and exponential.
const ANY: usize = 0;
const HALF: usize = 1;
const THREE_QUARTERS: usize = 2;
const ONE: usize = 3;

impl Formula {
    /// Neighbours that no line has are left out.
    fn new(channels: usize, size: usize, [alpha, beta, k]: [f32; 3]) -> Self {
        let most = channels.saturating_sub(1);
        let share = (f64::from(alpha) / size as f64) as f32;
        Self { before: (size / 2).min(most), behind: ((size - 1) / 2).min(most), share, beta, k }
    }

    fn path(&self) -> usize {
        [(0.5, HALF), (0.75, THREE_QUARTERS), (1.0, ONE)]
            .into_iter()
            .find(|(beta, _): &(f32, usize)| beta.to_bits() == self.beta.to_bits())
            .map_or(ANY, |(_, path)| path)
    }
}

/// Floats of a line with its neighbours, and with room for a vector that begins at its last channel.
fn room(channels: usize, formula: &Formula) -> usize {
    channels + formula.before + formula.behind + 16
}

/// s^−beta.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
unsafe fn power<S: Simd, const PATH: usize>(s: S::V, beta: f32) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let one = S::splat(1.0);
        match PATH {
            HALF => S::div(one, S::sqrt(s)),
            THREE_QUARTERS => {
                let root = S::sqrt(s);
                S::div(one, S::mul(root, S::sqrt(root)))
            }
            ONE => S::div(one, s),
            _ => math::exp::<S>(S::mul(S::splat(-beta), math::log::<S>(s))),
        }
    }
}

/// Σ of `taps` neighbours, the first of which is at `line`.
///
/// # Safety
/// `taps − 1 + LANES` floats at `line`.
#[inline(always)]
unsafe fn window<S: Simd>(line: *const f32, taps: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe {
        let mut sum = S::load(line);
        for tap in 1..taps {
            sum = S::add(sum, S::load(line.add(tap)));
        }
        sum
    }
}

/// # Safety
/// `rows` rows of `n` floats at `src`, `dst` and, if it is there, `scale`; `room` floats at `line`; `dst` may be `src`.
#[inline(always)]
unsafe fn forward_body<S: Simd, const PATH: usize>(
    src: *const f32,
    dst: *mut f32,
    scale: Option<*mut f32>,
    rows: usize,
    n: usize,
    formula: Formula,
    line: *mut f32,
) {
    // SAFETY: every access lies within a row or within the line.
    unsafe {
        let (share, k) = (S::splat(formula.share), S::splat(formula.k));
        let taps = formula.before + 1 + formula.behind;
        line.write_bytes(0, room(n, &formula));
        for row in 0..rows {
            let (src, dst) = (src.add(row * n), dst.add(row * n));
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let x = load_first::<S>(src.add(i), lanes);
                store_first::<S>(line.add(formula.before + i), S::mul(x, x), lanes);
            }
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let s = S::fma(window::<S>(line.add(i), taps), share, k);
                let x = load_first::<S>(src.add(i), lanes);
                store_first::<S>(dst.add(i), S::mul(x, power::<S, PATH>(s, formula.beta)), lanes);
                if let Some(scale) = scale {
                    store_first::<S>(scale.add(row * n + i), s, lanes);
                }
            }
        }
    }
}

/// # Safety
/// `rows` rows of `n` floats at every tensor; `room` floats at `line`; `diff_src` may be any of the others.
#[inline(always)]
unsafe fn backward_body<S: Simd, const PATH: usize>(
    diff_dst: *const f32,
    src: *const f32,
    dst: *const f32,
    scale: *const f32,
    diff_src: *mut f32,
    rows: usize,
    n: usize,
    formula: Formula,
    line: *mut f32,
) {
    // SAFETY: every access lies within a row or within the line.
    unsafe {
        let slope = S::splat(-2.0 * formula.share * formula.beta);
        // Whose windows a channel is in: the window mirrored.
        let taps = formula.before + 1 + formula.behind;
        line.write_bytes(0, room(n, &formula));
        for start in (0..rows).map(|row| row * n) {
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let load = |p: *const f32| load_first::<S>(p.add(start + i), lanes);
                let ratio = S::div(S::mul(load(diff_dst), load(dst)), load(scale));
                store_first::<S>(line.add(formula.behind + i), ratio, lanes);
            }
            for i in (0..n).step_by(S::LANES) {
                let lanes = S::LANES.min(n - i);
                let load = |p: *const f32| load_first::<S>(p.add(start + i), lanes);
                let common = S::mul(S::mul(load(src), slope), window::<S>(line.add(i), taps));
                let own = power::<S, PATH>(load(scale), formula.beta);
                store_first::<S>(diff_src.add(start + i), S::fma(load(diff_dst), own, common), lanes);
            }
        }
    }
}

macro_rules! paths {
    ($($forward:ident, $backward:ident, $path:tt;)*) => { $(
        multiversion! {
            fn $forward(
                src: *const f32, dst: *mut f32, scale: Option<*mut f32>, rows: usize, n: usize, formula: Formula,
                line: *mut f32,
            ) = forward_body, [$path];
        }
        multiversion! {
            fn $backward(
                diff_dst: *const f32, src: *const f32, dst: *const f32, scale: *const f32, diff_src: *mut f32,
                rows: usize, n: usize, formula: Formula, line: *mut f32,
            ) = backward_body, [$path];
        }
    )* };
}
paths! {
    forward_any, backward_any, ANY;
    forward_half, backward_half, HALF;
    forward_three_quarters, backward_three_quarters, THREE_QUARTERS;
    forward_one, backward_one, ONE;
}

/// Local response normalization over the last axis. Operands: `src`, `dst` (may be the memory of `src`), and, if asked
/// for, `scale`, which is `s` (`rows` × `channels` floats each).
#[derive(Debug, Clone)]
pub struct LocalResponseNorm {
    isa: Isa,
    rows: usize,
    channels: usize,
    formula: Formula,
    scale: bool,
    chunks: Chunks,
}

impl LocalResponseNorm {
    /// Over `rows` pixels; `numbers` are alpha, beta and k; with `scale`, `s` is written too.
    pub fn new(isa: Isa, rows: usize, channels: usize, size: usize, numbers: [f32; 3], scale: bool) -> Self {
        let formula = Formula::new(channels, size, numbers);
        Self { isa, rows, channels, formula, scale, chunks: Chunks::new(rows, 2 * channels) }
    }
}

impl Kernel for LocalResponseNorm {
    fn name(&self) -> String {
        format!("local_response_norm_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn scratch(&self) -> usize {
        room(self.channels, &self.formula) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        ((self.formula.before + self.formula.behind + 10) * self.rows * self.channels) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (range, n) = (self.chunks.range(task), self.channels);
        let (start, count) = (range.start * n, range.len() * n);
        let (src, dst) = (args.src::<f32>(0).at(start, count), args.dst::<f32>(1).at(start, count));
        let scale = self.scale.then(|| args.dst::<f32>(2).at(start, count));
        let function = [forward_any, forward_half, forward_three_quarters, forward_one][self.formula.path()];
        // SAFETY: the operands hold these rows, which belong to this task; the scratch has room for a line.
        unsafe { function(self.isa, src, dst, scale, range.len(), n, self.formula, scratch.cast()) };
    }
}

/// Gradient of [`LocalResponseNorm`]. Operands: `diff_dst`, `src`, `dst`, `scale`, `diff_src` (`rows` × `channels`
/// floats each; `diff_src` may be the memory of any other).
#[derive(Debug, Clone)]
pub struct LocalResponseNormBackward {
    isa: Isa,
    rows: usize,
    channels: usize,
    formula: Formula,
    chunks: Chunks,
}

impl LocalResponseNormBackward {
    /// Over `rows` pixels; `numbers` are alpha and beta.
    pub fn new(isa: Isa, rows: usize, channels: usize, size: usize, [alpha, beta]: [f32; 2]) -> Self {
        let formula = Formula::new(channels, size, [alpha, beta, 0.0]);
        Self { isa, rows, channels, formula, chunks: Chunks::new(rows, 2 * channels) }
    }
}

impl Kernel for LocalResponseNormBackward {
    fn name(&self) -> String {
        format!("local_response_norm_backward_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn scratch(&self) -> usize {
        room(self.channels, &self.formula) * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        ((self.formula.before + self.formula.behind + 12) * self.rows * self.channels) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let (range, n) = (self.chunks.range(task), self.channels);
        let (start, count) = (range.start * n, range.len() * n);
        let [diff_dst, src, dst, scale] = [0, 1, 2, 3].map(|index| args.src::<f32>(index).at(start, count));
        let diff_src = args.dst::<f32>(4).at(start, count);
        let function = [backward_any, backward_half, backward_three_quarters, backward_one][self.formula.path()];
        let (rows, line) = (range.len(), scratch.cast());
        // SAFETY: the operands hold these rows, which belong to this task; the scratch has room for a line.
        unsafe { function(self.isa, diff_dst, src, dst, scale, diff_src, rows, n, self.formula, line) };
    }
}
