//! Programs as Python sees them: the only way from Python to the kernels, and the only exit from the GIL.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::arrays::{Given, Input, output};
use super::graph::Graph;
use crate::error::Error;
use crate::graph::ValueId;
use crate::plan::explain::StepReport;
use crate::plan_cache;
use crate::profile;
use crate::program::{self, InputView, OutputBuf, OutputView};
use crate::sync::Brief;

thread_local! {
    static ADDRESSES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

static LIVING: Brief<Vec<Weak<program::Program>>> = Brief::new(Vec::new());

/// Remembers a program for [`clear_living`].
pub(super) fn register(program: &Arc<program::Program>) {
    LIVING.with(|living| {
        living.retain(|known| known.strong_count() > 0);
        living.push(Arc::downgrade(program));
    });
}

/// Drops the plans and packed weights of every program there is.
pub(super) fn clear_living() {
    let living: Vec<_> = LIVING.with(|living| living.iter().filter_map(Weak::upgrade).collect());
    for program in living {
        program.clear();
    }
}

/// Ctrl-C and other signals, looked for while the GIL is released.
#[derive(Default)]
pub(super) struct Signals(Mutex<Option<PyErr>>);

impl Signals {
    /// Runs Python's signal handlers if signals came; true if one of them raised.
    pub(super) fn raised(&self) -> bool {
        #[allow(clippy::redundant_closure_for_method_calls)] // the method is not general enough in its lifetime
        let Err(error) = Python::attach(|py| py.check_signals()) else { return false };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        true
    }

    /// What the handler raised, if that is why the call ended.
    pub(super) fn exception(self, error: Error) -> PyErr {
        match (error, self.0.into_inner().unwrap_or_else(PoisonError::into_inner)) {
            (Error::Interrupted, Some(raised)) => raised,
            (error, _) => error.into(),
        }
    }
}

/// Runs a program on arrays with the GIL released; the first results go to the arrays given for them.
pub(super) fn run<'py>(
    py: Python<'py>,
    program: &program::Program,
    inputs: &[Input<'py>],
    given: &[Given<'py>],
) -> PyResult<Bound<'py, PyList>> {
    let views: Vec<InputView<'_>> = inputs.iter().map(Input::view).collect();
    let targets: Vec<OutputView<'_>> = given.iter().map(Given::view).collect();
    ADDRESSES.with_borrow_mut(|addresses| {
        addresses.clear();
        addresses.extend(views.iter().map(|view| view.data as usize));
    });
    let signals = Signals::default();
    let interrupted = || signals.raised();
    let mut outputs: Vec<OutputBuf> = Vec::new();
    // SAFETY: `inputs` and `given` keep the arrays alive during the call.
    let result = py.detach(|| unsafe { program.run_given(&views, &targets, &mut outputs, &interrupted) });
    result.map_err(|error| signals.exception(error))?;
    let list = PyList::new(py, given.iter().map(Given::array))?;
    for result in outputs {
        list.append(output(py, result)?)?;
    }
    Ok(list)
}

/// The plans of programs that belong together: at most 32, the least recently used goes first.
#[pyclass(frozen, module = "cnnrs._core")]
#[derive(Default)]
pub struct PlanCache(Arc<plan_cache::PlanCache>);

#[pymethods]
impl PlanCache {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }
}

/// A graph with chosen outputs: the only executable thing. Plans are made per batch size and cached.
#[pyclass(frozen, module = "cnnrs._core")]
pub struct Program {
    program: Arc<program::Program>,
    names: Vec<String>,
}

#[pymethods]
impl Program {
    #[new]
    #[pyo3(signature = (graph, outputs, name="", plans=None, rewrites=None))]
    fn new(
        graph: &Bound<'_, Graph>,
        outputs: Vec<usize>,
        name: &str,
        plans: Option<&Bound<'_, PlanCache>>,
        rewrites: Option<usize>,
    ) -> PyResult<Self> {
        let traced = graph.get().traced();
        let names = traced.graph.inputs().iter().map(|&id| traced.graph.value(id).name.clone()).collect();
        let outputs = outputs.into_iter().map(ValueId).collect();
        let plans = plans.map_or_else(Arc::default, |plans| plans.get().0.clone());
        let name = name.to_owned();
        let mut program = program::Program::with_plans(traced.graph, outputs, traced.parameters, name, plans)?;
        if let Some(limit) = rewrites {
            program = program.limited(limit);
        }
        let program = Arc::new(program);
        register(&program);
        Ok(Self { program, names })
    }

    /// Runs on arrays given in the order of the `Graph.input` calls; returns one array (or float, if 0-d) per output. The
    /// first outputs are written to the arrays in `out` and returned as these.
    #[pyo3(signature = (inputs, out=None))]
    fn run<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Bound<'py, PyAny>>,
        out: Option<Vec<Bound<'py, PyAny>>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let inputs: Vec<Input<'py>> = inputs
            .iter()
            .enumerate()
            .map(|(index, array)| Input::new(array, self.names.get(index).map_or("input", String::as_str)))
            .collect::<PyResult<_>>()?;
        let given: Vec<Given<'py>> = out.iter().flatten().map(Given::new).collect::<PyResult<_>>()?;
        run(py, &self.program, &inputs, &given)
    }

    /// Describes the plan for a batch size without running it.
    fn plan<'py>(&self, py: Python<'py>, batch: usize) -> PyResult<Bound<'py, PyDict>> {
        let program = &self.program;
        let plan = py.detach(|| program.plan(program.graph().batch().map(|_| batch)))?;
        let steps = PyList::empty(py);
        for step in plan.report() {
            steps.append(row(py, step)?)?;
        }
        let report = PyDict::new(py);
        report.set_item("steps", steps)?;
        let threads = plan.threads()?;
        report.set_item("peak_bytes", plan.peak_bytes(threads))?;
        report.set_item("arena_bytes", plan.arena_bytes)?;
        report.set_item("scratch_bytes", plan.scratch_total(threads))?;
        report.set_item("output_bytes", plan.output_total())?;
        report.set_item("packed_bytes", plan.packed_bytes())?;
        report.set_item("parameter_bytes", program.parameter_bytes())?;
        report.set_item("flops", plan.flops)?;
        report.set_item("isa", plan.options.isa.name())?;
        Ok(report)
    }
}

/// A step as a dictionary.
fn row(py: Python<'_>, step: StepReport) -> PyResult<Bound<'_, PyDict>> {
    let row = PyDict::new(py);
    row.set_item("op", step.op)?;
    row.set_item("name", step.name)?;
    row.set_item("shape", step.shape)?;
    row.set_item("kernel", step.kernel)?;
    row.set_item("tasks", step.tasks)?;
    row.set_item("flops", step.flops)?;
    row.set_item("bytes", step.bytes)?;
    row.set_item("refused", step.refused)?;
    Ok(row)
}

/// Begins to record the runs of this thread.
#[pyfunction]
pub fn start_profile() {
    profile::start();
}

/// Ends recording; for each run the steps with `seconds`, and the number of threads.
#[pyfunction]
pub fn stop_profile(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let runs = PyList::empty(py);
    for run in profile::stop() {
        let steps = PyList::empty(py);
        let mut begun = 0;
        for (step, end) in run.steps.into_iter().zip(run.ends) {
            let row = row(py, step)?;
            row.set_item("seconds", end.saturating_sub(begun) as f64 * 1e-9)?;
            begun = end;
            steps.append(row)?;
        }
        runs.append((steps, run.threads))?;
    }
    Ok(runs)
}

/// The addresses the last run on this thread read its inputs from.
#[pyfunction]
pub fn last_input_addresses() -> Vec<usize> {
    ADDRESSES.with_borrow(Clone::clone)
}
