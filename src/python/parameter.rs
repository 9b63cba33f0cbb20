//! Stored tensors as Python objects.

use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::arrays::{Input, owned_view};
use super::errors::ShapeError;
use super::floats::FloatArray;
use super::program::Signals;
use crate::storage::Stored;
use crate::sync::{InsideRun, Waiting};
use crate::tensor::{DType, shape_text};

/// Storage of one float32 or int64 tensor: C-contiguous, aligned, versioned.
#[pyclass(frozen, module = "cnnrs._core")]
pub struct Parameter {
    pub(super) stored: Arc<Stored>,
}

/// The data of an input, to be read while other Python threads run.
struct Source(*const u8, usize);

// SAFETY: an address; the array it belongs to is held by the caller for the whole call.
unsafe impl Send for Source {}
// SAFETY: as above.
unsafe impl Sync for Source {}

impl Source {
    fn assign_to(&self, stored: &Stored, give_up: &dyn Fn() -> bool) -> crate::error::Result<()> {
        let waiting = Waiting::here(give_up);
        let _inside = InsideRun::enter();
        // SAFETY: the caller holds the array, which has that many elements of the tensor's type.
        unsafe { stored.assign(self.0, self.1, waiting) }
    }
}

impl Parameter {
    fn copy_in(py: Python<'_>, stored: &Arc<Stored>, array: &Bound<'_, PyAny>) -> PyResult<()> {
        let input = Input::new(array, "array")?;
        if input.dtype() != stored.dtype() {
            let (want, got) = (stored.dtype().name(), input.dtype().name());
            return Err(PyTypeError::new_err(format!(
                "array expects {want}, received {got}: convert with .astype(np.{want})"
            )));
        }
        if input.shape() != stored.shape() {
            return Err(ShapeError::new_err(format!(
                "array expects shape {}, received {}",
                shape_text(stored.shape()),
                shape_text(input.shape())
            )));
        }
        let source = Source(input.data(), input.shape().iter().product());
        let signals = Signals::default();
        let result = py.detach(|| source.assign_to(stored, &|| signals.raised()));
        result.map_err(|error| signals.exception(error))
    }
}

#[pymethods]
impl Parameter {
    #[new]
    fn new(py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<Self> {
        let input = Input::new(array, "array")?;
        let dtype = match input.dtype() {
            dtype @ (DType::F32 | DType::I64) => dtype,
            other => {
                let got = other.name();
                return Err(PyTypeError::new_err(format!(
                    "array expects float32, received {got}: convert with .astype(np.float32)"
                )));
            }
        };
        let stored = Arc::new(Stored::zeros(input.shape().to_vec(), dtype)?);
        Self::copy_in(py, &stored, array)?;
        Ok(Self { stored })
    }

    /// The shape, fixed for life.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.stored.shape())
    }

    /// Number of elements.
    #[getter]
    fn size(&self) -> usize {
        self.stored.shape().iter().product()
    }

    /// Counts the writes; packed weights are keyed by it.
    #[getter]
    fn version(&self) -> u64 {
        self.stored.version()
    }

    /// A live read-only view that keeps the storage alive.
    fn view<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let stored = &slf.get().stored;
        // SAFETY: the storage is aligned, never moves and lives as long as this object, which the view keeps.
        let view = unsafe {
            let (data, owner) = (stored.slot().ptr(), slf.clone().into_any());
            match stored.dtype() {
                DType::I64 => owned_view(data.cast::<i64>(), stored.shape(), owner),
                _ => owned_view(data.cast::<f32>(), stored.shape(), owner),
            }
        };
        let options = PyDict::new(py);
        options.set_item(intern!(py, "write"), false)?;
        view.call_method(intern!(py, "setflags"), (), Some(&options))?;
        Ok(view)
    }

    /// Copies new content in and raises the version; waits for running calls.
    fn assign(&self, py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::copy_in(py, &self.stored, array)
    }

    /// Copies floats of any format and layout in; their memory is not the storage's own.
    fn assign_floats(&self, py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<()> {
        let floats = FloatArray::new(array)?;
        let (view, stored) = (floats.view(), &self.stored);
        let signals = Signals::default();
        let result = py.detach(|| {
            let give_up = || signals.raised();
            let waiting = Waiting::here(&give_up);
            let _inside = InsideRun::enter();
            // SAFETY: the array is held for the whole call, and it is not a view of the storage by the caller's word.
            unsafe { stored.assign_floats(&view, waiting) }
        });
        result.map_err(|error| signals.exception(error))
    }
}
