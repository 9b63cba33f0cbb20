//! Plans of random networks: buffers alive together never overlap, every value is written before it is read, and in
//! debug builds a kernel that leaves its buffers is found at its step.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cnnrs::arena::{Needs, with_arena};
use cnnrs::config::Algorithm;
use cnnrs::error::{Error, Result};
use cnnrs::exec::{self, Externals};
use cnnrs::function::BinaryKind;
use cnnrs::graph::{FlattenOrder, Fused, Graph, Op, Scalar, UnaryKind, ValueId, grad};
use cnnrs::kernels::Kernel;
use cnnrs::plan::{Options, Place, Plan, compile};
use cnnrs::program::{InputView, Program};
use cnnrs::simd::Isa;
use cnnrs::storage::Stored;
use cnnrs::tensor::{AlignedBuf, Args, DType, GUARD, Slot};
use cnnrs::window::Window2d;
use proptest::prelude::*;

const CLASSES: usize = 3;

fn options() -> Options {
    Options { isa: Isa::detect(), algorithm: Algorithm::Auto, rewrites: None }
}

/// A network of random layers; a layer that does not fit what came before is left out.
fn network(layers: &[(u8, usize, usize)], batch: usize, size: usize) -> (Graph, Vec<ValueId>) {
    let mut graph = Graph::new();
    let x = graph.input(vec![batch, size, size + 1, 2], DType::F32, "x", true).unwrap();
    let labels = graph.input(vec![batch], DType::I64, "labels", true).unwrap();
    let mut made = vec![x];
    let mut parameters = Vec::new();
    for &(kind, first, second) in layers {
        let from = *made.last().unwrap();
        let shape = graph.value(from).shape.clone();
        let kernel = [1 + first % 3, 1 + second % 3];
        let window = Window2d { kernel, stride: [1 + first % 2, 1], pad: [[second % 2; 2]; 2], ..Window2d::UNIT };
        let halves = Window2d { kernel: [2, 2], stride: [2, 2], ..Window2d::UNIT };
        let mut weight = |graph: &mut Graph, shape: Vec<usize>| {
            let id = graph.parameter(shape, DType::F32, "weight");
            parameters.push(id);
            id
        };
        let results = match kind % 7 {
            0 | 1 => {
                let channels = 1 + first % 9;
                let weight = weight(&mut graph, vec![kernel[0], kernel[1], shape[3], channels]);
                graph.add(
                    Op::Conv2d { window, groups: 1, algorithm: Algorithm::Auto, fused: Fused::default() },
                    &[from, weight],
                    "conv",
                )
            }
            2 => graph.add(Op::Unary(UnaryKind::Relu), &[from], "relu"),
            3 => graph.add(Op::Unary(UnaryKind::Tanh), &[from], "tanh"),
            4 => graph.add(Op::MaxPool2d { window: halves, ceil_mode: second % 2 == 0 }, &[from], "max"),
            5 => graph.add(
                Op::AvgPool2d { window: halves, ceil_mode: false, count_include_pad: true },
                &[from],
                "average",
            ),
            _ => {
                let same: Vec<ValueId> = made.iter().copied().filter(|&id| graph.value(id).shape == shape).collect();
                graph.add(Op::Binary(BinaryKind::Add), &[from, same[first % same.len()]], "add")
            }
        };
        made.extend(results.ok().and_then(|results| results.first().copied()));
    }
    let last = *made.last().unwrap();
    let order = if size.is_multiple_of(2) { FlattenOrder::Hwc } else { FlattenOrder::Chw };
    let flat = graph.add_one(Op::Flatten { order }, &[last], "flatten").unwrap();
    let weight = graph.parameter(vec![graph.value(flat).shape[1], CLASSES], DType::F32, "weight");
    parameters.push(weight);
    let logits = graph.add_one(Op::Linear { activation: None }, &[flat, weight], "head").unwrap();
    let loss =
        graph.add(Op::CrossEntropy { smoothing: Scalar::new(0.0), ignore: None }, &[logits, labels], "").unwrap();
    let gradients = grad::gradients(&mut graph, &loss[..1], &[None], &parameters).unwrap();
    let mut outputs = vec![loss[0], logits];
    outputs.extend(gradients.into_iter().flatten());
    (graph, outputs)
}

/// First and last step that touches each buffer.
fn lives(plan: &Plan) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; plan.buffers.len()];
    for (index, step) in plan.steps.iter().enumerate() {
        for &buffer in &step.operands {
            let first = lives[buffer].map_or(index, |(first, _)| first);
            lives[buffer] = Some((first, index));
        }
    }
    lives
}

/// Buffers of the arena as (offset, bytes, life), those that some step touches.
fn arena(plan: &Plan) -> Vec<(usize, usize, (usize, usize))> {
    let placed = plan.buffers.iter().zip(lives(plan));
    let inside = |(buffer, life): (&cnnrs::plan::Buffer, Option<(usize, usize)>)| match buffer.place {
        Place::Arena(offset) => Some((offset, buffer.bytes, life?)),
        _ => None,
    };
    placed.filter_map(inside).collect()
}

fn check_places(plan: &Plan) -> std::result::Result<(), TestCaseError> {
    let buffers = arena(plan);
    for (i, &(offset, bytes, life)) in buffers.iter().enumerate() {
        prop_assert!(offset + bytes + GUARD <= plan.arena_bytes);
        for &(other, size, other_life) in &buffers[i + 1..] {
            let apart = offset + bytes <= other || other + size <= offset;
            let together = life.0 <= other_life.1 && other_life.0 <= life.1;
            prop_assert!(apart || !together, "two of {} buffers overlap in\n{plan}", buffers.len());
        }
    }
    Ok(())
}

/// Values that stay small through many layers.
fn filled(shape: &[usize]) -> Arc<Stored> {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 200.0).collect();
    let stored = Stored::zeros(shape.to_vec(), DType::F32).unwrap();
    // SAFETY: as many floats as the tensor has.
    unsafe { stored.assign(values.as_ptr().cast(), count, cnnrs::sync::Waiting::here(&|| false)).unwrap() };
    Arc::new(stored)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn plans_of_random_networks_are_sound(
        layers in prop::collection::vec((any::<u8>(), 0usize..100, 0usize..100), 0..12),
        batch in 1usize..4,
        size in 1usize..9,
    ) {
        let (graph, outputs) = network(&layers, batch, size);
        check_places(&compile(&graph, &outputs, options()).unwrap())?;
        let stored = graph.parameters().iter().map(|&id| filled(&graph.value(id).shape)).collect();
        let program = Program::new(graph, outputs, stored, "random".into()).unwrap();
        let images = vec![0.5f32; batch * size * (size + 1) * 2];
        let labels: Vec<i64> = (0..batch as i64).map(|row| row % CLASSES as i64).collect();
        let inputs = [
            InputView { shape: &[batch, size, size + 1, 2], dtype: DType::F32, data: images.as_ptr().cast() },
            InputView { shape: &[batch], dtype: DType::I64, data: labels.as_ptr().cast() },
        ];
        // Debug builds fill buffers with NaN before their first step: what is read was written.
        // SAFETY: the arrays live in this function.
        for result in unsafe { program.run(&inputs, &|| false) }.unwrap() {
            let count = result.shape.iter().product::<usize>();
            // SAFETY: that many floats of a finished run.
            let values = unsafe { std::slice::from_raw_parts(result.buffer.ptr().cast::<f32>(), count) };
            prop_assert!(values.iter().all(|value| value.is_finite()), "{program:?}");
        }
    }
}

/// What a kernel does wrong, beside or instead of its work.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Writes behind its last operand.
    Beyond,
    /// Writes behind its scratch.
    Scratch,
    /// Writes nothing.
    Idle,
}

#[derive(Debug)]
struct Faulty {
    inner: Box<dyn Kernel>,
    fault: Fault,
}

impl Kernel for Faulty {
    fn name(&self) -> String {
        "faulty".into()
    }

    fn tasks(&self) -> usize {
        self.inner.tasks()
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        if !matches!(self.fault, Fault::Idle) {
            // SAFETY: the caller's word.
            unsafe { self.inner.run(task, args, scratch) };
        }
        let result = args.dst::<u8>(args.count() - 1);
        // SAFETY: guards lie behind results and scratch, which is what this test is about.
        unsafe {
            match self.fault {
                Fault::Beyond => result.at(result.len(), 0).write(0),
                Fault::Scratch => scratch.add(self.inner.scratch()).write(0),
                Fault::Idle => {}
            }
        }
    }
}

/// tanh, then the convolution of x, with `fault` in one of the steps; twice, so that memory holds a former run's values.
fn run_with(fault: Fault, step: usize) -> Result<Vec<f32>> {
    let mut graph = Graph::new();
    let x = graph.input(vec![1, 4, 4, 3], DType::F32, "x", true).unwrap();
    let weight = graph.input(vec![3, 3, 3, 5], DType::F32, "weight", false).unwrap();
    let y = graph.add_one(Op::Unary(UnaryKind::Tanh), &[x], "first").unwrap();
    let window = Window2d { kernel: [3, 3], pad: [[1; 2]; 2], ..Window2d::UNIT };
    let z = graph
        .add_one(
            Op::Conv2d { window, groups: 1, algorithm: Algorithm::Auto, fused: Fused::default() },
            &[y, weight],
            "second",
        )
        .unwrap();
    let sound = compile(&graph, &[z], options()).unwrap();
    let mut plan = compile(&graph, &[z], options()).unwrap();
    let found = plan.steps.iter().position(|step| step.op == "tanh").unwrap();
    let index = if step == 0 { found } else { plan.steps.len() - 1 };
    let inner = std::mem::replace(&mut plan.steps[index].kernel, Box::new(cnnrs::kernels::copy::Copy::new(0)));
    plan.steps[index].kernel = Box::new(Faulty { inner, fault });
    let (images, weights, count) = ([0.5f32; 48], [0.25f32; 135], 80);
    let result = AlignedBuf::new(count * 4 + GUARD).unwrap();
    let slot = |values: &[f32]| Slot::new(values.as_ptr().cast_mut().cast(), size_of_val(values));
    let (inputs, outputs) = ([slot(&images), slot(&weights)], [Slot::new(result.ptr(), count * 4)]);
    let externals = Externals { inputs: &inputs, outputs: &outputs, guarded: true, parameters: &[], packed: &[] };
    let needs = Needs { memory: plan.arena_bytes, scratch: sound.scratch_total(1), outputs: 0 };
    with_arena(needs, |arena| {
        // SAFETY: the slots are those of the plans, and live in this function.
        unsafe {
            exec::run(&sound, externals, arena, 1, &|| false).unwrap();
            exec::run(&plan, externals, arena, 1, &|| false).map_err(|stopped| stopped.error)?;
        }
        // SAFETY: `count` floats.
        Ok(unsafe { std::slice::from_raw_parts(result.ptr().cast::<f32>(), count) }.to_vec())
    })
}

#[test]
fn a_write_past_a_buffer_is_found_at_its_step() {
    if GUARD == 0 {
        return;
    }
    for (fault, step, layer) in
        [(Fault::Beyond, 0, "first"), (Fault::Beyond, 1, "second"), (Fault::Scratch, 1, "second")]
    {
        match run_with(fault, step) {
            Err(Error::Internal(text)) => {
                assert!(text.starts_with(&format!("{layer}: faulty wrote past the end of a buffer in ")), "{text}");
            }
            other => panic!("{fault:?} at step {step}: {other:?}"),
        }
    }
}

#[test]
fn a_value_that_nobody_wrote_is_nan() {
    if GUARD == 0 {
        return;
    }
    for step in [0, 1] {
        let values = run_with(Fault::Idle, step).unwrap();
        assert!(values.iter().all(|value| value.is_nan()), "{values:?}");
    }
}

/// Does what `inner` does where its thread has prepared for it.
#[derive(Debug)]
struct Prepared {
    inner: Box<dyn Kernel>,
    times: Arc<AtomicUsize>,
}

/// Tells threads apart.
fn token() -> u64 {
    let mut hasher = DefaultHasher::new();
    std::thread::current().id().hash(&mut hasher);
    hasher.finish()
}

impl Kernel for Prepared {
    fn name(&self) -> String {
        "prepared".into()
    }

    fn tasks(&self) -> usize {
        self.inner.tasks()
    }

    fn scratch(&self) -> usize {
        size_of::<u64>()
    }

    fn flops(&self) -> u64 {
        self.inner.flops()
    }

    unsafe fn prepare(&self, _args: &Args<'_>, scratch: *mut u8) {
        self.times.fetch_add(1, Ordering::Relaxed);
        // SAFETY: scratch is as large as stated.
        unsafe { scratch.cast::<u64>().write(token()) };
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word; the inner kernel takes no scratch.
        unsafe {
            assert_eq!(scratch.cast::<u64>().read(), token());
            self.inner.run(task, args, std::ptr::null_mut());
        }
    }
}

#[test]
fn every_thread_prepares_once_before_its_first_task() {
    let (count, shape) = (1 << 20, vec![1 << 10, 1 << 10]);
    let mut graph = Graph::new();
    let x = graph.input(shape, DType::F32, "x", false).unwrap();
    let y = graph.add_one(Op::Unary(UnaryKind::Relu), &[x], "layer").unwrap();
    let mut plan = compile(&graph, &[y], options()).unwrap();
    let times = Arc::new(AtomicUsize::new(0));
    let inner = std::mem::replace(&mut plan.steps[0].kernel, Box::new(cnnrs::kernels::copy::Copy::new(0)));
    assert!(inner.tasks() > 5 && inner.scratch() == 0);
    plan.steps[0].kernel = Box::new(Prepared { inner, times: times.clone() });
    plan.scratch_bytes = plan.scratch_bytes.max(64);
    let (images, result) = (vec![-1.0f32; count], AlignedBuf::new(count * 4 + GUARD).unwrap());
    let inputs = [Slot::new(images.as_ptr().cast_mut().cast(), count * 4)];
    let outputs = [Slot::new(result.ptr(), count * 4)];
    let externals = Externals { inputs: &inputs, outputs: &outputs, guarded: true, parameters: &[], packed: &[] };
    for threads in [1, 2, 5] {
        times.store(0, Ordering::Relaxed);
        let needs = Needs { memory: plan.arena_bytes, scratch: plan.scratch_total(threads), outputs: 0 };
        with_arena(needs, |arena| {
            // SAFETY: the slots are those of the plan, and live in this function.
            unsafe { exec::run(&plan, externals, arena, threads, &|| false) }.map_err(|stopped| stopped.error)
        })
        .unwrap();
        assert!((1..=threads).contains(&times.load(Ordering::Relaxed)));
    }
}
