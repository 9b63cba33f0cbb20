//! The truth, never optimised: a graph evaluated node by node in double precision.
//!
//! Written from the formulas in the documentation of [`Op`](crate::graph::Op) and of [`function`](crate::function), and
//! from nothing else: no kernel, no plan, no rewrite. It judges gradient rules, rewrites and kernels, and shows every
//! intermediate value. Integers (labels, positions, bytes, keys) are 64 bits wide.
#![allow(clippy::float_cmp)] // equality is part of some formulas, and cases computed by hand are exact

mod arithmetic;
mod axis_map;
mod layers;
mod loss;
mod movement;
mod norm;
mod ops;
mod pool;
mod tensor;
mod unary;
mod update;

use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Op, Role, ValueId};
use crate::tensor::{DType, shape_text};
pub use ops::apply;
pub use tensor::{Data, Tensor};

/// What a graph computes from given inputs and stored tensors.
#[derive(Debug)]
pub struct Evaluation {
    values: Vec<Option<Tensor>>,
    /// The stored tensors after all effects, by slot; as they were if effects were not asked for.
    pub stored: Vec<Tensor>,
}

impl Evaluation {
    /// A value as it is before any effect, if it was needed.
    pub fn value(&self, id: ValueId) -> Option<&Tensor> {
        self.values[id.0].as_ref()
    }
}

/// What to evaluate.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Values to compute; nodes that none of them needs are left out.
    pub wanted: &'a [ValueId],
    /// Whether nodes with effects run too, after everything else and in order, each seeing what earlier ones wrote.
    pub effects: bool,
    /// Asked between nodes; true gives up.
    pub interrupted: &'a dyn Fn() -> bool,
}

impl<'a> Request<'a> {
    /// The values and nothing else.
    pub fn values(wanted: &'a [ValueId]) -> Self {
        Self { wanted, effects: false, interrupted: &|| false }
    }
}

/// Evaluates a graph on inputs and stored tensors, given in the graph's order.
pub fn evaluate(graph: &Graph, inputs: &[Tensor], stored: &[Tensor], request: Request<'_>) -> Result<Evaluation> {
    let mut values = vec![None; graph.value_count()];
    fill(graph, graph.inputs(), inputs, &mut values)?;
    fill(graph, graph.parameters(), stored, &mut values)?;
    for (index, value) in values.iter_mut().enumerate() {
        let info = graph.value(ValueId(index));
        if let Role::Constant(data) = &info.role {
            let floats = data.iter().map(|&x| f64::from(x)).collect();
            *value = Some(Tensor::floats(info.shape.clone(), floats));
        }
    }
    let needed = needed(graph, request);
    let mut evaluation = Evaluation { values, stored: stored.to_vec() };
    for (node, _) in graph.nodes().iter().zip(&needed).filter(|(node, needed)| **needed && !node.op.has_effect()) {
        if (request.interrupted)() {
            return Err(Error::Interrupted);
        }
        let results = run(graph, node, &evaluation.values)?;
        for (&id, result) in node.outputs.iter().zip(results) {
            debug_assert_eq!(result.shape(), graph.value(id).shape);
            evaluation.values[id.0] = Some(result);
        }
    }
    if request.effects {
        effects(graph, &mut evaluation)?;
    }
    Ok(evaluation)
}

/// Checks the tensors given for some values against what the graph says of them, and puts them in place.
fn fill(graph: &Graph, ids: &[ValueId], given: &[Tensor], values: &mut [Option<Tensor>]) -> Result<()> {
    if ids.len() != given.len() {
        return Err(Error::Internal(format!("expects {} tensors, received {}", ids.len(), given.len())));
    }
    for (&id, tensor) in ids.iter().zip(given) {
        let info = graph.value(id);
        if matches!(tensor.data(), Data::Floats(_)) != (info.dtype == DType::F32) {
            return Err(Error::Type(format!(
                "{} expects {}, received {}",
                info.name,
                if info.dtype == DType::F32 { "floats" } else { "integers" },
                if info.dtype == DType::F32 { "integers" } else { "floats" }
            )));
        }
        if tensor.shape() != info.shape {
            let (want, got) = (shape_text(&info.shape), shape_text(tensor.shape()));
            return Err(Error::Shape(format!("{} expects shape {want}, received {got}", info.name)));
        }
        values[id.0] = Some(tensor.clone());
    }
    Ok(())
}

/// For each node whether something that was asked for depends on it.
fn needed(graph: &Graph, request: Request<'_>) -> Vec<bool> {
    let mut alive = vec![false; graph.value_count()];
    for id in request.wanted {
        alive[id.0] = true;
    }
    let mut needed = vec![false; graph.nodes().len()];
    for (node, needed) in graph.nodes().iter().zip(&mut needed).rev() {
        *needed = if node.op.has_effect() { request.effects } else { node.outputs.iter().any(|id| alive[id.0]) };
        if *needed {
            for id in &node.inputs {
                alive[id.0] = true;
            }
        }
    }
    needed
}

/// The results of a node, or for one with effects the new contents of the stored tensors it writes.
fn run(graph: &Graph, node: &Node, values: &[Option<Tensor>]) -> Result<Vec<Tensor>> {
    let operands: Vec<&Tensor> = node.inputs.iter().filter_map(|id| values[id.0].as_ref()).collect();
    if operands.len() != node.inputs.len() {
        return Err(Error::Internal("an operand is used before it is made".into()).within(node.op.name()));
    }
    let shapes: Vec<&[usize]> = node.outputs.iter().map(|&id| graph.value(id).shape.as_slice()).collect();
    ops::apply(&node.op, &operands, &shapes).map_err(|error| error.within(node.op.name()).within(&node.name))
}

/// Runs the nodes with effects in order.
fn effects(graph: &Graph, evaluation: &mut Evaluation) -> Result<()> {
    let before = evaluation.values.clone();
    for node in graph.nodes().iter().filter(|node| node.op.has_effect()) {
        let contents = run(graph, node, &evaluation.values)?;
        for (id, tensor) in written(node).into_iter().zip(contents) {
            let Role::Parameter { slot } = graph.value(id).role else {
                return Err(Error::Internal("only stored tensors can be written".into()));
            };
            evaluation.stored[slot] = tensor.clone();
            evaluation.values[id.0] = Some(tensor);
        }
    }
    evaluation.values = before;
    Ok(())
}

/// The stored tensors that a node with effects writes, in the order of its new contents.
fn written(node: &Node) -> Vec<ValueId> {
    match node.op {
        Op::Update(optimizer) => node.inputs[1..]
            .chunks_exact(2 + optimizer.states())
            .flat_map(|one| [one[0]].into_iter().chain(one[2..].iter().copied()))
            .collect(),
        _ => vec![node.inputs[0]],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::{BinaryKind, Optimizer};
    use crate::graph::{Scalar, UnaryKind};

    fn affine(scale: f32, shift: f32) -> Op {
        Op::Unary(UnaryKind::Affine(Scalar::new(scale), Scalar::new(shift)))
    }

    #[test]
    fn only_what_is_wanted_is_computed() {
        let mut graph = Graph::new();
        let x = graph.input(vec![2], DType::F32, "x", true).unwrap();
        let y = graph.add_one(affine(2.0, 1.0), &[x], "").unwrap();
        let z = graph.add_one(Op::Unary(UnaryKind::Exp), &[x], "").unwrap();
        let inputs = [Tensor::floats(vec![2], vec![1.0, -3.0])];
        let found = evaluate(&graph, &inputs, &[], Request::values(&[y])).unwrap();
        assert_eq!(found.value(z), None);
        assert_eq!(found.value(y), Some(&Tensor::floats(vec![2], vec![3.0, -5.0])));
    }

    #[test]
    fn constants_and_stored_tensors_are_operands() {
        let mut graph = Graph::new();
        let w = graph.parameter(vec![], DType::F32, "w");
        let c = graph.constant(vec![2], vec![0.5, 1.5]);
        let y = graph.add_one(Op::Binary(BinaryKind::Mul), &[w, c], "").unwrap();
        let stored = [Tensor::floats(vec![], vec![4.0])];
        let found = evaluate(&graph, &[], &stored, Request::values(&[y])).unwrap();
        assert_eq!(found.value(y), Some(&Tensor::floats(vec![2], vec![2.0, 6.0])));
    }

    #[test]
    fn effects_come_last_and_see_each_other() {
        let mut graph = Graph::new();
        let w = graph.parameter(vec![1], DType::F32, "w");
        let ema = graph.parameter(vec![1], DType::F32, "ema");
        let momentum = graph.parameter(vec![1], DType::F32, "momentum");
        let hyper = graph.constant(vec![1, 4], vec![0.5, 0.0, 0.0, 0.0]);
        let weight = graph.constant(vec![], vec![0.25]);
        graph.add(Op::Update(Optimizer::Sgd { nesterov: false }), &[hyper, w, w, momentum], "").unwrap();
        graph.add(Op::Blend, &[ema, w, weight], "").unwrap();
        let y = graph.add_one(affine(10.0, 0.0), &[w], "").unwrap();
        let stored: Vec<Tensor> = [8.0, 0.0, 0.0].map(|x| Tensor::floats(vec![1], vec![x])).into();
        let wanted = [y, w];
        let request = Request { effects: true, ..Request::values(&wanted) };
        let found = evaluate(&graph, &[], &stored, request).unwrap();
        assert_eq!(found.value(y).unwrap().f(), [80.0]);
        assert_eq!(found.value(w).unwrap().f(), [8.0]);
        let after: Vec<f64> = found.stored.iter().map(|tensor| tensor.f()[0]).collect();
        assert_eq!(after, [4.0, 1.0, 8.0]);
        let without = evaluate(&graph, &[], &stored, Request::values(&[y])).unwrap();
        assert_eq!(without.stored, stored);
    }

    #[test]
    fn tensors_that_do_not_fit_are_refused() {
        let mut graph = Graph::new();
        let x = graph.input(vec![2], DType::F32, "x", true).unwrap();
        let run = |tensor: Tensor| evaluate(&graph, &[tensor], &[], Request::values(&[x])).map(|_| ());
        let shape = run(Tensor::floats(vec![3], vec![0.0; 3]));
        assert_eq!(shape, Err(Error::Shape("x expects shape (2,), received (3,)".into())));
        assert_eq!(
            run(Tensor::ints(vec![2], vec![0; 2])),
            Err(Error::Type("x expects floats, received integers".into()))
        );
    }

    #[test]
    fn an_interrupt_ends_it() {
        let mut graph = Graph::new();
        let x = graph.input(vec![1], DType::F32, "x", true).unwrap();
        let y = graph.add_one(affine(1.0, 0.0), &[x], "").unwrap();
        let wanted = [y];
        let request = Request { interrupted: &|| true, ..Request::values(&wanted) };
        let found = evaluate(&graph, &[Tensor::floats(vec![1], vec![0.0])], &[], request);
        assert!(matches!(found, Err(Error::Interrupted)));
    }
}
