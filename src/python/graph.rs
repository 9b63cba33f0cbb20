//! The graph builder as Python sees it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::arrays::Input;
use super::ops;
use super::parameter::Parameter;
use super::reference::reference;
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

/// Builder and graph in one; values are int ids. Shapes are checked when a node is added.
#[pyclass(frozen, module = "cnnrs._core")]
pub struct Graph(Mutex<Traced>);

/// A node as `nodes()` lists it: layer, op, operands, results.
type NodeRow = (String, &'static str, Vec<usize>, Vec<usize>);

/// A pass as `simplified()` lists it: its name and its single rewrites.
type PassRow = (&'static str, Vec<String>);

impl Graph {
    fn lock(&self) -> MutexGuard<'_, Traced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The graph as it is now.
    pub(super) fn traced(&self) -> Traced {
        self.lock().clone()
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
        Self(Mutex::new(Traced::default()))
    }

    /// Adds an input of dtype "float32", "uint8" or "int64"; with `batched`, axis 0 may differ at run.
    #[pyo3(signature = (shape, dtype, name, batched=true))]
    fn input(&self, shape: Vec<usize>, dtype: &str, name: &str, batched: bool) -> PyResult<usize> {
        Ok(self.lock().graph.input(shape, DType::parse(dtype)?, name, batched)?.0)
    }

    /// Adds a parameter; the same `Parameter` twice gives the same id.
    fn parameter(&self, parameter: &Bound<'_, Parameter>, name: &str) -> usize {
        let stored = &parameter.get().stored;
        let mut traced = self.lock();
        if let Some(slot) = traced.parameters.iter().position(|known| Arc::ptr_eq(known, stored)) {
            return traced.graph.parameters()[slot].0;
        }
        traced.parameters.push(stored.clone());
        traced.graph.parameter(stored.shape().to_vec(), stored.dtype(), name).0
    }

    /// Adds a float32 constant, copied in.
    fn constant(&self, array: &Bound<'_, PyAny>) -> PyResult<usize> {
        let input = Input::new(array, "constant")?;
        let data = input.to_floats("constant")?;
        Ok(self.lock().graph.constant(input.shape().to_vec(), data).0)
    }

    /// Adds a node and returns the ids of its outputs; `name` is the layer's path and stands before error texts.
    fn add(&self, op: &str, inputs: Vec<usize>, attrs: &Bound<'_, PyDict>, name: &str) -> PyResult<Vec<usize>> {
        let mut traced = self.lock();
        let inputs = known(&traced.graph, &inputs)?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|&id| traced.graph.value(id).shape.as_slice()).collect();
        let op = ops::parse(op, attrs, &shapes)?;
        Ok(numbers(&traced.graph.add(op, &inputs, name)?))
    }

    /// Shape and dtype name of a value.
    fn info<'py>(&self, py: Python<'py>, value: usize) -> PyResult<(Bound<'py, PyTuple>, &'static str)> {
        let traced = self.lock();
        let id = known(&traced.graph, &[value])?[0];
        let info = traced.graph.value(id);
        Ok((PyTuple::new(py, &info.shape)?, info.dtype.name()))
    }

    /// Appends the backward graph and returns the gradient of each value in `wrt`, None where no path leads there.
    fn gradients(
        &self,
        outputs: Vec<usize>,
        seeds: Vec<Option<usize>>,
        wrt: Vec<usize>,
    ) -> PyResult<Vec<Option<usize>>> {
        let mut traced = self.lock();
        let graph = &mut traced.graph;
        let (outputs, wrt) = (known(graph, &outputs)?, known(graph, &wrt)?);
        let seeds: Vec<Option<ValueId>> = seeds.into_iter().map(|seed| seed.map(ValueId)).collect();
        if seeds.len() != outputs.len() {
            return Err(Error::Internal("one seed per output".into()).into());
        }
        known(graph, &seeds.iter().flatten().map(|id| id.0).collect::<Vec<_>>())?;
        let grads = graph::grad::gradients(graph, &outputs, &seeds, &wrt)?;
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
        Ok((Self(Mutex::new(traced)), reports.into_iter().map(|report| (report.name, report.rewrites)).collect()))
    }

    /// (name, op, inputs, outputs) of every node in order.
    fn nodes(&self) -> Vec<NodeRow> {
        let traced = self.lock();
        let rows = traced.graph.nodes().iter();
        rows.map(|node| (node.name.clone(), node.op.name(), numbers(&node.inputs), numbers(&node.outputs))).collect()
    }

    fn __str__(&self) -> String {
        self.lock().graph.to_string()
    }
}
