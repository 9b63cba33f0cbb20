//! Runs a plan: the one place that turns buffers into addresses.
//!
//! All members of the team walk the same list of steps and meet at a barrier after each, save between steps of one task:
//! those are the calling thread's. The calling thread (rank 0)
//! looks for an interrupt now and then, unless the plan is small, until the first step that writes stored tensors; from
//! there a run goes to its end. Debug builds open and check [`guards`](crate::guards) around every step. With
//! `CNNRS_CHECK=finite` the results of every step are looked at before the next one begins.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::faults;
use crate::finite;
use crate::guards;
use crate::kernels::Kernel;
use crate::parallel::{Member, region};
use crate::plan::{Place, Plan};
use crate::profile::Clock;
use crate::simd::float_mode::FlushDenormals;
use crate::sync::fork;
use crate::tensor::{Args, GUARD, Slot};

/// The memory of one run that is not the arena's, by number as the plan counts it.
#[derive(Debug, Clone, Copy)]
pub struct Externals<'a> {
    /// The caller's arrays.
    pub inputs: &'a [Slot],
    /// The results.
    pub outputs: &'a [Slot],
    /// Whether [`GUARD`] bytes lie behind each result; not behind arrays of the caller.
    pub guarded: bool,
    /// Stored tensors.
    pub parameters: &'a [Slot],
    /// Packed weights.
    pub packed: &'a [Slot],
}

/// How often the calling thread looks for an interrupt.
const INTERRUPT_PERIOD: Duration = Duration::from_millis(20);

/// Why a run did not go to its end.
#[derive(Debug)]
pub struct Stopped {
    /// What the caller is told.
    pub error: Error,
    /// Whether stored tensors may have been written.
    pub wrote: bool,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self { error, wrote: false }
    }
}

/// Asks the caller now and then, on its own thread, whether it wants to stop.
struct Watch<'a> {
    interrupted: &'a (dyn Fn() -> bool + Sync),
    last: Instant,
    process: u32,
}

impl<'a> Watch<'a> {
    fn new(interrupted: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { interrupted, last: Instant::now(), process: fork::generation() }
    }

    /// True if the run is to be given up. The caller's code runs in the caller's floating-point mode; it may fork.
    fn stop(&mut self, flush: &FlushDenormals) -> bool {
        if self.last.elapsed() < INTERRUPT_PERIOD {
            return false;
        }
        self.last = Instant::now();
        flush.lifted(self.interrupted) || fork::generation() != self.process
    }
}

/// What the caller of a run that was given up is told; `process` is the one it began in.
fn given_up(process: u32) -> Error {
    if fork::generation() == process {
        return Error::Interrupted;
    }
    Error::State(
        "the process was forked inside this call (from a signal handler): the child cannot go on with it".into(),
    )
}

/// The first step at which a run stopped, was seen to go wrong in one way or another; `usize::MAX` if it was not.
struct Course {
    stop: AtomicUsize,
    panicked: AtomicUsize,
    overrun: AtomicUsize,
    not_finite: AtomicUsize,
}

impl Course {
    fn new() -> Self {
        let [stop, panicked, overrun, not_finite] = [(); 4].map(|()| AtomicUsize::new(usize::MAX));
        Self { stop, panicked, overrun, not_finite }
    }

    /// Whether nothing speaks against going on behind step `index`.
    fn goes_on(&self, index: usize) -> bool {
        self.stop.load(Ordering::SeqCst) > index
    }

    /// Does a piece of step `index`; if it panics, the run stops.
    fn attempt(&self, index: usize, piece: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(piece)).is_err() {
            self.panicked.fetch_min(index, Ordering::SeqCst);
            self.stop.fetch_min(index, Ordering::SeqCst);
        }
    }

    /// What the caller is told of a run that began in `process`.
    ///
    /// # Safety
    /// `operands` are those of the run, and nobody writes them meanwhile.
    unsafe fn result(self, plan: &Plan, operands: &[Slot], process: u32) -> std::result::Result<(), Stopped> {
        let not_finite = self.not_finite.into_inner();
        if not_finite < usize::MAX {
            let offset = plan.steps[..not_finite].iter().map(|step| step.operands.len()).sum::<usize>();
            // SAFETY: the step has run.
            let error = unsafe { finite::error(plan, not_finite, &operands[offset..]) };
            return Err(Stopped { error, wrote: not_finite >= plan.first_effect });
        }
        match (self.panicked.into_inner(), self.overrun.into_inner(), self.stop.into_inner()) {
            (usize::MAX, usize::MAX, usize::MAX) => Ok(()),
            (usize::MAX, usize::MAX, _) => Err(given_up(process).into()),
            (usize::MAX, index, _) => Err(bug(plan, index, "wrote past the end of a buffer")),
            (index, _, _) => Err(bug(plan, index, "panicked")),
        }
    }
}

/// Runs `plan` on a team of at most `threads`. `interrupted` is asked on the calling thread and may stop the run before
/// the first write. A warm run allocates nothing but what starting the team costs.
///
/// # Safety
/// Every slot has the size its buffer has in the plan and stays valid during the call; outputs, and stored tensors
/// that the plan writes, are accessed by nobody else; no slot overlaps an output.
pub unsafe fn run(
    plan: &Plan,
    externals: Externals<'_>,
    arena: &mut Arena,
    threads: usize,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> std::result::Result<(), Stopped> {
    let check = crate::config::check_finite()?;
    let memory = arena.memory(plan.arena_bytes)?;
    let (scratch, pitch) = arena.scratch(plan.scratch_bytes, threads)?;
    resolve(plan, externals, arena, memory);
    let scratch = Slot::new(scratch, pitch * threads);
    let (buffers, operands): (&[Slot], &[Slot]) = (&arena.buffers, &arena.operands);
    let course = Course::new();
    let fault = faults::panic_at();
    let clock = Clock::start(plan);
    let process = fork::generation();
    let caller = std::thread::current().id();
    let body = |member: Member<'_>| {
        let flush = FlushDenormals::new();
        let scratch = Slot::new(scratch.ptr().wrapping_add(member.rank * pitch), plan.scratch_bytes);
        let asks = member.rank == 0 && !plan.is_small() && std::thread::current().id() == caller;
        let mut watch = asks.then(|| Watch::new(interrupted));
        let (mut offset, mut phases) = (0, 0);
        for (index, step) in plan.steps.iter().enumerate() {
            let slots = &operands[offset..offset + step.operands.len()];
            offset += step.operands.len();
            let writes = index >= plan.first_effect;
            let single = plan.single[index];
            // Between two steps of the calling thread nobody has to wait.
            let meets = GUARD > 0 || check || !(single && plan.single.get(index + 1) == Some(&true));
            if GUARD > 0 {
                // SAFETY: scratch is this member's; buffers that this step is the first to touch are touched by nobody
                // before the barrier.
                unsafe { open(plan, index, buffers, externals.guarded, scratch, member) };
                member.wait();
            }
            let mut work = |tasks: &mut dyn Iterator<Item = usize>| {
                assert!(fault != Some((index, member.rank)), "injected by a test");
                // SAFETY: `resolve` gave every operand its buffer; steps and phases are separated by barriers and tasks
                // of one phase write different elements.
                let args = unsafe { Args::new(slots) };
                for (number, task) in tasks.enumerate() {
                    if course.stop.load(Ordering::Relaxed) <= index {
                        break;
                    }
                    // SAFETY: a task of this kernel, with this thread's scratch; ISA checked when it was planned.
                    unsafe {
                        if number == 0 {
                            step.kernel.prepare(&args, scratch.ptr());
                        }
                        step.kernel.run(task, &args, scratch.ptr());
                    }
                    if !writes && watch.as_mut().is_some_and(|watch| watch.stop(&flush)) {
                        course.stop.fetch_min(index, Ordering::SeqCst);
                    }
                }
            };
            for number in 0..step.kernel.phases() {
                if number > 0 {
                    member.wait();
                }
                let tasks = step.kernel.phase(number);
                // A member that sees a stop skips tasks, never a barrier.
                course.attempt(index, || {
                    if single {
                        work(&mut tasks.filter(|_| member.rank == 0));
                    } else {
                        work(&mut member.tasks(phases, tasks.len()).map(|task| tasks.start + task));
                    }
                });
                // Those of the calling thread alone are not counted: the others look for no tasks in them.
                phases += usize::from(!single);
            }
            // SAFETY: opened above.
            if GUARD > 0 && !unsafe { guards::intact(scratch) } {
                course.overrun.fetch_min(index, Ordering::SeqCst);
            }
            let finish = || {
                if course.goes_on(index) {
                    // SAFETY: as for the tasks, all of which have ended; nobody goes on meanwhile.
                    course.attempt(index, || unsafe { step.kernel.tail(&Args::new(slots)) });
                }
            };
            if meets {
                member.wait_behind(finish);
            } else if member.rank == 0 {
                finish();
            }
            if GUARD > 0 {
                // SAFETY: nobody writes before the next barrier.
                if member.rank == 0 && !unsafe { intact(plan, index, buffers, externals.guarded) } {
                    course.overrun.fetch_min(index, Ordering::SeqCst);
                }
                course.stop.fetch_min(course.overrun.load(Ordering::SeqCst), Ordering::SeqCst);
                member.wait();
            }
            if check && !step.results.is_empty() {
                // What a step that was given up has left behind says nothing.
                let looks = member.rank == 0 && course.goes_on(index);
                // SAFETY: nobody writes before the next barrier.
                if looks && !unsafe { finite::holds(step, slots) } {
                    course.not_finite.store(index, Ordering::SeqCst);
                }
                member.wait();
                course.stop.fetch_min(course.not_finite.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            if meets && !course.goes_on(index) {
                return;
            }
            if let Some(clock) = clock.as_ref().filter(|_| member.rank == 0) {
                clock.mark(index);
            }
        }
    };
    region(threads, plan.attendance(), &body);
    if let Some(clock) = clock {
        clock.keep(plan, threads);
    }
    // SAFETY: the team is gone.
    unsafe { course.result(plan, operands, process) }
}

/// What the caller is told of a step that did what none may do.
fn bug(plan: &Plan, index: usize, what: &str) -> Stopped {
    let step = &plan.steps[index];
    let error = Error::Internal(format!("{} {what} in {}", step.kernel.name(), step.op)).within(&step.name);
    Stopped { error, wrote: index >= plan.first_effect }
}

/// Opens this member's scratch and, on the calling thread, the buffers that step `index` is the first to touch.
///
/// # Safety
/// Nobody else accesses them meanwhile; guards lie behind them, behind results if `guarded` says so.
unsafe fn open(plan: &Plan, index: usize, buffers: &[Slot], guarded: bool, scratch: Slot, member: Member<'_>) {
    // SAFETY: the caller's word; `scratch_pitch` leaves room for the guard.
    unsafe { guards::open(scratch) };
    if member.rank > 0 {
        return;
    }
    let first = plan.births.partition_point(|&(step, _)| step < index);
    for &(_, buffer) in plan.births[first..].iter().take_while(|&&(step, _)| step == index) {
        if !guarded && matches!(plan.buffers[buffer].place, Place::Output(_)) {
            continue;
        }
        // SAFETY: the caller's word; the plan leaves room for guards in the arena, and outputs have one.
        unsafe { guards::open(buffers[buffer]) };
    }
}

/// Whether the guards of all operands of step `index` hold.
///
/// # Safety
/// Nobody writes them meanwhile.
unsafe fn intact(plan: &Plan, index: usize, buffers: &[Slot], guarded: bool) -> bool {
    plan.steps[index].operands.iter().all(|&buffer| {
        let guarded = match plan.buffers[buffer].place {
            Place::Arena(_) => true,
            Place::Output(_) => guarded,
            _ => false,
        };
        // SAFETY: opened before the first step that touches it.
        !guarded || unsafe { guards::intact(buffers[buffer]) }
    })
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
pub unsafe fn run_kernel(
    kernel: &dyn Kernel,
    slots: &[Slot],
    arena: &mut Arena,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    let (scratch, _) = arena.scratch(kernel.scratch(), 1)?;
    let flush = FlushDenormals::new();
    let mut watch = Watch::new(interrupted);
    let work = || {
        // SAFETY: the caller's word.
        let args = unsafe { Args::new(slots) };
        // SAFETY: before all tasks.
        unsafe { kernel.prepare(&args, scratch) };
        for task in 0..kernel.tasks() {
            // SAFETY: tasks of this kernel, one after the other.
            unsafe { kernel.run(task, &args, scratch) };
            if watch.stop(&flush) {
                return false;
            }
        }
        // SAFETY: behind all tasks.
        unsafe { kernel.tail(&args) };
        true
    };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(given_up(watch.process)),
        Err(_) => Err(Error::Internal(format!("{} panicked", kernel.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Broken;

    impl Kernel for Broken {
        fn name(&self) -> String {
            "broken".into()
        }
        fn tasks(&self) -> usize {
            1
        }
        fn flops(&self) -> u64 {
            0
        }
        unsafe fn run(&self, task: usize, _args: &Args<'_>, _scratch: *mut u8) {
            assert!(task > 0, "as intended");
        }
    }

    #[test]
    fn a_panic_while_packing_is_an_error_that_names_the_kernel() {
        // SAFETY: the kernel touches no operand.
        let result = unsafe { run_kernel(&Broken, &[], &mut Arena::default(), &|| false) };
        assert_eq!(result, Err(Error::Internal("broken panicked".into())));
    }
}
