//! The count of single rewrites, and what is reported of them.

use std::fmt;

use crate::graph::Node;

/// Counts single rewrites; beyond the limit none is allowed.
#[derive(Debug)]
pub struct Rewrites {
    left: usize,
    made: Vec<String>,
}

impl Rewrites {
    /// At most `limit` rewrites, any number without one.
    pub fn new(limit: Option<usize>) -> Self {
        Self { left: limit.unwrap_or(usize::MAX), made: Vec::new() }
    }

    /// Whether one more rewrite may be made; if so it is made, and `describe` says which.
    pub fn allow(&mut self, describe: impl FnOnce() -> String) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.made.push(describe());
        true
    }

    /// The rewrites made since the last call.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.made)
    }
}

/// What one pass did.
#[derive(Debug, Clone)]
pub struct PassReport {
    /// The pass.
    pub name: &'static str,
    /// Nodes before it.
    pub before: usize,
    /// Nodes after it.
    pub after: usize,
    /// Its single rewrites in order.
    pub rewrites: Vec<String>,
}

impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  pass {}: {} -> {} nodes", self.name, self.before, self.after)?;
        self.rewrites.iter().try_for_each(|rewrite| writeln!(f, "    {rewrite}"))
    }
}

/// A node in a description: its op, its first result and its layer.
pub fn named(node: &Node) -> String {
    let result = node.outputs.first().map_or(String::new(), |id| format!(" %{}", id.0));
    let layer = if node.name.is_empty() { String::new() } else { format!(" of {}", node.name) };
    format!("{}{result}{layer}", node.op.name())
}
