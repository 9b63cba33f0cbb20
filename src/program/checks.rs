//! What is checked before anything runs: inputs, memory for results, labels, finite numbers.

use super::{InputView, OutputView, Program};
use crate::arena::ExternalTables;
use crate::error::{Error, Result};
use crate::finite;
use crate::plan::{InputSpec, Plan};
use crate::tensor::{DType, Slot, shape_text};

impl Program {
    /// The batch size of these inputs, after checking every type and shape.
    pub(super) fn check(&self, inputs: &[InputView<'_>]) -> Result<Option<usize>> {
        let expected = self.graph.inputs();
        if inputs.len() != expected.len() {
            return Err(Error::Internal(format!("expects {} inputs, received {}", expected.len(), inputs.len())));
        }
        let mut batch: Option<usize> = None;
        for (input, &id) in inputs.iter().zip(expected) {
            let value = self.graph.value(id);
            if input.dtype != value.dtype {
                let (want, got) = (value.dtype.name(), input.dtype.name());
                return Err(Error::Type(format!(
                    "{} expects {want}, received {got}: convert with .astype(np.{want})",
                    value.name
                )));
            }
            let batched = matches!(value.role, crate::graph::Role::Input { batched: true, .. });
            let fits = input.shape.len() == value.shape.len()
                && input.shape.iter().zip(&value.shape).skip(usize::from(batched)).all(|(a, b)| a == b);
            let expected_batch = if batched { batch } else { None };
            if !fits || expected_batch.is_some_and(|batch| batch != input.shape[0]) {
                let mut want = value.shape.clone();
                if let Some(batch) = expected_batch {
                    want[0] = batch;
                }
                let mut want = shape_text(&want);
                if batched && expected_batch.is_none() {
                    let rest = want.find([',', ')']).map_or(String::new(), |at| want[at..].to_owned());
                    want = format!("(N{rest}");
                }
                return Err(Error::Shape(format!(
                    "{} expects shape {want}, received {}",
                    value.name,
                    shape_text(input.shape)
                )));
            }
            if batched {
                batch = Some(input.shape[0]);
            }
        }
        Ok(batch)
    }

    /// Given memory has the shape and type of its result and shares no byte with anything that the run touches.
    pub(super) fn check_given(&self, plan: &Plan, inputs: &[InputView<'_>], given: &[OutputView<'_>]) -> Result<()> {
        if given.is_empty() {
            return Ok(());
        }
        if given.len() > plan.outputs.len() {
            return Err(Error::Internal(format!(
                "{} results, received memory for {}",
                plan.outputs.len(),
                given.len()
            )));
        }
        let slot = |shape: &[usize], dtype: DType, data: *mut u8| {
            Slot::new(data, shape.iter().product::<usize>() * dtype.size())
        };
        let mut taken: Vec<(String, Slot)> = Vec::new();
        for (input, &id) in inputs.iter().zip(self.graph.inputs()) {
            let name = self.graph.value(id).name.clone();
            taken.push((name, slot(input.shape, input.dtype, input.data.cast_mut())));
        }
        for (stored, &id) in self.parameters.iter().zip(self.graph.parameters()) {
            taken.push((self.graph.value(id).name.clone(), stored.slot()));
        }
        for (view, (shape, dtype)) in given.iter().zip(&plan.outputs) {
            if view.dtype != *dtype {
                let (want, got) = (dtype.name(), view.dtype.name());
                return Err(Error::Type(format!("out expects {want}, received {got}")));
            }
            if *view.shape != **shape {
                let (want, got) = (shape_text(shape), shape_text(view.shape));
                return Err(Error::Shape(format!("out expects the result's shape {want}, received {got}")));
            }
            let own = slot(view.shape, view.dtype, view.data);
            if let Some((name, _)) = taken.iter().find(|(_, other)| own.meets(*other)) {
                return Err(Error::Value(format!("out shares memory with {name}: give an array of its own")));
            }
            taken.push(("another out".into(), own));
        }
        Ok(())
    }

    /// Stored tensors and inputs are finite.
    ///
    /// # Safety
    /// The views are readable, and nobody writes the stored tensors.
    pub(super) unsafe fn check_finite(&self, tables: &ExternalTables) -> Result<()> {
        let ids = self.graph.inputs().iter().chain(self.graph.parameters());
        for (&id, &slot) in ids.zip(tables.inputs.iter().chain(&tables.parameters)) {
            let value = self.graph.value(id);
            // SAFETY: a slot of floats, by its value's type.
            let text = (value.dtype == DType::F32).then(|| unsafe { finite::complaint(&value.name, slot) });
            if let Some(text) = text.flatten() {
                return Err(Error::NotFinite(text));
            }
        }
        Ok(())
    }
}

/// Labels keep the rules of all losses that read them.
///
/// # Safety
/// The view is readable.
pub(super) unsafe fn check_labels(input: &InputView<'_>, spec: &InputSpec) -> Result<()> {
    let count = input.shape.iter().product::<usize>();
    let data = input.data.cast::<i64>();
    for rule in &spec.labels {
        for row in 0..count {
            // SAFETY: inside the view, which holds 64-bit integers.
            let label = unsafe { data.add(row).read_unaligned() };
            if !rule.allows(label) {
                let or = rule.ignore.map_or(String::new(), |ignore| format!(" or ignore_index {ignore}"));
                return Err(Error::Value(format!(
                    "cross_entropy: {} expects classes in [0, {}){or}, received {label} at row {row}",
                    spec.name, rule.classes
                )));
            }
        }
    }
    Ok(())
}
