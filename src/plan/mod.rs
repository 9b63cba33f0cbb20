//! The plan: what to run, in which order, on which memory. Made once per shape and instruction set, then immutable and
//! shared by all threads.

pub mod explain;
mod lower;
mod memory;
mod tables;

use std::sync::Arc;

use crate::config::Algorithm;
use crate::error::Result;
use crate::graph::{Graph, Op, Role, ValueId};
use crate::kernels::Kernel;
use crate::parallel::Attendance;
use crate::passes;
use crate::simd::Isa;
use crate::tensor::{AlignedBuf, DType, GUARD, scratch_pitch};

/// What choices depend on, beside the shapes. Never the number of threads, never a timing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Instruction-set level.
    pub isa: Isa,
    /// Permitted algorithms.
    pub algorithm: Algorithm,
    /// Most single rewrites of the graph, to find out which one makes a result wrong.
    pub rewrites: Option<usize>,
}

/// Where a buffer lies while the plan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The caller's array.
    Input(usize),
    /// A stored tensor.
    Parameter(usize),
    /// Contents that belong to the plan.
    Constant(usize),
    /// The result handed to the caller.
    Output(usize),
    /// A weight packed once per version, outside the run.
    Packed(usize),
    /// So many bytes into the arena.
    Arena(usize),
}

/// Memory that steps work on.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// Where it lies.
    pub place: Place,
    /// Its size.
    pub bytes: usize,
}

/// One kernel call.
#[derive(Debug)]
pub struct Step {
    /// What runs.
    pub kernel: Box<dyn Kernel>,
    /// Buffers in the kernel's operand order.
    pub operands: Vec<usize>,
    /// The op it serves.
    pub op: &'static str,
    /// The layer it serves.
    pub name: String,
    /// The shape string.
    pub shape: String,
    /// Whether it writes stored tensors.
    pub effect: bool,
    /// Float results of the node that are whole once the step has run: which one, and which operand it is.
    pub results: Vec<(usize, usize)>,
    /// Candidates that were not chosen, with the reason.
    pub refused: Vec<(String, String)>,
}

/// A weight to be packed before the run, unless a copy of its version is there.
#[derive(Debug)]
pub struct PackJob {
    /// Packs; operands are the weight and the packed copy.
    pub kernel: Box<dyn Kernel>,
    /// The stored tensor.
    pub slot: usize,
    /// What the copy looks like; equal formats are equal bytes.
    pub format: String,
    /// Size of the copy.
    pub bytes: usize,
}

/// What the caller passes.
#[derive(Debug, Clone)]
pub struct InputSpec {
    /// Its name in messages.
    pub name: String,
    /// Expected sizes.
    pub shape: Vec<usize>,
    /// Expected element type.
    pub dtype: DType,
    /// What its values may be if they are labels: they keep every one of these rules.
    pub labels: Vec<LabelRule>,
}

/// The labels a loss takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelRule {
    /// They lie below this number,
    pub classes: usize,
    /// or are this one.
    pub ignore: Option<i64>,
}

impl LabelRule {
    /// Whether the label is one of them.
    pub fn allows(self, label: i64) -> bool {
        (0..self.classes as i64).contains(&label) || self.ignore == Some(label)
    }
}

/// An executable form of a graph.
#[derive(Debug)]
pub struct Plan {
    /// Kernel calls in order.
    pub steps: Vec<Step>,
    /// Steps of one task, which the calling thread runs.
    pub single: Vec<bool>,
    /// All buffers.
    pub buffers: Vec<Buffer>,
    /// Weights packed outside the run.
    pub packs: Vec<PackJob>,
    /// Contents of the constants.
    pub constants: Vec<Arc<Vec<f32>>>,
    /// What the caller passes.
    pub inputs: Vec<InputSpec>,
    /// Shapes and types of the results.
    pub outputs: Vec<(Arc<[usize]>, DType)>,
    /// Slots of stored tensors that the plan writes.
    pub written: Vec<usize>,
    /// Index of the first step that writes stored tensors; until then a run can be given up.
    pub first_effect: usize,
    /// The first step that touches each buffer of the arena and each result, as (step, buffer) by step.
    pub births: Vec<(usize, usize)>,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Bytes of scratch per thread.
    pub scratch_bytes: usize,
    /// Floating-point operations of one run.
    pub flops: u64,
    /// Floating-point operations or bytes of all buffers, whichever is more.
    pub work: u64,
    /// What the choices depended on.
    pub options: Options,
    /// What the rewrites did to the graph.
    pub passes: Vec<passes::PassReport>,
}

/// Work below so many floating-point operations and bytes stays on the calling thread: others cost more to meet.
const TINY: u64 = 1 << 17;
/// Work below so many is shared with threads that are awake; to wake them costs more.
const SMALL: u64 = 1 << 20;

impl Plan {
    /// Whether it ends before anybody could want to interrupt it.
    pub fn is_small(&self) -> bool {
        self.work < SMALL
    }

    /// Who takes part in a run.
    pub fn attendance(&self) -> Attendance {
        if self.is_small() { Attendance::Awake } else { Attendance::All }
    }

    /// Bytes that a run on a team of `threads` needs beside the caller's arrays and stored tensors, as the system counts
    /// them: arena, scratch, results, packed weights and constants.
    pub fn peak_bytes(&self, threads: usize) -> usize {
        let packed = self.packs.iter().map(|pack| AlignedBuf::footprint(pack.bytes)).sum::<usize>();
        AlignedBuf::footprint(self.arena_bytes)
            + AlignedBuf::footprint(self.scratch_total(threads))
            + self.output_total()
            + packed
            + self.constants.iter().map(|data| size_of_val(data.as_slice())).sum::<usize>()
    }

    /// Bytes of scratch for a team of `threads`.
    pub fn scratch_total(&self, threads: usize) -> usize {
        scratch_pitch(self.scratch_bytes) * threads
    }

    /// Bytes of all results, as the system counts them.
    pub fn output_total(&self) -> usize {
        let outputs = self.buffers.iter().filter(|buffer| matches!(buffer.place, Place::Output(_)));
        outputs.map(|buffer| AlignedBuf::footprint(buffer.bytes + GUARD)).sum()
    }

    /// Bytes of weights packed outside the run.
    pub fn packed_bytes(&self) -> usize {
        self.packs.iter().map(|pack| pack.bytes).sum()
    }

    /// The largest team that runs it: one thread if that is enough, else as many as are configured.
    pub fn threads(&self) -> Result<usize> {
        // Read always: a bad setting shows at once.
        let configured = crate::config::threads()?.0;
        Ok(if self.work < TINY { 1 } else { configured })
    }
}

/// Compiles a graph: simplify, fuse, lower, place memory.
pub fn compile(graph: &Graph, outputs: &[ValueId], options: Options) -> Result<Plan> {
    let mut graph = graph.clone();
    // Where the results of nodes are looked at, each node has to be its own.
    let watched = crate::config::check_finite()?;
    let chosen: &[_] = if watched { &passes::PLAIN } else { &passes::PASSES };
    let passes = passes::run(&mut graph, outputs, chosen, options.rewrites);
    let mut plan = lower::lower(&graph, outputs, options, watched)?;
    plan.passes = passes;
    plan.inputs = inputs(&graph);
    Ok(plan)
}

fn inputs(graph: &Graph) -> Vec<InputSpec> {
    graph
        .inputs()
        .iter()
        .map(|&id| {
            let value = graph.value(id);
            debug_assert!(matches!(value.role, Role::Input { .. }));
            let rules = graph.nodes().iter().filter_map(|node| match node.op {
                Op::CrossEntropy { ignore, .. } if node.inputs[1] == id => {
                    Some(LabelRule { classes: graph.value(node.inputs[0]).shape[1], ignore })
                }
                _ => None,
            });
            let labels = rules.collect();
            InputSpec { name: value.name.clone(), shape: value.shape.clone(), dtype: value.dtype, labels }
        })
        .collect()
}
