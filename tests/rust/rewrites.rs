//! Random graphs: as traced, after the rewrites, and as planned they are the same graph.
//!
//! Traced and rewritten graphs run on the reference executor and agree bit for bit. Plans run in single precision; what
//! they may be off by is found by running the traced graph with every intermediate result disturbed by a few roundings.
#![allow(clippy::float_cmp)] // results that have to be equal are compared as such

#[path = "rewrites/draws.rs"]
mod draws;
#[path = "rewrites/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cnnrs::error::Error;
use cnnrs::graph::{Graph, Node, Op, Role, ValueId};
use cnnrs::passes::{PASSES, Pass, Rewrites, bisect, simplify};
use cnnrs::program::{InputView, Program};
use cnnrs::reference::{Data, Request, Tensor, apply, evaluate};
use cnnrs::simd::Isa;
use cnnrs::storage::Stored;
use cnnrs::tensor::DType;
use draws::Draws;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use random::{Case, decode};

/// Outputs of a graph, then what its effects leave in the stored tensors.
fn truth(case: &Case, graph: &Graph) -> Vec<Tensor> {
    let request = Request { effects: true, ..Request::values(&case.outputs) };
    let found = evaluate(graph, &case.inputs, &case.stored, request).expect("a graph that was built runs");
    let outputs = case.outputs.iter().map(|&id| found.value(id).expect("it was asked for").clone());
    outputs.chain(found.stored.iter().cloned()).collect()
}

/// The bits of all numbers.
fn bits(tensors: &[Tensor]) -> Vec<u64> {
    let of = |tensor: &Tensor| match tensor.data() {
        Data::Floats(data) => data.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        Data::Ints(data) => data.iter().map(|&x| x as u64).collect(),
    };
    tensors.iter().flat_map(of).collect()
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.f().iter().fold(0.0, |max, x| if x.abs() <= max { max } else { x.abs() })
}

/// The largest difference of two tensors; NaN counts as infinite.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let each = a.f().iter().zip(b.f()).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    each.fold(0.0, |max, x| if x <= max { max } else { x.abs().max(if x.is_nan() { f64::INFINITY } else { 0.0 }) })
}

/// Error of one op in single precision, relative to the largest number it reads or makes: about four roundings.
const NOISE: f64 = 1.0 / (1 << 22) as f64;

/// The traced graph with noise on the result of every node.
fn disturbed(case: &Case, seed: u64) -> Vec<Tensor> {
    let (graph, mut draws) = (&case.graph, Draws::new(seed));
    let mut values: Vec<Option<Tensor>> = vec![None; graph.value_count()];
    for (ids, tensors) in [(graph.inputs(), &case.inputs), (graph.parameters(), &case.stored)] {
        for (&id, tensor) in ids.iter().zip(tensors) {
            values[id.0] = Some(tensor.clone());
        }
    }
    for (index, value) in values.iter_mut().enumerate() {
        let info = graph.value(ValueId(index));
        if let Role::Constant(data) = &info.role {
            *value = Some(Tensor::floats(info.shape.clone(), data.iter().map(|&x| f64::from(x)).collect()));
        }
    }
    let mut stored = case.stored.clone();
    let (effects, pure): (Vec<&Node>, Vec<&Node>) = graph.nodes().iter().partition(|node| node.op.has_effect());
    for node in pure.into_iter().chain(effects) {
        let operands: Vec<&Tensor> = node.inputs.iter().map(|id| values[id.0].as_ref().expect("made")).collect();
        let shapes: Vec<&[usize]> = node.outputs.iter().map(|&id| graph.value(id).shape.as_slice()).collect();
        let results = apply(&node.op, &operands, &shapes).expect("a graph that was built runs");
        if node.op.has_effect() {
            for (id, tensor) in written(node).into_iter().zip(results) {
                let Role::Parameter { slot } = graph.value(id).role else { unreachable!() };
                stored[slot] = tensor;
            }
            continue;
        }
        let floats = |tensor: &&&Tensor| matches!(tensor.data(), Data::Floats(_));
        let read = operands.iter().filter(floats).map(|tensor| largest(tensor)).fold(0.0, f64::max);
        for (&id, result) in node.outputs.iter().zip(results) {
            values[id.0] = Some(match result.data() {
                Data::Floats(data) => {
                    let size = NOISE * largest(&result).max(read);
                    result.with(data.iter().map(|x| x + size * (2.0 * draws.uniform() - 1.0)).collect())
                }
                Data::Ints(_) => result,
            });
        }
    }
    let outputs = case.outputs.iter().map(|id| values[id.0].clone().expect("made"));
    outputs.chain(stored).collect()
}

/// Stored tensors that the effects of these graphs write.
fn written(node: &Node) -> Vec<ValueId> {
    match node.op {
        Op::Update(_) => node.inputs[1..].chunks_exact(3).flat_map(|one| [one[0], one[2]]).collect(),
        _ => vec![node.inputs[0]],
    }
}

/// Runs the plan of a program; results as `truth` lists them.
fn planned(case: &Case, program: &Program, stored: &[Arc<Stored>]) -> Result<Vec<Tensor>, Error> {
    for (stored, tensor) in stored.iter().zip(&case.stored) {
        let floats: Vec<f32> = tensor.f().iter().map(|&x| x as f32).collect();
        // SAFETY: as many floats as the tensor holds.
        unsafe { stored.assign(floats.as_ptr().cast(), floats.len(), cnnrs::sync::Waiting::here(&|| false))? };
    }
    let bytes: Vec<Vec<u8>> = case
        .inputs
        .iter()
        .map(|tensor| match tensor.data() {
            Data::Floats(data) => data.iter().flat_map(|&x| (x as f32).to_ne_bytes()).collect(),
            Data::Ints(data) => data.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        })
        .collect();
    let views: Vec<InputView<'_>> = case
        .inputs
        .iter()
        .zip(&bytes)
        .map(|(tensor, bytes)| {
            let dtype = if matches!(tensor.data(), Data::Floats(_)) { DType::F32 } else { DType::I64 };
            InputView { shape: tensor.shape(), dtype, data: bytes.as_ptr() }
        })
        .collect();
    // SAFETY: the views are vectors of this function.
    let results = unsafe { program.run(&views, &|| false)? };
    let floats = |shape: &[usize], data: *const u8| {
        let count = shape.iter().product();
        // SAFETY: results and stored tensors are aligned and hold that many floats, which nobody writes now.
        let floats = unsafe { std::slice::from_raw_parts(data.cast::<f32>(), count) };
        Tensor::floats(shape.to_vec(), floats.iter().map(|&x| f64::from(x)).collect())
    };
    let outputs = results.iter().map(|result| floats(&result.shape, result.buffer.ptr()));
    Ok(outputs.chain(stored.iter().map(|stored| floats(stored.shape(), stored.slot().ptr()))).collect())
}

fn program(case: &Case, graph: Graph) -> (Program, Vec<Arc<Stored>>) {
    let stored: Vec<Arc<Stored>> = graph
        .parameters()
        .iter()
        .map(|&id| Arc::new(Stored::zeros(graph.value(id).shape.clone(), DType::F32).expect("small")))
        .collect();
    (Program::new(graph, case.outputs.clone(), stored.clone(), "random".into()).expect("outputs exist"), stored)
}

/// What of a graph's results is wrong in a plan, if anything.
fn wrong(case: &Case, graph: &Graph, truth: &[Tensor], bounds: &[f64], rewrites: bool) -> Option<String> {
    let (mut program, stored) = program(case, graph.clone());
    if !rewrites {
        program = program.limited(0);
    }
    let found = match planned(case, &program, &stored) {
        Ok(found) => found,
        Err(error) => return Some(error.to_string()),
    };
    let mut worst = None;
    for (index, ((found, truth), bound)) in found.iter().zip(truth).zip(bounds).enumerate() {
        let distance = distance(found, truth);
        if distance > *bound {
            worst = Some(format!("result {index} is off by {distance:.3e}, allowed {bound:.3e}"));
        }
    }
    worst
}

/// What is wrong with the plans of a traced graph that is run as the case says, and which rewrite is guilty of it.
fn planning_error(case: &Case, traced: &Graph) -> Option<String> {
    let truth = truth(case, &case.graph);
    // Beyond that, single precision has no digits left to compare.
    if !truth.iter().all(|tensor| largest(tensor) < 1e4) {
        return None;
    }
    let noisy: Vec<Vec<Tensor>> = (0..4).map(|seed| disturbed(case, seed)).collect();
    let bound = |index: usize| {
        let spread = noisy.iter().map(|noisy| distance(&noisy[index], &truth[index])).fold(0.0, f64::max);
        4.0 * spread + NOISE * largest(&truth[index])
    };
    let bounds: Vec<f64> = (0..truth.len()).map(bound).collect();
    Isa::available().into_iter().find_map(|isa| {
        cnnrs::config::set_isa(Some(isa)).expect("an available level");
        let what = wrong(case, traced, &truth, &bounds, true)?;
        let guilty = bisect::guilty(traced, &case.outputs, &PASSES, |graph| {
            wrong(case, graph, &truth, &bounds, false).is_some()
        });
        Some(format!("{}: {what}; guilty rewrite: {guilty:?}", isa.name()))
    })
}

fn genes() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 4..90)
}

fn config() -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(11), failure_persistence: None, ..ProptestConfig::default() }
}

/// Every op of a graph by name.
fn ops(graph: &Graph) -> impl Iterator<Item = &'static str> + '_ {
    graph.nodes().iter().map(|node| node.op.name())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn rewritten_graphs_are_equal_to_traced_ones_bit_for_bit(genes in genes()) {
        let case = decode(&genes);
        prop_assert_eq!(case.graph.check(&case.outputs), Ok(()));
        let truth = bits(&truth(&case, &case.graph));
        let mut rewritten = case.graph.clone();
        simplify(&mut rewritten, &case.outputs, None);
        prop_assert_eq!(rewritten.check(&case.outputs), Ok(()));
        if bits(&self::truth(&case, &rewritten)) != truth {
            let guilty = bisect::guilty(&case.graph, &case.outputs, &PASSES, |graph| {
                bits(&self::truth(&case, graph)) != truth
            });
            prop_assert!(false, "guilty: {guilty:?} in\n{}", case.graph);
        }
    }

    #[test]
    fn planned_graphs_are_equal_to_traced_ones_within_rounding(genes in genes()) {
        let case = decode(&genes);
        if let Some(what) = planning_error(&case, &case.graph) {
            prop_assert!(false, "{what} in\n{}", case.graph);
        }
    }

    #[test]
    fn plans_for_another_batch_size_are_equal_too(genes in genes(), batch in 1usize..6) {
        let traced = decode(&genes).graph;
        // Sizes that agreed by chance for the traced batch may not for another.
        if let Some(case) = decode(&genes).with_batch(batch)
            && let Some(what) = planning_error(&case, &traced)
        {
            prop_assert!(false, "{what} with {batch} samples in\n{traced}");
        }
    }
}

/// The lists of numbers lead to graphs of all kinds of ops, with and without gradients and effects.
#[test]
fn the_random_graphs_hold_every_kind_of_op() {
    let mut draws = Draws::new(5);
    let mut seen = BTreeSet::new();
    let mut nodes = 0;
    for _ in 0..1000 {
        let genes: Vec<u32> = (0..draws.below(90)).map(|_| draws.below(1 << 32) as u32).collect();
        let case = decode(&genes);
        nodes += case.graph.nodes().len();
        seen.extend(ops(&case.graph).map(str::to_owned));
    }
    for op in [
        "conv2d",
        "conv2d_backward_data",
        "conv2d_backward_weights",
        "linear",
        "linear_backward_weights",
        "relu",
        "silu_backward",
        "exp",
        "log",
        "sqrt",
        "add",
        "sub",
        "mul",
        "div",
        "maximum",
        "share",
        "equal",
        "sum",
        "mean",
        "max",
        "sum_squares",
        "expand",
        "reshape",
        "reshape_like",
        "transpose",
        "slice",
        "slice_backward",
        "pad",
        "concat",
        "concat_part",
        "upsample",
        "upsample_backward",
        "flatten",
        "unflatten",
        "max_pool2d",
        "max_pool2d_backward",
        "avg_pool2d",
        "avg_pool2d_backward",
        "softmax",
        "log_softmax_backward",
        "batch_norm_train",
        "batch_norm_backward",
        "batch_norm_infer",
        "group_norm",
        "group_norm_backward",
        "local_response_norm",
        "local_response_norm_backward",
        "dropout",
        "sgd",
        "assign",
    ] {
        assert!(seen.contains(op), "{op} is in none of them");
    }
    assert!(nodes > 1000 * 8, "{nodes} nodes");
}

/// Each kind of fusion happens often in random graphs, also in training, and several of them on one convolution.
#[test]
fn the_random_graphs_are_fused_in_every_way() {
    let mut draws = Draws::new(29);
    let (mut made, mut whole) = (BTreeMap::<&str, usize>::new(), 0);
    for _ in 0..1000 {
        let genes: Vec<u32> = (0..draws.below(90)).map(|_| draws.below(1 << 32) as u32).collect();
        let case = decode(&genes);
        let mut graph = case.graph.clone();
        for report in simplify(&mut graph, &case.outputs, None) {
            *made.entry(report.name).or_default() += report.rewrites.len();
        }
        let all = |node: &&Node| match node.op {
            Op::Conv2d { fused, .. } => fused.norm.is_some() && fused.add && fused.activation.is_some(),
            _ => false,
        };
        whole += graph.nodes().iter().filter(all).count();
    }
    for pass in ["drop_dead", "fuse_norm", "fuse_add", "fuse_activation"] {
        assert!(made[pass] >= 60, "{made:?}");
    }
    assert!(whole >= 5, "only {whole} have everything");
}

/// The lists of numbers also lead to graphs that every rewrite changes, in every form that it makes.
#[test]
fn the_random_graphs_are_rewritten_in_every_way() {
    use cnnrs::graph::op::Gate;
    let mut draws = Draws::new(29);
    let mut seen = BTreeSet::new();
    for _ in 0..6000 {
        let genes: Vec<u32> = (0..draws.below(60)).map(|_| draws.below(1 << 32) as u32).collect();
        let Case { mut graph, outputs, .. } = decode(&genes);
        seen.extend(
            simplify(&mut graph, &outputs, None)
                .into_iter()
                .filter(|pass| !pass.rewrites.is_empty())
                .map(|pass| pass.name.to_owned()),
        );
        seen.extend(graph.nodes().iter().filter_map(|node| match node.op {
            Op::BatchNormTrain { activation, .. } => {
                Some(format!("normalize {} {}", node.inputs.len() > 5, activation.map_or("alone", |kind| kind.name())))
            }
            Op::BatchNormGateBackward { gate, sum } => {
                let gate = gate.map(|Gate { kind, recompute }| format!("{} {recompute}", kind.name()));
                let alone = !graph.nodes().iter().any(|other| other.inputs.contains(&node.outputs[3]));
                Some(format!("gate {} sum {sum} alone {alone}", gate.unwrap_or_default()))
            }
            _ => None,
        }));
    }
    let mut expected: Vec<String> = PASSES.iter().map(|pass| pass.0.to_owned()).collect();
    for residual in ["true", "false"] {
        expected.extend(["alone", "relu", "relu6", "tanh"].map(|kind| format!("normalize {residual} {kind}")));
    }
    // Only the normalization reads a gradient that passed the activation of its own result.
    expected
        .extend(["", "relu true", "relu false", "relu6 true"].map(|gate| format!("gate {gate} sum true alone true")));
    expected.extend(["", "relu6 false"].map(|gate| format!("gate {gate} sum true alone false")));
    expected.extend(["relu true", "relu6 true"].map(|gate| format!("gate {gate} sum false alone true")));
    expected.push("gate relu false sum false alone false".into());
    for form in expected {
        assert!(seen.contains(&form), "{form} is in none of them: {seen:#?}");
    }
}

/// A rewrite that is wrong now and then: products in layers of even number become sums.
fn broken(graph: &mut Graph, _outputs: &[ValueId], rewrites: &mut Rewrites) {
    use cnnrs::function::BinaryKind::{Add, Mul};
    let mut nodes = graph.nodes().to_vec();
    for node in &mut nodes {
        let even = node.name.trim_start_matches("layer").parse::<usize>().is_ok_and(|layer| layer % 2 == 0);
        if node.op == Op::Binary(Mul) && rewrites.allow(|| format!("touched {}", node.name)) && even {
            node.op = Op::Binary(Add);
        }
    }
    graph.set_nodes(nodes);
}

/// In random graphs, the rewrite that is named is one that changes the result, and the graph before it is right.
#[test]
fn an_injected_wrong_rewrite_is_named() {
    let passes = [PASSES[0], ("broken", broken as Pass), PASSES[1], PASSES[2], PASSES[3]];
    let mut draws = Draws::new(17);
    let mut caught = 0;
    for _ in 0..300 {
        let genes: Vec<u32> = (0..60).map(|_| draws.below(1 << 32) as u32).collect();
        let case = decode(&genes);
        let truth = bits(&truth(&case, &case.graph));
        let guilty =
            bisect::guilty(&case.graph, &case.outputs, &passes, |graph| bits(&self::truth(&case, graph)) != truth);
        if let Some(guilty) = guilty {
            let layer = guilty.strip_prefix("broken: touched layer").and_then(|layer| layer.parse::<usize>().ok());
            assert!(layer.is_some_and(|layer| layer % 2 == 0), "{guilty}");
            caught += 1;
        }
    }
    assert!(caught >= 20, "only {caught} graphs were hit");
}

/// Every op of these graphs has kernels, so that each comparison with plans compares something.
#[test]
fn every_random_graph_can_be_planned() {
    let mut draws = Draws::new(23);
    for _ in 0..500 {
        let genes: Vec<u32> = (0..draws.below(60)).map(|_| draws.below(1 << 32) as u32).collect();
        let case = decode(&genes);
        let (program, stored) = program(&case, case.graph.clone());
        assert!(planned(&case, &program, &stored).is_ok(), "{}", case.graph);
    }
}
