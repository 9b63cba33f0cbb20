//! Memory that outlives a run: arenas for intermediate results and recycled buffers for outputs.

use std::collections::HashMap;

use crate::error::Result;
use crate::sync::Brief;
use crate::tensor::{ALIGN, AlignedBuf, Slot};

/// Working memory of one run, kept for the next.
#[derive(Debug, Default)]
pub struct Arena {
    memory: Option<AlignedBuf>,
    scratch: Option<AlignedBuf>,
    /// Reused tables of operand addresses.
    pub(crate) buffers: Vec<Slot>,
    /// As above, per step and operand.
    pub(crate) operands: Vec<Slot>,
}

fn grow(buffer: &mut Option<AlignedBuf>, bytes: usize) -> Result<*mut u8> {
    if buffer.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
        *buffer = None; // give the old memory back before asking for more
        *buffer = Some(AlignedBuf::new(bytes)?);
    }
    Ok(buffer.as_ref().map_or(std::ptr::null_mut(), AlignedBuf::ptr))
}

impl Arena {
    /// At least `bytes` bytes for intermediate results, contents undefined; NaN in debug builds.
    pub fn memory(&mut self, bytes: usize) -> Result<*mut u8> {
        let start = grow(&mut self.memory, bytes)?;
        if cfg!(debug_assertions) && bytes > 0 {
            // SAFETY: `bytes` bytes of memory of our own; all ones is a NaN pattern.
            unsafe { std::ptr::write_bytes(start, 0xff, bytes) };
        }
        Ok(start)
    }

    /// Scratch for `threads` threads: the start and the distance from one thread's part to the next.
    pub fn scratch(&mut self, bytes: usize, threads: usize) -> Result<(*mut u8, usize)> {
        // Two lines apart, so that neighbours' prefetches do not meet.
        let pitch = bytes.next_multiple_of(ALIGN) + 2 * ALIGN;
        Ok((grow(&mut self.scratch, pitch * threads)?, pitch))
    }

    fn bytes(&self) -> usize {
        [&self.memory, &self.scratch].into_iter().flatten().map(AlignedBuf::bytes).sum()
    }
}

/// Arenas and outputs that wait for their next use.
struct Pool {
    arenas: Vec<Arena>,
    outputs: HashMap<usize, Vec<AlignedBuf>>,
    output_bytes: usize,
}

/// Most arenas kept: beyond that many threads running at once, arenas are made and dropped.
const MAX_ARENAS: usize = 8;
/// Most bytes of outputs kept.
const MAX_OUTPUT_BYTES: usize = 256 << 20;
/// Most outputs kept of one size.
const MAX_OUTPUTS_PER_SIZE: usize = 8;
/// Smaller outputs cost less to allocate than to look up.
const MIN_OUTPUT_BYTES: usize = 1 << 12;

static POOL: Brief<Option<Pool>> = Brief::new(None);

fn with_pool<T>(body: impl FnOnce(&mut Pool) -> T) -> T {
    POOL.with(|pool| {
        let empty = || Pool { arenas: Vec::new(), outputs: HashMap::new(), output_bytes: 0 };
        body(pool.get_or_insert_with(empty))
    })
}

/// Runs `body` on an arena that nobody else uses meanwhile; the largest waiting one is taken.
pub fn with_arena<T>(body: impl FnOnce(&mut Arena) -> T) -> T {
    let waiting = with_pool(|pool| {
        let largest = (0..pool.arenas.len()).max_by_key(|&index| pool.arenas[index].bytes());
        largest.map(|index| pool.arenas.swap_remove(index))
    });
    let mut arena = waiting.unwrap_or_default();
    let result = body(&mut arena);
    let mut arena = Some(arena);
    with_pool(|pool| {
        if pool.arenas.len() < MAX_ARENAS {
            pool.arenas.extend(arena.take());
        }
    });
    result
}

/// Memory for an output of so many bytes, contents undefined.
pub fn take_output(bytes: usize) -> Result<AlignedBuf> {
    if bytes >= MIN_OUTPUT_BYTES {
        let found = with_pool(|pool| {
            let buffer = pool.outputs.get_mut(&bytes).and_then(Vec::pop)?;
            pool.output_bytes -= bytes;
            Some(buffer)
        });
        if let Some(buffer) = found {
            return Ok(buffer);
        }
    }
    AlignedBuf::new(bytes)
}

/// Gives an output's memory back once its last reader is gone.
pub fn give_output(buffer: AlignedBuf) {
    let bytes = buffer.bytes();
    if bytes < MIN_OUTPUT_BYTES {
        return;
    }
    let mut buffer = Some(buffer);
    with_pool(|pool| {
        let waiting = pool.outputs.entry(bytes).or_default();
        if waiting.len() < MAX_OUTPUTS_PER_SIZE && pool.output_bytes + bytes <= MAX_OUTPUT_BYTES {
            waiting.extend(buffer.take());
            pool.output_bytes += bytes;
        }
    });
}

/// Frees everything that waits.
pub fn clear() {
    drop(with_pool(|pool| {
        (std::mem::take(&mut pool.arenas), std::mem::take(&mut pool.outputs), std::mem::take(&mut pool.output_bytes))
    }));
}
