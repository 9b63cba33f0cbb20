//! One line per node, stable: for logs, errors and snapshot tests.

use std::fmt;

use super::{Graph, Role, ValueId};
use crate::tensor::shape_text;

impl Graph {
    fn describe(&self, id: ValueId) -> String {
        let value = self.value(id);
        let origin = match &value.role {
            Role::Input { .. } => format!("input {}", value.name),
            Role::Parameter { .. } => value.name.clone(),
            Role::Constant(_) => "constant".to_owned(),
            Role::Temp => String::new(),
        };
        let origin = if origin.is_empty() { origin } else { format!("[{}]", origin.trim()) };
        format!("%{}{origin}", id.0)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in self.nodes() {
            let results: Vec<String> = node
                .outputs
                .iter()
                .map(|&id| format!("%{}: {}{}", id.0, self.value(id).dtype.name(), shape_text(&self.value(id).shape)))
                .collect();
            let operands: Vec<String> = node.inputs.iter().map(|&id| self.describe(id)).collect();
            write!(f, "{} = {:?}({})", results.join(", "), node.op, operands.join(", "))?;
            if node.name.is_empty() { writeln!(f)? } else { writeln!(f, "  # {}", node.name)? }
        }
        Ok(())
    }
}
