//! Runs a plan: the one place that turns buffers into addresses.
//!
//! All members of the team walk the same list of steps and meet at a barrier after each. The calling thread (rank 0)
//! looks for an interrupt now and then, until the first step that writes stored tensors; from there a run goes to its
//! end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::parallel::{Member, region};
use crate::plan::{Place, Plan};
use crate::simd::float_mode::FlushDenormals;
use crate::tensor::{Args, Slot};

/// The memory of one run that is not the arena's, by number as the plan counts it.
#[derive(Debug, Clone, Copy)]
pub struct Externals<'a> {
    /// The caller's arrays.
    pub inputs: &'a [Slot],
    /// The results.
    pub outputs: &'a [Slot],
    /// Stored tensors.
    pub parameters: &'a [Slot],
    /// Packed weights.
    pub packed: &'a [Slot],
}

/// How often the calling thread looks for an interrupt.
const INTERRUPT_PERIOD: Duration = Duration::from_millis(20);

/// Runs `plan`. `interrupted` is asked on the calling thread and may stop the run before the first write.
///
/// # Safety
/// Every slot has the size its buffer has in the plan and stays valid during the call; outputs, and stored tensors
/// that the plan writes, are accessed by nobody else; no slot overlaps an output.
pub unsafe fn run(
    plan: &Plan,
    externals: Externals<'_>,
    arena: &mut Arena,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    // Read once: the scratch below is for so many members and no more. Read always: a bad setting shows at once.
    let configured = crate::config::threads()?.0;
    let threads = if plan.is_small() { 1 } else { configured };
    let memory = arena.memory(plan.arena_bytes)?;
    let (scratch, pitch) = arena.scratch(plan.scratch_bytes, threads)?;
    resolve(plan, externals, arena, memory);
    let scratch = Slot::new(scratch, pitch * threads);
    let operands: &[Slot] = &arena.operands;
    let stop = AtomicUsize::new(usize::MAX);
    let panicked = AtomicUsize::new(usize::MAX);
    let caller = std::thread::current().id();
    let body = |member: Member<'_>| {
        let _flush = FlushDenormals::new();
        let scratch = scratch.ptr().wrapping_add(member.rank * pitch);
        let mut clock = (member.rank == 0 && std::thread::current().id() == caller).then(Instant::now);
        let mut offset = 0;
        for (index, step) in plan.steps.iter().enumerate() {
            let slots = &operands[offset..offset + step.operands.len()];
            offset += step.operands.len();
            let writes = index >= plan.first_effect;
            let work = || {
                // SAFETY: `resolve` gave every operand its buffer; steps are separated by barriers and tasks of one
                // step write different elements.
                let args = unsafe { Args::new(slots) };
                for task in member.share(step.kernel.tasks()) {
                    // SAFETY: a task of this kernel, with this thread's scratch; ISA checked when it was planned.
                    unsafe { step.kernel.run(task, &args, scratch) };
                    if !writes && poll(&mut clock, interrupted) {
                        stop.fetch_min(index, Ordering::SeqCst);
                    }
                    if stop.load(Ordering::Relaxed) <= index {
                        break;
                    }
                }
            };
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                panicked.fetch_min(index, Ordering::SeqCst);
                stop.fetch_min(index, Ordering::SeqCst);
            }
            member.wait();
            if stop.load(Ordering::SeqCst) <= index {
                return;
            }
        }
    };
    region(threads, &body);
    match (panicked.into_inner(), stop.into_inner()) {
        (usize::MAX, usize::MAX) => Ok(()),
        (usize::MAX, _) => Err(Error::Interrupted),
        (index, _) => {
            let step = &plan.steps[index];
            Err(Error::Internal(format!("{} panicked in {}", step.kernel.name(), step.op)).within(&step.name))
        }
    }
}

/// True once, after the period has passed, if the caller wants to stop.
fn poll(clock: &mut Option<Instant>, interrupted: &(dyn Fn() -> bool + Sync)) -> bool {
    match clock {
        Some(last) if last.elapsed() >= INTERRUPT_PERIOD => {
            *last = Instant::now();
            interrupted()
        }
        _ => false,
    }
}

/// Fills the arena's tables: the address of every buffer, then of every operand of every step.
fn resolve(plan: &Plan, externals: Externals<'_>, arena: &mut Arena, memory: *mut u8) {
    arena.buffers.clear();
    arena.buffers.extend(plan.buffers.iter().map(|buffer| {
        let slot = match buffer.place {
            Place::Input(index) => externals.inputs[index],
            Place::Output(index) => externals.outputs[index],
            Place::Parameter(slot) => externals.parameters[slot],
            Place::Packed(index) => externals.packed[index],
            Place::Constant(index) => {
                let data = &plan.constants[index];
                Slot::new(data.as_ptr().cast_mut().cast(), size_of_val(data.as_slice()))
            }
            Place::Arena(offset) => Slot::new(memory.wrapping_add(offset), buffer.bytes),
        };
        debug_assert_eq!(slot.bytes(), buffer.bytes, "{:?}", buffer.place);
        slot
    }));
    arena.operands.clear();
    for step in &plan.steps {
        arena.operands.extend(step.operands.iter().map(|&buffer| arena.buffers[buffer]));
    }
}

/// Runs one kernel alone on this thread: packing outside a plan.
///
/// # Safety
/// As for [`run`]: the slots are the kernel's operands and its results belong to the caller.
pub unsafe fn run_kernel(kernel: &dyn Kernel, slots: &[Slot], arena: &mut Arena) -> Result<()> {
    let (scratch, _) = arena.scratch(kernel.scratch(), 1)?;
    let _flush = FlushDenormals::new();
    // SAFETY: the caller's word.
    let args = unsafe { Args::new(slots) };
    for task in 0..kernel.tasks() {
        // SAFETY: tasks of this kernel, one after the other.
        unsafe { kernel.run(task, &args, scratch) };
    }
    Ok(())
}
