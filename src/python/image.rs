//! Images before they meet a network.

use pyo3::prelude::*;

use super::arrays::{Input, output};
use crate::image::{self as core, Target};
use crate::kernels::image::Interpolation;

/// Resizes uint8 images (N, H, W, C) to `size` and gives the window (top, left, height, width) of the result.
#[pyfunction]
pub fn resize<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    size: (usize, usize),
    window: (usize, usize, usize, usize),
    interpolation: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let interpolation = Interpolation::parse(interpolation)?;
    let input = Input::new(x, "resize: x")?;
    let (top, left, height, width) = window;
    let range = |start: usize, length: usize| start..start.saturating_add(length);
    let target = Target { size: [size.0, size.1], window: [range(top, height), range(left, width)] };
    let view = input.view();
    // SAFETY: `input` keeps the array alive during the call.
    let result = py.detach(|| unsafe { core::resize(&view, &target, interpolation) });
    output(py, result.map_err(|error| error.within("resize"))?)
}
