//! The executable thing: a graph with chosen outputs, its stored tensors, and its plans by batch size.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{Arena, ExternalTables, Needs, give_output, take_output, with_arena};
use crate::error::{Error, Result};
use crate::exec::{self, Externals};
use crate::finite;
use crate::graph::{Graph, ValueId};
use crate::plan::{InputSpec, Options, PackJob, Plan, compile};
use crate::plan_cache::{Key, PlanCache};
use crate::storage::Stored;
use crate::sync::{Access, Held, InsideRun, Waiting, fork};
use crate::tensor::{AlignedBuf, DType, Slot, shape_text, volume};

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

    /// The batch size of these inputs, after checking every type and shape.
    fn check(&self, inputs: &[InputView<'_>]) -> Result<Option<usize>> {
        let expected = self.graph.inputs();
        if inputs.len() != expected.len() {
            return Err(Error::Internal(format!("expects {} inputs, received {}", expected.len(), inputs.len())));
        }
        let mut batch: Option<usize> = None;
        for (input, &id) in inputs.iter().zip(expected) {
            let value = self.graph.value(id);
            if input.dtype != value.dtype {
                let (want, got) = (value.dtype.name(), input.dtype.name());
                return Err(Error::Type(format!(
                    "{} expects {want}, received {got}: convert with .astype(np.{want})",
                    value.name
                )));
            }
            let batched = matches!(value.role, crate::graph::Role::Input { batched: true, .. });
            let fits = input.shape.len() == value.shape.len()
                && input.shape.iter().zip(&value.shape).skip(usize::from(batched)).all(|(a, b)| a == b);
            let expected_batch = if batched { batch } else { None };
            if !fits || expected_batch.is_some_and(|batch| batch != input.shape[0]) {
                let mut want = value.shape.clone();
                if let Some(batch) = expected_batch {
                    want[0] = batch;
                }
                let mut want = shape_text(&want);
                if batched && expected_batch.is_none() {
                    let rest = want.find([',', ')']).map_or(String::new(), |at| want[at..].to_owned());
                    want = format!("(N{rest}");
                }
                return Err(Error::Shape(format!(
                    "{} expects shape {want}, received {}",
                    value.name,
                    shape_text(input.shape)
                )));
            }
            if batched {
                batch = Some(input.shape[0]);
            }
        }
        Ok(batch)
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

    /// Given memory has the shape and type of its result and shares no byte with anything that the run touches.
    fn check_given(&self, plan: &Plan, inputs: &[InputView<'_>], given: &[OutputView<'_>]) -> Result<()> {
        if given.is_empty() {
            return Ok(());
        }
        if given.len() > plan.outputs.len() {
            return Err(Error::Internal(format!(
                "{} results, received memory for {}",
                plan.outputs.len(),
                given.len()
            )));
        }
        let slot = |shape: &[usize], dtype: DType, data: *mut u8| {
            Slot::new(data, shape.iter().product::<usize>() * dtype.size())
        };
        let mut taken: Vec<(String, Slot)> = Vec::new();
        for (input, &id) in inputs.iter().zip(self.graph.inputs()) {
            let name = self.graph.value(id).name.clone();
            taken.push((name, slot(input.shape, input.dtype, input.data.cast_mut())));
        }
        for (stored, &id) in self.parameters.iter().zip(self.graph.parameters()) {
            taken.push((self.graph.value(id).name.clone(), stored.slot()));
        }
        for (view, (shape, dtype)) in given.iter().zip(&plan.outputs) {
            if view.dtype != *dtype {
                let (want, got) = (dtype.name(), view.dtype.name());
                return Err(Error::Type(format!("out expects {want}, received {got}")));
            }
            if *view.shape != **shape {
                let (want, got) = (shape_text(shape), shape_text(view.shape));
                return Err(Error::Shape(format!("out expects the result's shape {want}, received {got}")));
            }
            let own = slot(view.shape, view.dtype, view.data);
            if let Some((name, _)) = taken.iter().find(|(_, other)| own.meets(*other)) {
                return Err(Error::Value(format!("out shares memory with {name}: give an array of its own")));
            }
            taken.push(("another out".into(), own));
        }
        Ok(())
    }

    /// Stored tensors and inputs are finite.
    ///
    /// # Safety
    /// The views are readable, and nobody writes the stored tensors.
    unsafe fn check_finite(&self, tables: &ExternalTables) -> Result<()> {
        let ids = self.graph.inputs().iter().chain(self.graph.parameters());
        for (&id, &slot) in ids.zip(tables.inputs.iter().chain(&tables.parameters)) {
            let value = self.graph.value(id);
            // SAFETY: a slot of floats, by its value's type.
            let text = (value.dtype == DType::F32).then(|| unsafe { finite::complaint(&value.name, slot) });
            if let Some(text) = text.flatten() {
                return Err(Error::NotFinite(text));
            }
        }
        Ok(())
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

    /// Locks all stored tensors, in one order for all programs: by address, each once.
    fn lock(&self, plan: &Plan, waiting: Waiting<'_>) -> Result<Locks<'_>> {
        let mut locks = Locks(LOCKS.take());
        let same = |a: &usize, b: &usize| Arc::ptr_eq(&self.parameters[*a], &self.parameters[*b]);
        let mut wanted = self.lock_order.chunk_by(same).map(|slots| {
            let writes = slots.iter().any(|slot| plan.written.binary_search(slot).is_ok());
            (&self.parameters[slots[0]], if writes { Access::Write } else { Access::Read })
        });
        // One section for all that are free; nobody waits inside it.
        let section = fork::section();
        let busy = wanted.find(|(stored, access)| {
            let held = stored.lock_if_free(*access, waiting);
            let busy = held.is_none();
            locks.0.extend(held);
            busy
        });
        drop(section);
        for (stored, access) in busy.into_iter().chain(wanted) {
            locks.0.push(stored.lock(access, waiting)?);
        }
        Ok(locks)
    }
}

thread_local! {
    /// Room for the locks of this thread's next run.
    static LOCKS: RefCell<Vec<Held<'static>>> = const { RefCell::new(Vec::new()) };
}

/// Held for the length of a run.
struct Locks<'a>(Vec<Held<'a>>);

impl Drop for Locks<'_> {
    fn drop(&mut self) {
        let section = fork::section();
        self.0.clear();
        drop(section);
        // The standard library collects into the same memory; it is empty, so that no guard outlives its lock.
        LOCKS.set(std::mem::take(&mut self.0).into_iter().map(|_| unreachable!("no guard is left")).collect());
    }
}

/// Labels keep the rules of all losses that read them.
///
/// # Safety
/// The view is readable.
unsafe fn check_labels(input: &InputView<'_>, spec: &InputSpec) -> Result<()> {
    let count = input.shape.iter().product::<usize>();
    let data = input.data.cast::<i64>();
    for rule in &spec.labels {
        for row in 0..count {
            // SAFETY: inside the view, which holds 64-bit integers.
            let label = unsafe { data.add(row).read_unaligned() };
            if !rule.allows(label) {
                let or = rule.ignore.map_or(String::new(), |ignore| format!(" or ignore_index {ignore}"));
                return Err(Error::Value(format!(
                    "cross_entropy: {} expects classes in [0, {}){or}, received {label} at row {row}",
                    spec.name, rule.classes
                )));
            }
        }
    }
    Ok(())
}
