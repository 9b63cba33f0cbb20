//! The extension module `cnnrs._core`: arrays in, arrays out, errors as exceptions. No numerics.
#![allow(clippy::needless_pass_by_value)] // arguments of Python functions arrive as values

mod arrays;
mod eager;
mod errors;
mod floats;
mod graph;
mod image;
mod ops;
mod parameter;
mod program;
mod reference;
mod settings;
mod shadows;

use pyo3::prelude::*;

/// Private parts of cnnrs; the public names are those of the Python package.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::eager::{cached_ops, clear_cache, eager};
    #[pymodule_export]
    use super::errors::{DataError, ShapeError, UnsupportedError, WeightsError};
    #[pymodule_export]
    use super::floats::{all_finite, to_float32};
    #[pymodule_export]
    use super::graph::Graph;
    #[pymodule_export]
    use super::image::resize;
    #[pymodule_export]
    use super::parameter::Parameter;
    #[pymodule_export]
    use super::program::{PlanCache, Program, last_input_addresses, start_profile, stop_profile};
    #[pymodule_export]
    use super::settings::{
        config, fail_allocation, failure_is_due, fma_peak, get_algorithm, get_num_threads, inject_panic, isa_levels,
        random_normal, random_permutation, random_uniform, set_algorithm, set_isa, set_num_threads,
    };
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::sync::fork::watch();
        super::arrays::prepare(module.py())
    }
}
