//! NumPy arrays as views of the core, and results as NumPy arrays.

use numpy::ndarray::{ArrayViewD, IxDyn};
use numpy::npyffi::NPY_ARRAY_WRITEABLE;
use numpy::{Element, PyArrayDescrMethods, PyArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat};

use crate::arena::give_output;
use crate::error::Error;
use crate::program::{InputView, OutputBuf, OutputView};
use crate::tensor::{AlignedBuf, DType};

/// An array that a run reads: in place if it is C-contiguous, aligned and native, a copy of it otherwise.
pub struct Input<'py> {
    array: Bound<'py, PyUntypedArray>,
    dtype: DType,
}

impl<'py> Input<'py> {
    /// Takes an array of one of the core's types.
    pub fn new(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Self> {
        let Ok(array) = object.cast::<PyUntypedArray>() else {
            let found = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "{name} expects a NumPy array, received {found}: convert with np.asarray(x).astype(np.float32)"
            )));
        };
        let descr = array.dtype();
        let dtype = match (descr.kind(), descr.itemsize()) {
            (b'f', 4) => DType::F32,
            (b'u', 1) => DType::U8,
            (b'i', 4) => DType::I32,
            (b'i', 8) => DType::I64,
            _ => {
                return Err(PyTypeError::new_err(format!(
                    "{name} expects float32, received {descr}: convert with .astype(np.float32)"
                )));
            }
        };
        // SAFETY: reads the pointer field of a live array object.
        let data = unsafe { (*array.as_array_ptr()).fields.data } as usize;
        let native = descr.is_native_byteorder() != Some(false);
        if native && array.is_c_contiguous() && data.is_multiple_of(dtype.size()) {
            return Ok(Self { array: array.clone(), dtype });
        }
        let py = object.py();
        let options = PyDict::new(py);
        options.set_item(intern!(py, "dtype"), dtype.name())?;
        options.set_item(intern!(py, "order"), intern!(py, "C"))?;
        let copy = py.import(intern!(py, "numpy"))?.call_method(intern!(py, "array"), (object,), Some(&options))?;
        Ok(Self { array: copy.cast_into::<PyUntypedArray>()?, dtype })
    }

    /// Sizes.
    pub fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// First element.
    pub fn data(&self) -> *const u8 {
        // SAFETY: reads the pointer field of a live array object.
        unsafe { (*self.array.as_array_ptr()).fields.data.cast_const().cast() }
    }

    /// What the core sees.
    pub fn view(&self) -> InputView<'_> {
        InputView { shape: self.shape(), dtype: self.dtype, data: self.data() }
    }

    /// The elements, copied.
    pub fn to_floats(&self, name: &str) -> PyResult<Vec<f32>> {
        if self.dtype != DType::F32 {
            let found = self.dtype.name();
            return Err(PyTypeError::new_err(format!(
                "{name} expects float32, received {found}: convert with .astype(np.float32)"
            )));
        }
        let count = self.shape().iter().product::<usize>();
        let mut floats: Vec<f32> = Vec::new();
        floats.try_reserve_exact(count).map_err(|_| Error::Memory(count as u128 * size_of::<f32>() as u128))?;
        // SAFETY: the array holds `count` contiguous floats; the vector is new and has room for them.
        unsafe {
            std::ptr::copy_nonoverlapping(self.data(), floats.as_mut_ptr().cast(), count * size_of::<f32>());
            floats.set_len(count);
        }
        Ok(floats)
    }
}

/// An array of the caller that takes a result.
pub struct Given<'py> {
    array: Bound<'py, PyUntypedArray>,
    dtype: DType,
}

impl<'py> Given<'py> {
    /// Takes an array that can be written in place.
    pub fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let Ok(array) = object.cast::<PyUntypedArray>() else {
            let found = object.get_type().name()?;
            return Err(PyTypeError::new_err(format!("out expects a NumPy array, received {found}")));
        };
        let descr = array.dtype();
        let dtype = match (descr.kind(), descr.itemsize()) {
            (b'f', 4) => DType::F32,
            (b'i', 4) => DType::I32,
            _ => return Err(PyTypeError::new_err(format!("out expects float32, received {descr}"))),
        };
        // SAFETY: reads fields of a live array object.
        let (data, flags) = unsafe {
            let fields = &(*array.as_array_ptr()).fields;
            (fields.data as usize, fields.flags)
        };
        let complaint = if flags & NPY_ARRAY_WRITEABLE == 0 {
            "a writable array, received a read-only one"
        } else if !array.is_c_contiguous() {
            "a C-contiguous array, received another layout"
        } else if descr.is_native_byteorder() == Some(false) || !data.is_multiple_of(dtype.size()) {
            "an aligned array of native byte order, received another one"
        } else {
            return Ok(Self { array: array.clone(), dtype });
        };
        Err(PyValueError::new_err(format!("out expects {complaint}")))
    }

    /// What the core sees.
    pub fn view(&self) -> OutputView<'_> {
        // SAFETY: reads the pointer field of a live array object.
        let data = unsafe { (*self.array.as_array_ptr()).fields.data.cast() };
        OutputView { shape: self.array.shape(), dtype: self.dtype, data }
    }

    /// The array.
    pub fn array(&self) -> Bound<'py, PyAny> {
        self.array.clone().into_any()
    }
}

/// Owns the memory of a result; when NumPy drops the last reference, the memory is kept for a later result.
#[pyclass(frozen, module = "cnnrs._core")]
struct OutputMemory(Option<AlignedBuf>);

impl Drop for OutputMemory {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            give_output(buffer);
        }
    }
}

/// A result as Python sees it: an array over the result's own memory, or a float for a 0-d one.
pub fn output(py: Python<'_>, output: OutputBuf) -> PyResult<Bound<'_, PyAny>> {
    let OutputBuf { buffer, shape, dtype } = output;
    let data = buffer.ptr();
    if shape.is_empty() && dtype == DType::F32 {
        // SAFETY: a 0-d float result has four bytes.
        let value = unsafe { data.cast::<f32>().read() };
        give_output(buffer);
        return Ok(PyFloat::new(py, f64::from(value)).into_any());
    }
    let owner = Bound::new(py, OutputMemory(Some(buffer)))?.into_any();
    // SAFETY: `data` holds the product of `shape` elements and lives as long as its owner, which the array keeps.
    let array = unsafe {
        match dtype {
            DType::F32 => owned_view(data.cast::<f32>(), &shape, owner),
            DType::I32 => owned_view(data.cast::<i32>(), &shape, owner),
            DType::I64 => owned_view(data.cast::<i64>(), &shape, owner),
            DType::U8 => owned_view(data, &shape, owner),
        }
    };
    Ok(array)
}

/// Makes what the first array needs of Python: types and NumPy's table of functions. Done when the package is imported,
/// so that no fork finds it half made by another thread.
pub fn prepare(py: Python<'_>) -> PyResult<()> {
    let empty = OutputBuf { buffer: AlignedBuf::new(0)?, shape: [0].into(), dtype: DType::F32 };
    Input::new(&output(py, empty)?, "array").map(drop)
}

/// An array over `data`, kept alive by `owner`.
///
/// # Safety
/// `data` is aligned and holds the product of `shape` initialised elements for as long as `owner` lives.
pub unsafe fn owned_view<'py, T: Element>(
    data: *mut T,
    shape: &[usize],
    owner: Bound<'py, PyAny>,
) -> Bound<'py, PyAny> {
    // SAFETY: the caller's word.
    let array = unsafe {
        let view = ArrayViewD::from_shape_ptr(IxDyn(shape), data.cast_const());
        PyArrayDyn::borrow_from_array(&view, owner)
    };
    array.into_any()
}
