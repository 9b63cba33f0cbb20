//! Arrays of floats of several formats, in any layout.

use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::arrays::output;
use crate::floats::{Floats, Format};
use crate::program::OutputBuf;
use crate::tensor::{AlignedBuf, DType, volume};

/// An array whose elements convert to float32; uint16 holds the bits of bfloat16.
pub struct FloatArray<'py> {
    array: Bound<'py, PyUntypedArray>,
    format: Format,
}

impl<'py> FloatArray<'py> {
    /// Takes a native array.
    pub fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = object.cast::<PyUntypedArray>()?.clone();
        let descr = array.dtype();
        let format = match (descr.kind(), descr.itemsize(), descr.is_native_byteorder()) {
            (b'f', 2, Some(true)) => Format::F16,
            (b'u', 2, Some(true)) => Format::BF16,
            (b'f', 4, Some(true)) => Format::F32,
            (b'f', 8, Some(true)) => Format::F64,
            _ => return Err(PyTypeError::new_err(format!("array expects native floats, received {descr}"))),
        };
        Ok(Self { array, format })
    }

    /// What the core sees.
    pub fn view(&self) -> Floats<'_> {
        // SAFETY: reads the pointer field of a live array object.
        let data = unsafe { (*self.array.as_array_ptr()).fields.data.cast_const().cast() };
        Floats { data, shape: self.array.shape(), strides: self.array.strides(), format: self.format }
    }
}

/// Whether all numbers of an array are finite as float32.
#[pyfunction]
pub fn all_finite(py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<bool> {
    let floats = FloatArray::new(array)?;
    let view = floats.view();
    // SAFETY: the array is held for the whole call.
    Ok(py.detach(|| unsafe { view.all_finite() }))
}

/// The numbers of an array as a new float32 array in C order.
#[pyfunction]
pub fn to_float32<'py>(py: Python<'py>, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let floats = FloatArray::new(array)?;
    let view = floats.view();
    let buffer = AlignedBuf::new(volume(view.shape)? * DType::F32.size())?;
    // SAFETY: the array is held for the whole call; the buffer is new and has room for all of it.
    py.detach(|| unsafe { view.copy_to(buffer.ptr().cast()) });
    output(py, OutputBuf { buffer, shape: view.shape.into(), dtype: DType::F32 })
}
