//! The graph builder as Python sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::arrays::Input;
use super::ops;
use super::parameter::Parameter;
use super::reference::reference;
use super::shadows::Shadows;
use crate::error::{Error, Result};
use crate::graph::{self, ValueId};
use crate::passes;
use crate::storage::Stored;
use crate::tensor::DType;

/// A graph and the stored tensors it names.
#[derive(Clone, Default)]
pub(super) struct Traced {
    pub graph: graph::Graph,
    pub parameters: Vec<Arc<Stored>>,
}

/// What a trace has recorded so far.
#[derive(Default)]
struct Recorded {
    traced: Traced,
    shadows: Shadows,
}

/// Builder and graph in one; values are int ids. Shapes are checked when a node is added.
#[pyclass(frozen, module = "cnnrs._core")]
pub struct Graph(Mutex<Recorded>);

/// A node as `nodes()` lists it: layer, op, operands, results.
type NodeRow = (String, &'static str, Vec<usize>, Vec<usize>);

/// What `batch_sizes()` returns: per axis the sizes for two other batch sizes.
type BatchSizes = Vec<Option<[usize; 2]>>;

/// A pass as `simplified()` lists it: its name and its single rewrites.
type PassRow = (&'static str, Vec<String>);

impl Graph {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The graph as it is now.
    pub(super) fn traced(&self) -> Traced {
        self.lock().traced.clone()
    }
}

fn known(graph: &graph::Graph, ids: &[usize]) -> Result<Vec<ValueId>> {
    match ids.iter().find(|&&id| id >= graph.value_count()) {
        Some(stray) => Err(Error::Internal(format!("value {stray} is not part of this graph"))),
        None => Ok(ids.iter().map(|&id| ValueId(id)).collect()),
    }
}

fn numbers(ids: &[ValueId]) -> Vec<usize> {
    ids.iter().map(|id| id.0).collect()
}

#[pymethods]
impl Graph {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }

    /// Adds an input of dtype "float32", "uint8" or "int64"; with `batched`, axis 0 may differ at run.
    #[pyo3(signature = (shape, dtype, name, batched=true))]
    fn input(&self, shape: Vec<usize>, dtype: &str, name: &str, batched: bool) -> PyResult<usize> {
        let dtype = DType::parse(dtype)?;
        let Recorded { traced, shadows } = &mut *self.lock();
        let id = traced.graph.input(shape.clone(), dtype, name, batched)?;
        shadows.input(&shape, dtype, batched);
        Ok(id.0)
    }

    /// Adds a parameter; the same `Parameter` twice gives the same id.
    fn parameter(&self, parameter: &Bound<'_, Parameter>, name: &str) -> usize {
        let stored = &parameter.get().stored;
        let Recorded { traced, shadows } = &mut *self.lock();
        if let Some(slot) = traced.parameters.iter().position(|known| Arc::ptr_eq(known, stored)) {
            return traced.graph.parameters()[slot].0;
        }
        traced.parameters.push(stored.clone());
        shadows.parameter(stored.shape(), stored.dtype());
        traced.graph.parameter(stored.shape().to_vec(), stored.dtype(), name).0
    }

    /// Adds a float32 constant, copied in.
    fn constant(&self, array: &Bound<'_, PyAny>) -> PyResult<usize> {
        let input = Input::new(array, "constant")?;
        let data = input.to_floats("constant")?;
        let Recorded { traced, shadows } = &mut *self.lock();
        shadows.constant(input.shape());
        Ok(traced.graph.constant(input.shape().to_vec(), data).0)
    }

    /// Adds a node and returns the ids of its outputs; `name` is the layer's path and stands before error texts.
    fn add(&self, op: &str, inputs: Vec<usize>, attrs: &Bound<'_, PyDict>, name: &str) -> PyResult<Vec<usize>> {
        let Recorded { traced, shadows } = &mut *self.lock();
        let inputs = known(&traced.graph, &inputs)?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|&id| traced.graph.value(id).shape.as_slice()).collect();
        let op = ops::parse(op, attrs, &shapes)?;
        let outputs = traced.graph.add(op.clone(), &inputs, name)?;
        shadows.add(&op, &inputs);
        Ok(numbers(&outputs))
    }

    /// Shape and dtype name of a value.
    fn info<'py>(&self, py: Python<'py>, value: usize) -> PyResult<(Bound<'py, PyTuple>, &'static str)> {
        let graph = &self.lock().traced.graph;
        let info = graph.value(known(graph, &[value])?[0]);
        Ok((PyTuple::new(py, &info.shape)?, info.dtype.name()))
    }

    /// For each axis of a value that follows the batch size, its sizes for two other batch sizes; None if no axis does,
    /// or nothing is known because the graph is specific to its batch size.
    fn batch_sizes(&self, value: usize) -> PyResult<Option<BatchSizes>> {
        let Recorded { traced, shadows } = &*self.lock();
        Ok(shadows.sizes(&traced.graph, known(&traced.graph, &[value])?[0]))
    }

    /// Whether the graph is good for the batch size it was traced with only.
    #[getter]
    fn batch_specific(&self) -> bool {
        self.lock().shadows.specific
    }

    /// Appends the backward graph and returns the gradient of each value in `wrt`, None where no path leads there.
    fn gradients(
        &self,
        outputs: Vec<usize>,
        seeds: Vec<Option<usize>>,
        wrt: Vec<usize>,
    ) -> PyResult<Vec<Option<usize>>> {
        let Recorded { traced, shadows } = &mut *self.lock();
        let graph = &mut traced.graph;
        let (outputs, wrt) = (known(graph, &outputs)?, known(graph, &wrt)?);
        let seeds: Vec<Option<ValueId>> = seeds.into_iter().map(|seed| seed.map(ValueId)).collect();
        if seeds.len() != outputs.len() {
            return Err(Error::Internal("one seed per output".into()).into());
        }
        known(graph, &seeds.iter().flatten().map(|id| id.0).collect::<Vec<_>>())?;
        let before = graph.nodes().len();
        let grads = graph::grad::gradients(graph, &outputs, &seeds, &wrt).inspect_err(|_| shadows.lose())?;
        shadows.gradients(graph, before, &outputs, &seeds, &wrt);
        Ok(grads.into_iter().map(|grad| grad.map(|id| id.0)).collect())
    }

    /// Evaluates values in double precision, node by node without rewrites, kernels or plans.
    #[pyo3(signature = (outputs, inputs, overrides=None, effects=false))]
    fn reference<'py>(
        &self,
        py: Python<'py>,
        outputs: Vec<usize>,
        inputs: Vec<Bound<'py, PyAny>>,
        overrides: Option<Bound<'py, PyDict>>,
        effects: bool,
    ) -> PyResult<Bound<'py, PyList>> {
        let traced = self.traced();
        let wanted = known(&traced.graph, &outputs)?;
        let overrides = overrides.unwrap_or_else(|| PyDict::new(py));
        reference(py, &traced, &wanted, &inputs, &overrides, effects)
    }

    /// The graph after at most `limit` single rewrites, and what each pass did.
    #[pyo3(signature = (outputs, limit=None))]
    fn simplified(&self, outputs: Vec<usize>, limit: Option<usize>) -> PyResult<(Self, Vec<PassRow>)> {
        let mut traced = self.traced();
        let outputs = known(&traced.graph, &outputs)?;
        let reports = passes::simplify(&mut traced.graph, &outputs, limit);
        traced.graph.check(&outputs)?;
        let rows = reports.into_iter().map(|report| (report.name, report.rewrites)).collect();
        Ok((Self(Mutex::new(Recorded { traced, shadows: Shadows::lost() })), rows))
    }

    /// (name, op, inputs, outputs) of every node in order.
    fn nodes(&self) -> Vec<NodeRow> {
        let recorded = self.lock();
        let rows = recorded.traced.graph.nodes().iter();
        rows.map(|node| (node.name.clone(), node.op.name(), numbers(&node.inputs), numbers(&node.outputs))).collect()
    }

    fn __str__(&self) -> String {
        self.lock().traced.graph.to_string()
    }
}
