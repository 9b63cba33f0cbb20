//! Settings, facts about the machine, and random numbers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::arrays::output;
use crate::arena::take_output;
use crate::config::{self as setting, Algorithm};
use crate::kernels::draw::{self, Law};
use crate::parallel::{Attendance, Member, region};
use crate::program::OutputBuf;
use crate::random;
use crate::simd::Isa;
use crate::tensor::{DType, faults, volume};

/// Sets the number of threads, 1 to 256, exactly.
#[pyfunction]
pub fn set_num_threads(n: &Bound<'_, PyAny>) -> PyResult<()> {
    let count: i128 = match n.extract::<i64>() {
        Ok(count) if !n.is_instance_of::<pyo3::types::PyBool>() => count.into(),
        _ => return Err(PyValueError::new_err(format!("number of threads expects 1 to 256, received {n}"))),
    };
    setting::set_threads(setting::check_threads(count)?);
    Ok(())
}

/// The number of threads runs use.
#[pyfunction]
pub fn get_num_threads() -> PyResult<usize> {
    Ok(setting::threads()?.0)
}

/// Chooses "auto" or "direct" for plans made from now on.
#[pyfunction]
pub fn set_algorithm(name: &str) -> PyResult<()> {
    setting::set_algorithm(Algorithm::parse(name)?);
    Ok(())
}

/// The algorithm setting.
#[pyfunction]
pub fn get_algorithm() -> PyResult<&'static str> {
    Ok(setting::algorithm()?.name())
}

/// Sets the instruction set of plans made from now on; None means the best one allowed (for tests).
#[pyfunction]
pub fn set_isa(name: Option<&str>) -> PyResult<()> {
    Ok(setting::set_isa(name.map(setting::parse_isa).transpose()?)?)
}

/// The instruction-set levels of this CPU, lowest first.
#[pyfunction]
pub fn isa_levels() -> Vec<&'static str> {
    Isa::available().into_iter().map(Isa::name).collect()
}

/// Cores in this process's affinity mask.
fn affinity() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an all-zero set is a valid value that the call fills.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0 {
                return Some(libc::CPU_COUNT(&set) as usize);
            }
        }
    }
    None
}

/// Version, instruction set, threads with the reason, algorithm and build facts.
#[pyfunction]
pub fn config(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let (threads, reason) = setting::threads()?;
    let facts = PyDict::new(py);
    facts.set_item("version", env!("CARGO_PKG_VERSION"))?;
    facts.set_item("isa_found", Isa::detect().name())?;
    facts.set_item("isa_used", setting::isa()?.name())?;
    facts.set_item("isa_cap", setting::isa_cap()?.map(Isa::name))?;
    facts.set_item("threads", threads)?;
    facts.set_item("threads_reason", reason)?;
    facts.set_item("threads_running", crate::parallel::running_threads())?;
    facts.set_item("cores", std::thread::available_parallelism().map_or(1, std::num::NonZero::get))?;
    facts.set_item("affinity", affinity())?;
    facts.set_item("algorithm", setting::algorithm()?.name())?;
    facts.set_item("verbose_dispatch", setting::verbose_dispatch()?)?;
    facts.set_item("check_finite", setting::check_finite()?)?;
    facts.set_item("debug_build", cfg!(debug_assertions))?;
    facts.set_item("target", std::env::consts::ARCH)?;
    Ok(facts)
}

/// An array of `size` elements that `fill` writes.
fn filled<T: Copy>(
    py: Python<'_>,
    size: usize,
    dtype: DType,
    fill: impl FnOnce(&mut [T]),
) -> PyResult<Bound<'_, PyAny>> {
    debug_assert_eq!(size_of::<T>(), dtype.size());
    let bytes = volume(&[size])? * dtype.size();
    let buffer = take_output(bytes)?;
    // SAFETY: aligned memory of our own, `size` numbers of a type that any bytes make.
    fill(unsafe { std::slice::from_raw_parts_mut(buffer.ptr().cast(), size) });
    output(py, OutputBuf { buffer, shape: [size].into(), dtype })
}

/// `size` floats in [low, low + width) from Philox4x32-10 keyed by (seed, stream).
#[pyfunction]
#[pyo3(signature = (seed, stream, size, low=0.0, width=1.0))]
pub fn random_uniform(
    py: Python<'_>,
    seed: u64,
    stream: u64,
    size: usize,
    low: f32,
    width: f32,
) -> PyResult<Bound<'_, PyAny>> {
    drawn(py, seed, stream, size, Law::Uniform { low, width })
}

/// `size` normal floats from Philox4x32-10 keyed by (seed, stream), by Box and Muller.
#[pyfunction]
#[pyo3(signature = (seed, stream, size, mean=0.0, std=1.0))]
pub fn random_normal(
    py: Python<'_>,
    seed: u64,
    stream: u64,
    size: usize,
    mean: f32,
    std: f32,
) -> PyResult<Bound<'_, PyAny>> {
    drawn(py, seed, stream, size, Law::Normal { mean, std })
}

/// Elements that one member of a team draws in one go.
const DRAWN_AT_ONCE: usize = 1 << 16;

/// `size` floats of a stream, drawn on all threads; which thread draws an element does not matter to it.
fn drawn(py: Python<'_>, seed: u64, stream: u64, size: usize, law: Law) -> PyResult<Bound<'_, PyAny>> {
    let (isa, threads) = (setting::isa()?, setting::threads()?.0);
    filled(py, size, DType::F32, |numbers: &mut [f32]| {
        let threads = threads.min(size / DRAWN_AT_ONCE);
        let pieces = Mutex::new(numbers.chunks_mut(DRAWN_AT_ONCE).enumerate());
        let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
        let body = |_: Member<'_>| {
            while let Some((i, piece)) = next() {
                draw::fill(isa, piece, i * DRAWN_AT_ONCE, seed, stream, law);
            }
        };
        py.detach(|| region(threads, Attendance::All, &body));
    })
}

/// A permutation of range(size): Fisher-Yates on Philox4x32-10 keyed by (seed, stream).
#[pyfunction]
pub fn random_permutation(py: Python<'_>, seed: u64, stream: u64, size: usize) -> PyResult<Bound<'_, PyAny>> {
    filled(py, size, DType::I64, |order: &mut [i64]| random::permutation(seed, stream, order))
}

/// Lets the `count`-th allocation of tensor memory from now on fail, once; 0 lets all succeed (for tests).
#[pyfunction]
pub fn fail_allocation(count: u64) {
    faults::arm(count);
}

/// Whether a failure that was asked for is still to come.
#[pyfunction]
pub fn failure_is_due() -> bool {
    faults::armed()
}

/// Makes the next run panic in its step number `step` on the member `rank` of its team, where it has both (for tests).
#[pyfunction]
#[pyo3(signature = (step, rank=0))]
pub fn inject_panic(step: u32, rank: u32) {
    crate::faults::inject_panic(step, rank);
}

/// Measures the register-only multiply-add rate of a team of `threads` in GFLOP/s.
#[pyfunction]
pub fn fma_peak(py: Python<'_>, threads: usize, seconds: f64) -> PyResult<f64> {
    let threads = setting::check_threads(threads as i128)?;
    if !(seconds > 0.0 && seconds <= 60.0) {
        return Err(PyValueError::new_err(format!("seconds expects a number in (0, 60], received {seconds}")));
    }
    let isa = setting::isa()?;
    Ok(py.detach(|| crate::peak::fma_peak(isa, threads, Duration::from_secs_f64(seconds))))
}
