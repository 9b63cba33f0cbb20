//! The executable thing: a graph with chosen outputs, its stored tensors, and its plans by batch size.

use std::collections::HashMap;
use std::sync::Arc;

use crate::arena::{take_output, with_arena};
use crate::error::{Error, Result};
use crate::exec::{self, Externals};
use crate::graph::{Graph, ValueId};
use crate::plan::{InputSpec, Options, PackJob, Plan, compile};
use crate::storage::Stored;
use crate::sync::{Access, Brief, Held, InsideRun, Waiting};
use crate::tensor::{AlignedBuf, DType, Slot, shape_text, volume};

/// Most plans one program keeps.
const MAX_PLANS: usize = 32;

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

/// A result: its memory, shape and type.
#[derive(Debug)]
pub struct OutputBuf {
    /// The elements.
    pub buffer: AlignedBuf,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

/// Plans with the time of their last use, and the clock.
type Plans = (u64, HashMap<Key, (u64, Arc<Plan>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    batch: Option<usize>,
    options: Options,
}

/// A graph ready to run on any batch size.
#[derive(Debug)]
pub struct Program {
    graph: Graph,
    outputs: Vec<ValueId>,
    parameters: Vec<Arc<Stored>>,
    plans: Brief<Plans>,
    name: String,
}

impl Program {
    /// A program that computes `outputs` and runs the graph's effects.
    pub fn new(graph: Graph, outputs: Vec<ValueId>, parameters: Vec<Arc<Stored>>, name: String) -> Result<Self> {
        if let Some(stray) = outputs.iter().find(|id| id.0 >= graph.value_count()) {
            return Err(Error::Internal(format!("value {} is not part of this graph", stray.0)));
        }
        Ok(Self { graph, outputs, parameters, plans: Brief::default(), name })
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
        let options = Options { isa: crate::config::isa()?, algorithm: crate::config::algorithm()? };
        let key = Key { batch, options };
        let found = self.plans.with(|(clock, plans)| {
            *clock += 1;
            plans.get_mut(&key).map(|(used, plan)| {
                *used = *clock;
                plan.clone()
            })
        });
        if let Some(plan) = found {
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
        let kept = plan.clone();
        let replaced = self.plans.with(|(clock, plans)| {
            let full = plans.len() >= MAX_PLANS;
            let oldest = plans.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key).filter(|_| full);
            let oldest = oldest.and_then(|key| plans.remove(&key));
            (oldest, plans.insert(key, (*clock, kept)))
        });
        drop(replaced);
        Ok(plan)
    }

    /// Drops all plans and packed weights.
    pub fn clear(&self) {
        drop(self.plans.with(|(_, plans)| std::mem::take(plans)));
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

    /// Runs on the caller's arrays and returns fresh results.
    ///
    /// Everything is checked before anything runs. Stored tensors that the graph writes are locked for this call
    /// alone; if `interrupted` stops it before the first write they are as they were.
    ///
    /// # Safety
    /// Each view's data is readable for the whole call; other threads may write it, which gives a mixture.
    pub unsafe fn run(
        &self,
        inputs: &[InputView<'_>],
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<OutputBuf>> {
        let batch = self.check(inputs)?;
        let plan = self.plan(batch)?;
        for (input, spec) in inputs.iter().zip(&plan.inputs) {
            // SAFETY: the view is readable, by the caller's word.
            unsafe { check_labels(input, spec)? };
        }
        let mut outputs = Vec::with_capacity(plan.outputs.len());
        for (shape, dtype) in &plan.outputs {
            let bytes = volume(shape)? * dtype.size();
            outputs.push(OutputBuf { buffer: take_output(bytes)?, shape: shape.clone(), dtype: *dtype });
        }
        let input_slots: Vec<Slot> = inputs
            .iter()
            .map(|input| {
                let bytes = input.shape.iter().product::<usize>() * input.dtype.size();
                Slot::new(input.data.cast_mut(), bytes)
            })
            .collect();
        let output_slots: Vec<Slot> =
            outputs.iter().map(|output| Slot::new(output.buffer.ptr(), output.buffer.bytes())).collect();
        let parameter_slots: Vec<Slot> = self.parameters.iter().map(|stored| stored.slot()).collect();
        let waiting = Waiting::here(interrupted);
        let _inside = InsideRun::enter();
        let _held = self.lock(&plan, waiting)?;
        let result = with_arena(|arena| {
            let packed: Vec<Arc<AlignedBuf>> =
                plan.packs.iter().map(|job| self.packed(job, arena, waiting, interrupted)).collect::<Result<_>>()?;
            let packed_slots: Vec<Slot> = packed.iter().map(|buffer| Slot::new(buffer.ptr(), buffer.bytes())).collect();
            let externals = Externals {
                inputs: &input_slots,
                outputs: &output_slots,
                parameters: &parameter_slots,
                packed: &packed_slots,
            };
            // SAFETY: sizes were checked against the plan's own shapes; outputs are fresh; written tensors are locked.
            unsafe { exec::run(&plan, externals, arena, interrupted) }
        });
        if result.as_ref().err().is_none_or(|stopped| stopped.wrote) {
            for &slot in &plan.written {
                self.parameters[slot].touch();
            }
        }
        result.map(|()| outputs).map_err(|stopped| stopped.error)
    }

    fn packed(
        &self,
        job: &PackJob,
        arena: &mut crate::arena::Arena,
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
    fn lock(&self, plan: &Plan, waiting: Waiting<'_>) -> Result<Vec<Held<'_>>> {
        let mut order: Vec<(usize, bool)> =
            (0..self.parameters.len()).map(|slot| (slot, plan.written.contains(&slot))).collect();
        order.sort_by_key(|&(slot, writes)| (Arc::as_ptr(&self.parameters[slot]) as usize, !writes));
        order.dedup_by_key(|&mut (slot, _)| Arc::as_ptr(&self.parameters[slot]) as usize);
        order
            .into_iter()
            .map(|(slot, writes)| {
                self.parameters[slot].lock(if writes { Access::Write } else { Access::Read }, waiting)
            })
            .collect()
    }
}

/// Labels lie in `0..classes`.
///
/// # Safety
/// The view is readable.
unsafe fn check_labels(input: &InputView<'_>, spec: &InputSpec) -> Result<()> {
    let Some(classes) = spec.label_limit else { return Ok(()) };
    let count = input.shape.iter().product::<usize>();
    let data = input.data.cast::<i64>();
    for row in 0..count {
        // SAFETY: inside the view, which holds 64-bit integers.
        let label = unsafe { data.add(row).read_unaligned() };
        if label < 0 || label >= classes as i64 {
            return Err(Error::Value(format!(
                "cross_entropy: {} expects classes in [0, {classes}), received {label} at row {row}",
                spec.name
            )));
        }
    }
    Ok(())
}
