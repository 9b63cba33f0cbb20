//! The executable thing: a graph with chosen outputs, its stored tensors, and its plans by batch size.

mod checks;
mod locks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{Arena, ExternalTables, Needs, give_output, take_output, with_arena};
use crate::error::{Error, Result};
use crate::exec::{self, Externals};
use crate::graph::{Graph, ValueId};
use crate::plan::{Options, PackJob, Plan, compile};
use crate::plan_cache::{Key, PlanCache};
use crate::storage::Stored;
use crate::sync::{InsideRun, Waiting};
use crate::tensor::{AlignedBuf, DType, Slot, volume};
use checks::check_labels;

/// An array of the caller: C-contiguous, of the stated type.
#[derive(Debug, Clone)]
pub struct InputView<'a> {
    /// Sizes.
    pub shape: &'a [usize],
    /// Element type.
    pub dtype: DType,
    /// First element, at any alignment.
    pub data: *const u8,
}

// SAFETY: an address and facts; the caller of `run` vouches for the memory.
unsafe impl Send for InputView<'_> {}
// SAFETY: as above.
unsafe impl Sync for InputView<'_> {}

/// Memory of the caller for a result: C-contiguous, aligned, of the stated type.
#[derive(Debug, Clone)]
pub struct OutputView<'a> {
    /// Sizes.
    pub shape: &'a [usize],
    /// Element type.
    pub dtype: DType,
    /// First element.
    pub data: *mut u8,
}

// SAFETY: an address and facts; the caller of `run_given` vouches for the memory.
unsafe impl Send for OutputView<'_> {}
// SAFETY: as above.
unsafe impl Sync for OutputView<'_> {}

/// A result: its memory, shape and type.
#[derive(Debug)]
pub struct OutputBuf {
    /// The elements.
    pub buffer: AlignedBuf,
    /// Sizes.
    pub shape: Arc<[usize]>,
    /// Element type.
    pub dtype: DType,
}

/// A graph ready to run on any batch size.
#[derive(Debug)]
pub struct Program {
    graph: Graph,
    outputs: Vec<ValueId>,
    parameters: Vec<Arc<Stored>>,
    /// Slots by the address of their tensor: the order in which all programs lock.
    lock_order: Vec<usize>,
    plans: Arc<PlanCache>,
    /// Tells its plans from those of the others.
    number: u64,
    name: String,
    rewrites: Option<usize>,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.plans.forget(self.number);
    }
}

impl Program {
    /// A program that computes `outputs` and runs the graph's effects, with a cache of plans for itself.
    pub fn new(graph: Graph, outputs: Vec<ValueId>, parameters: Vec<Arc<Stored>>, name: String) -> Result<Self> {
        Self::with_plans(graph, outputs, parameters, name, Arc::default())
    }

    /// As [`Program::new`], with a cache of plans that it may share with others.
    pub fn with_plans(
        graph: Graph,
        outputs: Vec<ValueId>,
        parameters: Vec<Arc<Stored>>,
        name: String,
        plans: Arc<PlanCache>,
    ) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if let Some(stray) = outputs.iter().find(|id| id.0 >= graph.value_count()) {
            return Err(Error::Internal(format!("value {} is not part of this graph", stray.0)));
        }
        let mut lock_order: Vec<usize> = (0..parameters.len()).collect();
        lock_order.sort_by_key(|&slot| Arc::as_ptr(&parameters[slot]) as usize);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { graph, outputs, parameters, lock_order, plans, number, name, rewrites: None })
    }

    /// The program with at most so many single rewrites of its graph.
    #[must_use]
    pub fn limited(mut self, rewrites: usize) -> Self {
        self.rewrites = Some(rewrites);
        self
    }

    /// The name given for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The graph as traced.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Bytes of all stored tensors.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters.iter().map(|stored| stored.slot().bytes()).sum()
    }

    /// The plan for a batch size under the present configuration, from the cache or compiled now.
    pub fn plan(&self, batch: Option<usize>) -> Result<Arc<Plan>> {
        let (isa, algorithm) = (crate::config::isa()?, crate::config::algorithm()?);
        let options = Options { isa, algorithm, rewrites: self.rewrites };
        let key = Key { program: self.number, batch, options };
        if let Some(plan) = self.plans.get(&key) {
            return Ok(plan);
        }
        let plan = match batch {
            Some(batch) if self.graph.batch() != Some(batch) => {
                compile(&self.graph.with_batch(batch)?, &self.outputs, options)?
            }
            _ => compile(&self.graph, &self.outputs, options)?,
        };
        if crate::config::verbose_dispatch()? {
            #[allow(clippy::print_stderr)] // what the variable asks for
            {
                eprint!("cnnrs: compiled {} for batch {batch:?} on {}\n{plan}", self.name, options.isa.name());
            }
        }
        let plan = Arc::new(plan);
        self.plans.put(key, plan.clone());
        Ok(plan)
    }

    /// Drops all plans and packed weights.
    pub fn clear(&self) {
        self.plans.forget(self.number);
        for stored in &self.parameters {
            stored.forget_packed();
        }
    }

    /// Runs on the caller's arrays and returns fresh results; see [`Program::run_into`].
    ///
    /// # Safety
    /// As for [`Program::run_into`].
    pub unsafe fn run(
        &self,
        inputs: &[InputView<'_>],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<OutputBuf>> {
        let mut results = Vec::with_capacity(self.outputs.len());
        // SAFETY: the caller's word.
        unsafe { self.run_into(inputs, &mut results, interrupted)? };
        Ok(results)
    }

    /// Runs on the caller's arrays and appends the results.
    ///
    /// # Safety
    /// As for [`Program::run_given`].
    pub unsafe fn run_into(
        &self,
        inputs: &[InputView<'_>],
        results: &mut Vec<OutputBuf>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        // SAFETY: the caller's word.
        unsafe { self.run_given(inputs, &[], results, interrupted) }
    }

    /// Runs on the caller's arrays, writes the first results to the memory that is given for them and appends the rest.
    ///
    /// Everything is checked and all memory is had before anything runs. Stored tensors that the graph writes are locked
    /// for this call alone; if it fails, or `interrupted` stops it before the first write, they are as they were. What
    /// given memory holds after a failure is undefined.
    ///
    /// # Safety
    /// Each view's data is readable for the whole call, given memory writable; other threads may write both, which gives
    /// a mixture.
    pub unsafe fn run_given(
        &self,
        inputs: &[InputView<'_>],
        given: &[OutputView<'_>],
        results: &mut Vec<OutputBuf>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let batch = self.check(inputs)?;
        let plan = self.plan(batch)?;
        self.check_given(&plan, inputs, given)?;
        for (input, spec) in inputs.iter().zip(&plan.inputs) {
            // SAFETY: the view is readable, by the caller's word.
            unsafe { check_labels(input, spec)? };
        }
        // Read once: scratch is for so many members and no more.
        let threads = plan.threads()?;
        let needs =
            Needs { memory: plan.arena_bytes, scratch: plan.scratch_total(threads), outputs: plan.output_total() };
        let before = results.len();
        let result = with_arena(needs, |arena| {
            let mut tables = std::mem::take(&mut arena.externals);
            // SAFETY: the views are readable, by the caller's word.
            let result =
                unsafe { self.fill_and_run(&plan, inputs, given, results, arena, &mut tables, threads, interrupted) };
            tables.held.clear();
            arena.externals = tables;
            result
        });
        if result.is_err() {
            results.drain(before..).for_each(|result| give_output(result.buffer));
        }
        result
    }

    /// # Safety
    /// The views were checked against the plan and are readable, given memory is writable.
    unsafe fn fill_and_run(
        &self,
        plan: &Plan,
        inputs: &[InputView<'_>],
        given: &[OutputView<'_>],
        results: &mut Vec<OutputBuf>,
        arena: &mut Arena,
        tables: &mut ExternalTables,
        threads: usize,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let input = |input: &InputView<'_>| {
            Slot::new(input.data.cast_mut(), input.shape.iter().product::<usize>() * input.dtype.size())
        };
        tables.inputs.clear();
        tables.inputs.extend(inputs.iter().map(input));
        tables.outputs.clear();
        for (index, (shape, dtype)) in plan.outputs.iter().enumerate() {
            let bytes = volume(shape)? * dtype.size();
            if let Some(view) = given.get(index) {
                tables.outputs.push(Slot::new(view.data, bytes));
                continue;
            }
            let buffer = take_output(bytes)?;
            tables.outputs.push(Slot::new(buffer.ptr(), bytes));
            results.push(OutputBuf { buffer, shape: shape.clone(), dtype: *dtype });
        }
        tables.parameters.clear();
        tables.parameters.extend(self.parameters.iter().map(|stored| stored.slot()));
        let waiting = Waiting::here(interrupted);
        let _inside = InsideRun::enter();
        let _locks = self.lock(plan, waiting)?;
        if crate::config::check_finite()? {
            // SAFETY: stored tensors are locked, views readable.
            unsafe { self.check_finite(tables)? };
        }
        tables.packed.clear();
        for job in &plan.packs {
            let copy = self.packed(job, arena, waiting, interrupted)?;
            tables.packed.push(Slot::new(copy.ptr(), copy.bytes()));
            tables.held.push(copy);
        }
        let externals = Externals {
            inputs: &tables.inputs,
            outputs: &tables.outputs,
            guarded: given.is_empty(),
            parameters: &tables.parameters,
            packed: &tables.packed,
        };
        // SAFETY: sizes were checked against the plan's own shapes; outputs are fresh, or given and apart from everything
        // else; written tensors are locked.
        let result = unsafe { exec::run(plan, externals, arena, threads, interrupted) };
        if result.as_ref().err().is_none_or(|stopped| stopped.wrote) {
            for &slot in &plan.written {
                self.parameters[slot].touch();
            }
        }
        result.map_err(|stopped| stopped.error)
    }

    fn packed(
        &self,
        job: &PackJob,
        arena: &mut Arena,
        waiting: Waiting<'_>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Arc<AlignedBuf>> {
        let stored = &self.parameters[job.slot];
        stored.packed(&job.format, job.bytes, waiting, |packed| {
            // SAFETY: the weight is read-locked by this run and the packed copy is fresh.
            unsafe { exec::run_kernel(job.kernel.as_ref(), &[stored.slot(), packed], arena, interrupted) }
        })
    }
}
