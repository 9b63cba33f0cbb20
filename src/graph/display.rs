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
            let arrow = if results.is_empty() { "" } else { " = " };
            write!(f, "{}{arrow}{:?}({})", results.join(", "), node.op, operands.join(", "))?;
            if node.name.is_empty() { writeln!(f)? } else { writeln!(f, "  # {}", node.name)? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Op, UnaryKind};
    use crate::tensor::DType;

    #[test]
    fn a_line_per_node_with_types_operands_and_layer() {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3], DType::F32, "x", true).unwrap();
        let count = graph.parameter(vec![], DType::I64, "bn.num_batches_tracked");
        let c = graph.constant(vec![3], vec![0.0; 3]);
        let y = graph.add_one(Op::Linear { activation: None }, &[x, x], "fc");
        assert!(y.is_err());
        let y = graph.add_one(Op::Unary(UnaryKind::Relu), &[x], "act").unwrap();
        graph.add(Op::Concat { axis: 0 }, &[c, c], "").unwrap();
        graph.add(Op::Increment, &[count], "bn").unwrap();
        let expected = "%3: float32(2, 3) = Unary(Relu)(%0[input x])  # act\n\
                        %4: float32(6,) = Concat { axis: 0 }(%2[constant], %2[constant])\n\
                        Increment(%1[bn.num_batches_tracked])  # bn\n";
        assert_eq!((y.0, graph.to_string().as_str()), (3, expected));
    }
}
