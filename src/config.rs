//! Every setting, declared once: what the environment says, what the program set, and what follows.
//!
//! The package reads no other environment variables than the ones named here and, in Python, those of the data sets.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

pub use crate::algorithm::Algorithm;
use crate::error::{Error, Result};
use crate::simd::Isa;
use crate::sync::fork;

/// Most threads anybody can ask for.
pub const MAX_THREADS: usize = 256;

fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

/// The variable's parsed value, read once per process.
fn once<T: Clone>(
    cell: &OnceLock<Result<Option<T>>>,
    name: &str,
    parse: impl Fn(&str) -> Result<T>,
) -> Result<Option<T>> {
    fork::once(cell, || variable(name).map(|text| parse(text.trim())).transpose()).clone()
}

/// Checks a number of threads.
pub fn check_threads(count: i128) -> Result<usize> {
    if (1..=MAX_THREADS as i128).contains(&count) {
        return Ok(count as usize);
    }
    Err(Error::Value(format!("number of threads expects 1 to {MAX_THREADS}, received {count}")))
}

/// The level of that name.
pub fn parse_isa(name: &str) -> Result<Isa> {
    // There are no kernels for AMX tiles; as a cap the name permits everything there is.
    if name == "amx" {
        return Ok(Isa::Avx512);
    }
    Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
        Error::Value(format!("instruction set expects portable, avx2, avx512 or amx, received {name:?}"))
    })
}

/// The cap that `CNNRS_ISA` sets, if any.
pub fn isa_cap() -> Result<Option<Isa>> {
    static CELL: OnceLock<Result<Option<Isa>>> = OnceLock::new();
    once(&CELL, "CNNRS_ISA", |text| parse_isa(text).map_err(|error| error.within("CNNRS_ISA")))
}

const UNSET: u8 = u8::MAX;
static ISA: AtomicU8 = AtomicU8::new(UNSET);

/// Sets the level that later plans use, or gives the choice back (`None`); above what the CPU has is an error.
pub fn set_isa(isa: Option<Isa>) -> Result<()> {
    if let Some(isa) = isa
        && isa > Isa::detect()
    {
        return Err(Error::Unsupported(format!("this CPU has no {} (it has {})", isa.name(), Isa::detect().name())));
    }
    ISA.store(isa.map_or(UNSET, |isa| isa as u8), Ordering::Relaxed);
    Ok(())
}

/// The level that new plans use: what was set, else the best the CPU has under the cap.
pub fn isa() -> Result<Isa> {
    let set = ISA.load(Ordering::Relaxed);
    if let Some(isa) = Isa::ALL.into_iter().find(|&isa| isa as u8 == set) {
        return Ok(isa);
    }
    Ok(isa_cap()?.map_or(Isa::detect(), |cap| cap.min(Isa::detect())))
}

static ALGORITHM: AtomicU8 = AtomicU8::new(UNSET);

/// Sets the algorithms that later plans may use.
pub fn set_algorithm(algorithm: Algorithm) {
    ALGORITHM.store(algorithm as u8, Ordering::Relaxed);
}

/// The algorithms that new plans may use: what was set, else `CNNRS_ALGORITHM`, else all.
pub fn algorithm() -> Result<Algorithm> {
    static CELL: OnceLock<Result<Option<Algorithm>>> = OnceLock::new();
    let set = ALGORITHM.load(Ordering::Relaxed);
    if let Some(algorithm) = [Algorithm::Auto, Algorithm::Direct].into_iter().find(|&a| a as u8 == set) {
        return Ok(algorithm);
    }
    let found =
        once(&CELL, "CNNRS_ALGORITHM", |text| Algorithm::parse(text).map_err(|error| error.within("CNNRS_ALGORITHM")))?;
    Ok(found.unwrap_or(Algorithm::Auto))
}

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads, exactly, also above the number of cores.
pub fn set_threads(count: usize) {
    THREADS.store(count, Ordering::Relaxed);
}

/// The number of threads and where it comes from.
pub fn threads() -> Result<(usize, &'static str)> {
    static CELL: OnceLock<Result<Option<usize>>> = OnceLock::new();
    let set = THREADS.load(Ordering::Relaxed);
    if set > 0 {
        return Ok((set, "set_num_threads"));
    }
    let found = once(&CELL, "CNNRS_NUM_THREADS", |text| {
        let count = text.parse::<i128>().map_err(|_| {
            Error::Value(format!("CNNRS_NUM_THREADS expects a number from 1 to {MAX_THREADS}, received {text:?}"))
        })?;
        check_threads(count).map_err(|error| error.within("CNNRS_NUM_THREADS"))
    })?;
    if let Some(count) = found {
        return Ok((count, "CNNRS_NUM_THREADS"));
    }
    Ok((default_threads(), "cores this process may use (affinity and cgroup quota)"))
}

/// The cores this process may use: affinity mask and cgroup quota, as the standard library reads them; read once per
/// process, so that a forked worker which was pinned before its first call sees its own mask.
fn default_threads() -> usize {
    /// Generation of the process, then the number; never zero once it was read.
    static FOUND: AtomicU64 = AtomicU64::new(0);
    let generation = u64::from(fork::generation()) << 32;
    let found = FOUND.load(Ordering::Relaxed);
    if found != 0 && found & !0xffff_ffff == generation {
        return (found & 0xffff_ffff) as usize;
    }
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MAX_THREADS);
    FOUND.store(generation | count as u64, Ordering::Relaxed);
    count
}

/// Whether `CNNRS_VERBOSE=dispatch` asks to print each compiled plan; `profile` is not there yet.
pub fn verbose_dispatch() -> Result<bool> {
    static CELL: OnceLock<Result<Option<bool>>> = OnceLock::new();
    let found = once(&CELL, "CNNRS_VERBOSE", |text| match text {
        "dispatch" => Ok(true),
        "profile" => Err(Error::Unsupported("CNNRS_VERBOSE=profile is not there yet".into())),
        _ => Err(Error::Value(format!("CNNRS_VERBOSE expects dispatch or profile, received {text:?}"))),
    })?;
    Ok(found.unwrap_or(false))
}

/// Whether `CNNRS_CHECK=finite` asks to look for NaN and infinities after every step; plans then fuse nothing.
pub fn check_finite() -> Result<bool> {
    static CELL: OnceLock<Result<Option<bool>>> = OnceLock::new();
    let found = once(&CELL, "CNNRS_CHECK", |text| match text {
        "finite" => Ok(true),
        _ => Err(Error::Value(format!("CNNRS_CHECK expects finite, received {text:?}"))),
    })?;
    Ok(found.unwrap_or(false))
}
