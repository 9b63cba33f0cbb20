//! What a plan will do, as data for reports.

use std::fmt;

use super::Plan;

/// One step of a report.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// The op it serves.
    pub op: &'static str,
    /// The layer it serves.
    pub name: String,
    /// The shape string.
    pub shape: String,
    /// Algorithm, tile and ISA.
    pub kernel: String,
    /// Independent pieces of work.
    pub tasks: usize,
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes of all operands.
    pub bytes: usize,
    /// Candidates that were not chosen, with the reason.
    pub refused: Vec<(String, String)>,
}

impl Plan {
    /// All steps in order.
    pub fn report(&self) -> Vec<StepReport> {
        self.steps
            .iter()
            .map(|step| StepReport {
                op: step.op,
                name: step.name.clone(),
                shape: step.shape.clone(),
                kernel: step.kernel.name(),
                tasks: step.kernel.tasks(),
                flops: step.kernel.flops(),
                bytes: step.operands.iter().map(|&buffer| self.buffers[buffer].bytes).sum(),
                refused: step.refused.clone(),
            })
            .collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pass in &self.passes {
            write!(f, "{pass}")?;
        }
        for step in self.report() {
            writeln!(f, "  {} {} {} -> {} ({} tasks)", step.op, step.name, step.shape, step.kernel, step.tasks)?;
            for (candidate, reason) in &step.refused {
                writeln!(f, "    not {candidate}: {reason}")?;
            }
        }
        Ok(())
    }
}
