//! `CNNRS_CHECK=finite`: looks for NaN and infinities in what a step has written.

use crate::error::Error;
use crate::plan::{Plan, Step};
use crate::tensor::Slot;

/// How many NaN and how many infinities a buffer of floats holds.
///
/// # Safety
/// The buffer holds floats that nobody writes meanwhile.
unsafe fn count(buffer: Slot) -> [usize; 2] {
    let (data, len) = (buffer.ptr().cast_const().cast::<f32>(), buffer.bytes() / size_of::<f32>());
    let mut found = [0, 0];
    for index in 0..len {
        // SAFETY: inside the buffer; unaligned because Python chooses some addresses.
        let x = unsafe { data.add(index).read_unaligned() };
        found[0] += usize::from(x.is_nan());
        found[1] += usize::from(x.is_infinite());
    }
    found
}

/// Whether all results of a step are finite; `operands` are its buffers.
///
/// # Safety
/// The step has run and nobody writes to its results meanwhile.
pub unsafe fn holds(step: &Step, operands: &[Slot]) -> bool {
    // SAFETY: results are floats, by the plan.
    step.results.iter().all(|&(_, operand)| unsafe { count(operands[operand]) } == [0, 0])
}

/// Says what a buffer holds that is not finite; `None` if all of it is.
///
/// # Safety
/// The buffer holds floats that nobody writes meanwhile.
pub unsafe fn complaint(what: &str, buffer: Slot) -> Option<String> {
    // SAFETY: the caller's word.
    let [nan, infinite] = unsafe { count(buffer) };
    let all = buffer.bytes() / size_of::<f32>();
    (nan + infinite > 0)
        .then(|| format!("{what} holds {nan} NaN and {infinite} infinities among {all} values (CNNRS_CHECK=finite)"))
}

/// The error for step `index`, whose results are not all finite.
///
/// # Safety
/// As for [`holds`].
pub unsafe fn error(plan: &Plan, index: usize, operands: &[Slot]) -> Error {
    let step = &plan.steps[index];
    let found = step.results.iter().find_map(|&(number, operand)| {
        // SAFETY: results are floats, by the plan.
        unsafe { complaint(&format!("output {number}"), operands[operand]) }
    });
    Error::NotFinite(found.unwrap_or_default()).within(step.op).within(&step.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_and_infinities_are_told_apart() {
        let mut data = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX];
        let slot = Slot::new(data.as_mut_ptr().cast(), size_of_val(&data));
        // SAFETY: an array of this function.
        let text = unsafe { complaint("output 1", slot) };
        assert_eq!(text.as_deref(), Some("output 1 holds 1 NaN and 2 infinities among 6 values (CNNRS_CHECK=finite)"));
        let slot = Slot::new(data.as_mut_ptr().cast(), size_of::<f32>());
        // SAFETY: as above.
        assert_eq!(unsafe { complaint("output 1", slot) }, None);
    }
}
