//! One op on arrays: a one-node program, cached by op, shapes and types.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::arrays::Input;
use super::program::{clear_living, register, run};
use super::{errors, ops};
use crate::error::Result;
use crate::graph::{Graph, Op};
use crate::program::Program;
use crate::sync::Brief;
use crate::tensor::DType;

/// Most one-node programs a process keeps.
const MAX_PROGRAMS: usize = 256;

type Key = (Op, Vec<(Vec<usize>, DType)>);

/// Programs with the time of their last use.
#[derive(Default)]
struct Cache {
    clock: u64,
    programs: HashMap<Key, (u64, Arc<Program>)>,
}

static CACHE: Brief<Option<Cache>> = Brief::new(None);

fn compile(key: &Key) -> Result<Arc<Program>> {
    let (op, operands) = key;
    let names = argument_names(op);
    let mut graph = Graph::new();
    let mut inputs = Vec::with_capacity(operands.len());
    for (index, (shape, dtype)) in operands.iter().enumerate() {
        inputs.push(graph.input(shape.clone(), *dtype, names.get(index).copied().unwrap_or("input"), false)?);
    }
    let outputs = graph.add(op.clone(), &inputs, "")?;
    let program = Program::new(graph, outputs, Vec::new(), op.name().to_owned())?;
    Ok(Arc::new(program))
}

/// What the public function calls the operands.
fn argument_names(op: &Op) -> &'static [&'static str] {
    match op {
        Op::Conv2d { .. } | Op::Linear { .. } | Op::GroupNorm { .. } => &["x", "weight", "bias"],
        Op::Conv2dBackwardData { .. } => &["grad_y", "weight"],
        Op::Conv2dBackwardWeights { .. } => &["x", "grad_y"],
        Op::MaxPool2dBackward { .. } => &["grad_y", "index"],
        Op::AvgPool2dBackward { .. } => &["grad_y"],
        Op::CrossEntropy { .. } => &["logits", "labels", "weight"],
        Op::Binary(_) => &["a", "b"],
        Op::BatchNormTrain { .. } | Op::BatchNormInfer { .. } => {
            &["x", "weight", "bias", "running_mean", "running_var"]
        }
        Op::Dropout { .. } => &["x", "key"],
        _ => &["x"],
    }
}

/// Runs one op on arrays through a cached one-node plan; 0-d outputs come back as floats.
#[pyfunction]
pub fn eager<'py>(
    py: Python<'py>,
    op: &str,
    inputs: Vec<Bound<'py, PyAny>>,
    attrs: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyList>> {
    let inputs: Vec<Input<'py>> = inputs
        .iter()
        .map(|array| Input::new(array, "input").map_err(|error| within(py, error, op)))
        .collect::<PyResult<_>>()?;
    let shapes: Vec<&[usize]> = inputs.iter().map(Input::shape).collect();
    let parsed = ops::parse(op, attrs, &shapes).map_err(|error| within(py, error, op))?;
    let key: Key = (parsed, inputs.iter().map(|input| (input.shape().to_vec(), input.dtype())).collect());
    let found = CACHE.with(|cache| {
        let cache = cache.get_or_insert_default();
        cache.clock += 1;
        cache.programs.get_mut(&key).map(|(used, program)| {
            *used = cache.clock;
            program.clone()
        })
    });
    let program = match found {
        Some(program) => program,
        None => insert(key)?,
    };
    run(py, &program, &inputs, &[])
}

fn insert(key: Key) -> Result<Arc<Program>> {
    let program = compile(&key)?;
    register(&program);
    let kept = program.clone();
    let replaced = CACHE.with(|cache| {
        let Cache { clock, programs } = cache.get_or_insert_default();
        let full = programs.len() >= MAX_PROGRAMS;
        let oldest = programs.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| key.clone()).filter(|_| full);
        let oldest = oldest.and_then(|key| programs.remove(&key));
        (oldest, programs.insert(key, (*clock, kept)))
    });
    drop(replaced);
    Ok(program)
}

/// The same exception with the op's name in front.
fn within(py: Python<'_>, error: PyErr, op: &str) -> PyErr {
    let text = format!("{op}: {}", error.value(py));
    if error.is_instance_of::<errors::ShapeError>(py) {
        return errors::ShapeError::new_err(text);
    }
    // NumPy's own kinds take more than a text.
    if error.is_instance_of::<PyMemoryError>(py) {
        return PyMemoryError::new_err(text);
    }
    PyErr::from_type(error.get_type(py), text)
}

/// Number of one-op programs kept.
#[pyfunction]
pub fn cached_ops() -> usize {
    CACHE.with(|cache| cache.as_ref().map_or(0, |cache| cache.programs.len()))
}

/// Drops cached one-op plans, plans of models, packed weights and unused memory.
#[pyfunction]
pub fn clear_cache() {
    drop(CACHE.with(Option::take));
    clear_living();
    crate::arena::clear();
}
