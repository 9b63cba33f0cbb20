//! From the core's errors to Python's exceptions: one match.

use pyo3::create_exception;
use pyo3::exceptions::{
    PyFloatingPointError, PyKeyboardInterrupt, PyMemoryError, PyNotImplementedError, PyRuntimeError, PyTypeError,
    PyValueError,
};
use pyo3::prelude::*;

use crate::error::Error;

create_exception!(cnnrs, ShapeError, PyValueError, "Shapes that do not fit; the message holds the arithmetic.");
create_exception!(
    cnnrs,
    WeightsError,
    PyValueError,
    "Weights or a checkpoint that are damaged or do not fit the model."
);
create_exception!(cnnrs, DataError, PyValueError, "A data set that is damaged or inconsistent.");
create_exception!(cnnrs, UnsupportedError, PyNotImplementedError, "Something that cnnrs does not do (yet).");

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Shape(_) => ShapeError::new_err(text),
            Error::Type(_) => PyTypeError::new_err(text),
            Error::Value(_) => PyValueError::new_err(text),
            Error::Unsupported(_) => UnsupportedError::new_err(text),
            Error::Memory(_) => PyMemoryError::new_err(text),
            Error::NotFinite(_) => PyFloatingPointError::new_err(text),
            Error::Interrupted => PyKeyboardInterrupt::new_err(()),
            Error::State(_) | Error::Internal(_) => PyRuntimeError::new_err(text),
        }
    }
}
