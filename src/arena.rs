//! Memory that outlives a run: arenas for intermediate results and recycled buffers for outputs.
//!
//! What waits here and what one run takes stay, together, within the largest run so far (once for every caller that
//! was inside a run at the same time) and [`SPARE`] bytes. So a process that meets many shapes keeps what its largest
//! plan needs, not the sum of all.

use std::sync::Arc;

use crate::error::Result;
use crate::sync::Brief;
use crate::tensor::{AlignedBuf, GUARD, Slot, scratch_pitch};

/// Working memory of one run, kept for the next, with the tables of addresses that a warm run must not allocate.
#[derive(Debug, Default)]
pub struct Arena {
    memory: Option<AlignedBuf>,
    scratch: Option<AlignedBuf>,
    /// Every buffer of the plan.
    pub(crate) buffers: Vec<Slot>,
    /// Every operand of every step.
    pub(crate) operands: Vec<Slot>,
    /// What is not the arena's.
    pub(crate) externals: ExternalTables,
}

/// Addresses of the memory of one run that is not the arena's, by number as the plan counts it.
#[derive(Debug, Default)]
pub(crate) struct ExternalTables {
    /// The caller's arrays.
    pub inputs: Vec<Slot>,
    /// The results.
    pub outputs: Vec<Slot>,
    /// Stored tensors.
    pub parameters: Vec<Slot>,
    /// Packed weights.
    pub packed: Vec<Slot>,
    /// Keeps the packed weights for the length of the run.
    pub held: Vec<Arc<AlignedBuf>>,
}

/// Bytes that a run takes beside the caller's arrays and stored tensors.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Intermediate results.
    pub memory: usize,
    /// Scratch of all threads.
    pub scratch: usize,
    /// All results, as they count in memory.
    pub outputs: usize,
}

impl Needs {
    fn total(self) -> usize {
        AlignedBuf::footprint(self.memory) + AlignedBuf::footprint(self.scratch) + self.outputs
    }
}

fn grow(buffer: &mut Option<AlignedBuf>, bytes: usize) -> Result<*mut u8> {
    if buffer.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
        *buffer = None; // give the old memory back before asking for more
        *buffer = Some(AlignedBuf::new(bytes)?);
    }
    Ok(buffer.as_ref().map_or(std::ptr::null_mut(), AlignedBuf::ptr))
}

fn held(buffer: Option<&AlignedBuf>) -> usize {
    buffer.map_or(0, |buffer| AlignedBuf::footprint(buffer.bytes()))
}

impl Arena {
    /// At least `bytes` bytes for intermediate results, contents undefined.
    pub fn memory(&mut self, bytes: usize) -> Result<*mut u8> {
        grow(&mut self.memory, bytes)
    }

    /// Scratch for `threads` threads: the start and the distance from one thread's part to the next.
    pub fn scratch(&mut self, bytes: usize, threads: usize) -> Result<(*mut u8, usize)> {
        let pitch = scratch_pitch(bytes);
        Ok((grow(&mut self.scratch, pitch * threads)?, pitch))
    }

    fn footprint(&self) -> usize {
        held(self.memory.as_ref()) + held(self.scratch.as_ref())
    }

    /// What it will count once it serves a run.
    fn footprint_for(&self, needs: Needs) -> usize {
        held(self.memory.as_ref()).max(AlignedBuf::footprint(needs.memory))
            + held(self.scratch.as_ref()).max(AlignedBuf::footprint(needs.scratch))
    }
}

/// Arenas and outputs that wait for their next use.
struct Pool {
    arenas: Vec<Arena>,
    /// The longest waiting first.
    outputs: Vec<AlignedBuf>,
    output_bytes: usize,
    /// Of the largest run so far.
    largest: usize,
    /// Runs going on, and the most that ever were.
    callers: [usize; 2],
}

/// Most arenas kept: beyond that many threads running at once, arenas are made and dropped.
const MAX_ARENAS: usize = 8;
/// Most outputs kept.
const MAX_OUTPUTS: usize = 256;
/// Bytes that may wait beyond what the largest run takes.
pub const SPARE: usize = 32 << 20;

impl Pool {
    fn new() -> Self {
        Self {
            arenas: Vec::with_capacity(MAX_ARENAS),
            outputs: Vec::with_capacity(MAX_OUTPUTS),
            output_bytes: 0,
            largest: 0,
            callers: [0, 0],
        }
    }

    fn limit(&self) -> usize {
        self.largest.saturating_mul(self.callers[1].clamp(1, MAX_ARENAS)).saturating_add(SPARE)
    }

    fn arena_bytes(&self) -> usize {
        self.arenas.iter().map(Arena::footprint).sum()
    }

    /// Frees outputs, the longest waiting first, until `taken` bytes and all that waits are within the limit.
    fn make_room(&mut self, taken: usize) {
        let (limit, taken) = (self.limit(), taken.saturating_add(self.arena_bytes()));
        while !self.outputs.is_empty() && taken.saturating_add(self.output_bytes) > limit {
            let oldest = self.outputs.remove(0);
            self.output_bytes -= AlignedBuf::footprint(oldest.bytes());
        }
    }

    /// The largest waiting arena, with room made for what the run takes.
    fn take_arena(&mut self, needs: Needs) -> Arena {
        self.callers[0] += 1;
        self.callers[1] = self.callers[1].max(self.callers[0]);
        self.largest = self.largest.max(needs.total());
        let largest = (0..self.arenas.len()).max_by_key(|&index| self.arenas[index].footprint());
        let mut arena = largest.map(|index| self.arenas.swap_remove(index)).unwrap_or_default();
        self.make_room(arena.footprint_for(needs).saturating_add(needs.outputs));
        if arena.footprint_for(needs) + needs.outputs + self.arena_bytes() > self.limit() {
            // It once served large intermediate results, and this run has large outputs.
            (arena.memory, arena.scratch) = (None, None);
        }
        arena
    }

    fn give_arena(&mut self, arena: Arena) -> Option<Arena> {
        self.callers[0] = self.callers[0].saturating_sub(1);
        if self.arenas.len() == MAX_ARENAS {
            return Some(arena);
        }
        self.arenas.push(arena);
        None
    }

    fn take_output(&mut self, bytes: usize) -> Option<AlignedBuf> {
        let index = self.outputs.iter().rposition(|buffer| buffer.bytes() == bytes)?;
        self.output_bytes -= AlignedBuf::footprint(bytes);
        Some(self.outputs.remove(index))
    }

    fn give_output(&mut self, buffer: AlignedBuf) {
        let bytes = AlignedBuf::footprint(buffer.bytes());
        self.make_room(bytes);
        if self.outputs.len() == MAX_OUTPUTS {
            let oldest = self.outputs.remove(0);
            self.output_bytes -= AlignedBuf::footprint(oldest.bytes());
        }
        if self.arena_bytes() + self.output_bytes + bytes <= self.limit() {
            self.output_bytes += bytes;
            self.outputs.push(buffer);
        }
    }
}

static POOL: Brief<Option<Pool>> = Brief::new(None);

fn with_pool<T>(body: impl FnOnce(&mut Pool) -> T) -> T {
    POOL.with(|pool| body(pool.get_or_insert_with(Pool::new)))
}

/// An arena that nobody else uses; it goes back to the pool when dropped.
struct Lease(Arena);

impl Drop for Lease {
    fn drop(&mut self) {
        let arena = std::mem::take(&mut self.0);
        // One that does not fit is dropped behind the lock.
        drop(with_pool(|pool| pool.give_arena(arena)));
    }
}

/// Runs `body` on an arena that nobody else uses meanwhile; the largest waiting one is taken.
pub fn with_arena<T>(needs: Needs, body: impl FnOnce(&mut Arena) -> T) -> T {
    let mut lease = Lease(with_pool(|pool| pool.take_arena(needs)));
    body(&mut lease.0)
}

/// Memory for an output of so many bytes, contents undefined, with a guard behind it in debug builds.
pub fn take_output(bytes: usize) -> Result<AlignedBuf> {
    let bytes = bytes + GUARD;
    match with_pool(|pool| pool.take_output(bytes)) {
        Some(buffer) => Ok(buffer),
        None => AlignedBuf::new(bytes),
    }
}

/// Gives an output's memory back once its last reader is gone.
pub fn give_output(buffer: AlignedBuf) {
    if buffer.bytes() > 0 {
        with_pool(|pool| pool.give_output(buffer));
    }
}

/// Frees everything that waits and forgets how large runs were.
pub fn clear() {
    drop(with_pool(|pool| {
        let callers = pool.callers[0]; // runs that go on meanwhile will give their arenas back
        std::mem::replace(pool, Pool { callers: [callers, callers], ..Pool::new() })
    }));
}
