//! What a warm run allocates, counted over the whole process: nothing on one thread, and with a team only what it takes
//! to wake it. One test in this binary, as the count is of all threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cnnrs::algorithm::Algorithm;
use cnnrs::arena::give_output;
use cnnrs::graph::op::Optimizer;
use cnnrs::graph::{Fused, Graph, Op, Scalar, UnaryKind, ValueId, grad};
use cnnrs::program::{InputView, OutputBuf, Program};
use cnnrs::storage::Stored;
use cnnrs::tensor::DType;
use cnnrs::window::Window2d;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator with a counter in front.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's word.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's word.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BATCH: usize = 16;
const RUNS: usize = 20;
const CLASSES: usize = 10;

/// The layers of LeNet-5 and, for training, loss, gradients and update.
struct Net {
    graph: Graph,
    parameters: Vec<(ValueId, Vec<usize>)>,
}

impl Net {
    fn parameter(&mut self, shape: &[usize]) -> ValueId {
        let id = self.graph.parameter(shape.to_vec(), DType::F32, "parameter");
        self.parameters.push((id, shape.to_vec()));
        id
    }

    fn layer(&mut self, x: ValueId, op: Op, weight: &[usize]) -> ValueId {
        let (weight, bias) = (self.parameter(weight), self.parameter(&weight[weight.len() - 1..]));
        self.graph.add_one(op, &[x, weight, bias], "layer").unwrap()
    }

    fn apply(&mut self, x: ValueId, op: Op) -> ValueId {
        self.graph.add_one(op, &[x], "layer").unwrap()
    }

    fn logits(&mut self, x: ValueId) -> ValueId {
        let conv = |pad| {
            let window = Window2d { kernel: [5, 5], pad: [[pad; 2]; 2], ..Window2d::UNIT };
            Op::Conv2d { window, groups: 1, algorithm: Algorithm::Auto, fused: Fused::default() }
        };
        let halves = Window2d { kernel: [2, 2], stride: [2, 2], ..Window2d::UNIT };
        let average = || Op::AvgPool2d { window: halves, ceil_mode: false, count_include_pad: true };
        let maximum = Op::MaxPool2d { window: halves, ceil_mode: false };
        let linear = || Op::Linear { activation: None };
        let y = self.layer(x, conv(2), &[5, 5, 1, 6]);
        let y = self.apply(y, Op::Unary(UnaryKind::Tanh));
        let y = self.apply(y, average());
        let y = self.layer(y, conv(0), &[5, 5, 6, 16]);
        let y = self.apply(y, Op::Unary(UnaryKind::Relu));
        let y = self.graph.add(maximum, &[y], "layer").unwrap()[0];
        let y = self.apply(y, Op::Flatten { order: cnnrs::graph::FlattenOrder::Chw });
        let y = self.layer(y, linear(), &[400, 120]);
        let y = self.apply(y, Op::Unary(UnaryKind::Tanh));
        self.layer(y, linear(), &[120, CLASSES])
    }

    fn program(self, outputs: Vec<ValueId>) -> Program {
        let shapes = self.graph.parameters().iter().map(|&id| self.graph.value(id).shape.clone());
        let stored = shapes.map(|shape| Arc::new(filled(shape))).collect();
        Program::new(self.graph, outputs, stored, "net".into()).unwrap()
    }
}

/// Reproducible small numbers.
fn filled(shape: Vec<usize>) -> Stored {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 101) as f32 - 50.0) / 1000.0).collect();
    let stored = Stored::zeros(shape, DType::F32).unwrap();
    // SAFETY: as many floats as the tensor has.
    unsafe { stored.assign(values.as_ptr().cast(), count, cnnrs::sync::Waiting::here(&|| false)).unwrap() };
    stored
}

fn inference() -> Program {
    let mut net = Net { graph: Graph::new(), parameters: Vec::new() };
    let x = net.graph.input(vec![BATCH, 28, 28, 1], DType::F32, "x", true).unwrap();
    let logits = net.logits(x);
    net.program(vec![logits])
}

fn training() -> Program {
    let mut net = Net { graph: Graph::new(), parameters: Vec::new() };
    let x = net.graph.input(vec![BATCH, 28, 28, 1], DType::F32, "x", true).unwrap();
    let labels = net.graph.input(vec![BATCH], DType::I64, "labels", true).unwrap();
    let logits = net.logits(x);
    let results =
        net.graph.add(Op::CrossEntropy { smoothing: Scalar::new(0.0), ignore: None }, &[logits, labels], "").unwrap();
    let wrt: Vec<ValueId> = net.parameters.iter().map(|(id, _)| *id).collect();
    let gradients = grad::gradients(&mut net.graph, &results[..1], &[None], &wrt).unwrap();
    let hyper = net.graph.input(vec![wrt.len(), 4], DType::F32, "hyper", false).unwrap();
    let mut operands = vec![hyper];
    for (gradient, (parameter, shape)) in gradients.into_iter().zip(net.parameters.clone()) {
        let momentum = net.graph.parameter(shape, DType::F32, "momentum");
        operands.extend([parameter, gradient.unwrap(), momentum]);
    }
    net.graph.add(Op::Update(Optimizer::Sgd { nesterov: false }), &operands, "").unwrap();
    net.program(vec![results[0], results[1]])
}

/// Allocations of some warm runs: the fewest of three tries, as the test harness lives in the same process.
fn allocations(program: &Program, inputs: &[InputView<'_>]) -> usize {
    let mut results: Vec<OutputBuf> = Vec::with_capacity(8);
    let mut run = || {
        // SAFETY: the arrays behind the views live in the caller.
        unsafe { program.run_into(inputs, &mut results, &|| false).unwrap() };
        results.drain(..).for_each(|result| give_output(result.buffer));
    };
    (0..5).for_each(|_| run());
    let count = |_| {
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        (0..RUNS).for_each(|_| run());
        ALLOCATIONS.load(Ordering::SeqCst) - before
    };
    (0..3).map(count).min().unwrap()
}

#[test]
fn a_warm_run_allocates_only_to_wake_its_team() {
    let images: Vec<f32> = (0..BATCH * 28 * 28).map(|i| (i % 17) as f32 / 17.0).collect();
    let labels: Vec<i64> = (0..BATCH as i64).map(|i| i % CLASSES as i64).collect();
    let hyper: Vec<f32> = [0.01f32, 0.9, 0.0, 0.0].repeat(8);
    let x = InputView { shape: &[BATCH, 28, 28, 1], dtype: DType::F32, data: images.as_ptr().cast() };
    let y = InputView { shape: &[BATCH], dtype: DType::I64, data: labels.as_ptr().cast() };
    let rates = InputView { shape: &[8, 4], dtype: DType::F32, data: hyper.as_ptr().cast() };
    for (name, program, inputs) in
        [("inference", inference(), vec![x.clone()]), ("step", training(), vec![x, y, rates])]
    {
        for threads in [1, 2, 3] {
            cnnrs::config::set_threads(threads);
            let found = allocations(&program, &inputs);
            let team = cnnrs::parallel::running_threads().unwrap_or(1);
            // Whatever the plan and the team's size: rayon's broadcast job where the workers slept, else nothing.
            let most = if threads.min(team) == 1 { 0 } else { RUNS };
            assert!(found <= most, "{name} on {threads} threads, {RUNS} runs: {found} allocations");
        }
    }
}
