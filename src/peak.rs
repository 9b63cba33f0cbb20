//! The machine's own ceiling: a multiply-add loop on registers alone, for benchmarks to compare with.

use std::time::{Duration, Instant};

use crate::multiversion;
use crate::parallel::{Attendance, region};
use crate::simd::{Isa, Simd};

/// Independent chains: enough to hide the latency of two units, few enough for sixteen registers.
const CHAINS: usize = 12;

multiversion! {
    /// Runs `rounds` multiply-adds on each of [`CHAINS`] independent vectors; the result only keeps them alive.
    fn chains(rounds: u64, factor: f32) -> f32 = chains_body;
}

/// # Safety
/// The CPU has the level.
#[inline(always)]
unsafe fn chains_body<S: Simd>(rounds: u64, factor: f32) -> f32 {
    // SAFETY: registers only; the level is the caller's word.
    unsafe {
        let factor = S::splat(factor);
        let mut sums = [factor; CHAINS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(*sum, factor, factor);
            }
        }
        let mut total = sums[0];
        for &sum in &sums[1..] {
            total = S::add(total, sum);
        }
        S::sum(total)
    }
}

/// Measured multiply-add rate of a team of `threads` in GFLOP/s, over about `length` per thread.
pub fn fma_peak(isa: Isa, threads: usize, length: Duration) -> f64 {
    const ROUNDS: u64 = 20_000;
    let rate = std::sync::Mutex::new(0.0);
    region(threads, Attendance::All, &|member| {
        member.wait();
        let start = Instant::now();
        let mut rounds = 0u64;
        while start.elapsed() < length {
            // SAFETY: `isa` is one this CPU has.
            std::hint::black_box(unsafe { chains(isa, ROUNDS, std::hint::black_box(0.5)) });
            rounds += ROUNDS;
        }
        let flops = rounds as f64 * (CHAINS * isa.lanes() * 2) as f64;
        *rate.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += flops / start.elapsed().as_secs_f64();
    });
    rate.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) * 1e-9
}
