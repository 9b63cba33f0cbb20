//! The reference executor as Python sees it: values of a graph in double precision.

use numpy::{PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::graph::Traced;
use super::program::Signals;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::reference::{Data, Evaluation, Request, Tensor, evaluate};
use crate::storage::Stored;
use crate::sync::{Access, Waiting};
use crate::tensor::DType;

/// Copies an array: floats of any width to float64, integers to int64.
fn tensor(object: &Bound<'_, PyAny>, name: &str) -> PyResult<Tensor> {
    let Ok(array) = object.cast::<PyUntypedArray>() else {
        let found = object.get_type().name()?;
        return Err(PyTypeError::new_err(format!("{name} expects a NumPy array, received {found}")));
    };
    let kind = array.dtype().kind();
    let wide = match kind {
        b'f' => "float64",
        b'i' | b'u' => "int64",
        _ => {
            let found = array.dtype();
            return Err(PyTypeError::new_err(format!("{name} expects floats or integers, received {found}")));
        }
    };
    let options = PyDict::new(object.py());
    options.set_item(intern!(object.py(), "order"), intern!(object.py(), "C"))?;
    let wide = object.call_method(intern!(object.py(), "astype"), (wide,), Some(&options))?;
    let shape = array.shape().to_vec();
    Ok(if kind == b'f' {
        Tensor::floats(shape, wide.cast::<PyArrayDyn<f64>>()?.to_vec()?)
    } else {
        Tensor::ints(shape, wide.cast::<PyArrayDyn<i64>>()?.to_vec()?)
    })
}

/// The contents of a stored tensor, as no run leaves it half written.
fn contents(stored: &Stored, give_up: &dyn Fn() -> bool) -> Result<Tensor> {
    let _held = stored.lock(Access::Read, Waiting::here(give_up))?;
    let (data, count) = (stored.slot().ptr(), stored.shape().iter().product::<usize>());
    let shape = stored.shape().to_vec();
    if stored.dtype() == DType::I64 {
        // SAFETY: aligned storage of `count` integers, which nobody writes while the read lock is held.
        let ints = unsafe { std::slice::from_raw_parts(data.cast::<i64>(), count) };
        return Ok(Tensor::ints(shape, ints.to_vec()));
    }
    // SAFETY: aligned storage of `count` floats, which nobody writes while the read lock is held.
    let floats = unsafe { std::slice::from_raw_parts(data.cast::<f32>(), count) };
    Ok(Tensor::floats(shape, floats.iter().map(|&x| f64::from(x)).collect()))
}

/// A tensor as an array of its own.
fn array(py: Python<'_>, tensor: Tensor) -> PyResult<Bound<'_, PyAny>> {
    let (shape, data) = tensor.into_parts();
    Ok(match data {
        Data::Floats(data) => numpy::PyArray1::from_vec(py, data).reshape(shape)?.into_any(),
        Data::Ints(data) => numpy::PyArray1::from_vec(py, data).reshape(shape)?.into_any(),
    })
}

/// The values `wanted` of a graph, in order; with `effects`, stored tensors as the graph leaves them.
pub(super) fn reference<'py>(
    py: Python<'py>,
    traced: &Traced,
    wanted: &[ValueId],
    inputs: &[Bound<'py, PyAny>],
    overrides: &Bound<'py, PyDict>,
    effects: bool,
) -> PyResult<Bound<'py, PyList>> {
    let graph = &traced.graph;
    let named = graph.inputs().iter().map(|&id| graph.value(id).name.as_str()).chain(std::iter::repeat("input"));
    let mut inputs: Vec<Tensor> =
        inputs.iter().zip(named).map(|(object, name)| tensor(object, name)).collect::<PyResult<_>>()?;
    let signals = Signals::default();
    let read = || traced.parameters.iter().map(|stored| contents(stored, &|| signals.raised())).collect();
    let stored: Result<Vec<Tensor>> = py.detach(read);
    let mut stored = match stored {
        Ok(stored) => stored,
        Err(error) => return Err(signals.exception(error)),
    };
    for (id, object) in overrides {
        let id = ValueId(id.extract()?);
        let slots = [(graph.inputs(), &mut inputs), (graph.parameters(), &mut stored)];
        let slot = slots.into_iter().find_map(|(ids, tensors)| {
            ids.iter().position(|&known| known == id).and_then(|slot| tensors.get_mut(slot))
        });
        let Some(slot) = slot else {
            return Err(Error::Internal(format!("value {} is neither an input nor a stored tensor", id.0)).into());
        };
        *slot = tensor(&object, &graph.value(id).name)?;
    }
    let interrupted = || signals.raised();
    let results: Result<Vec<Tensor>> = py.detach(|| {
        let found = evaluate(graph, &inputs, &stored, Request { wanted, effects, interrupted: &interrupted })?;
        wanted.iter().map(|&id| chosen(traced, &found, id, effects)).collect()
    });
    let results = match results {
        Ok(results) => results,
        Err(error) => return Err(signals.exception(error)),
    };
    let list = PyList::empty(py);
    for result in results {
        list.append(array(py, result)?)?;
    }
    Ok(list)
}

/// A value that was asked for.
fn chosen(traced: &Traced, found: &Evaluation, id: ValueId, effects: bool) -> Result<Tensor> {
    if effects && let Some(slot) = traced.graph.parameters().iter().position(|&known| known == id) {
        return Ok(found.stored[slot].clone());
    }
    found.value(id).cloned().ok_or_else(|| Error::Internal(format!("value {} was not computed", id.0)))
}
