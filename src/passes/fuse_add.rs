//! Moves the addition of a tensor of equal shape into the epilogue of the convolution whose result only it reads: the
//! end of a residual block. Of two such convolutions the later one takes it.

use super::rewrites::named;
use super::{Rewrites, producers, readers};
use crate::function::BinaryKind;
use crate::graph::{Fused, Graph, Op, ValueId};

pub fn run(graph: &mut Graph, outputs: &[ValueId], rewrites: &mut Rewrites) {
    let (readers, producers) = (readers(graph, outputs), producers(graph));
    let mut nodes = graph.nodes().to_vec();
    let mut gone = vec![false; nodes.len()];
    for index in 0..nodes.len() {
        let (Op::Binary(BinaryKind::Add), &[a, b]) = (&nodes[index].op, nodes[index].inputs.as_slice()) else {
            continue;
        };
        if graph.value(a).shape != graph.value(b).shape {
            continue;
        }
        let maker = |id: ValueId| {
            let free = |maker: &usize| {
                matches!(nodes[*maker].op, Op::Conv2d { fused: Fused { add: false, activation: None, .. }, .. })
            };
            producers[id.0].filter(|maker| readers[id.0] == 1 && free(maker))
        };
        let Some((maker, other)) = maker(a).zip(Some(b)).max(maker(b).zip(Some(a))) else { continue };
        if !rewrites.allow(|| format!("fused {} into {}", named(&nodes[index]), named(&nodes[maker]))) {
            continue;
        }
        // Where the addition stands, what is added is there.
        let mut whole = nodes[maker].clone();
        if let Op::Conv2d { fused, .. } = &mut whole.op {
            fused.add = true;
        }
        whole.inputs.push(other);
        whole.outputs.clone_from(&nodes[index].outputs);
        nodes[index] = whole;
        gone[maker] = true;
    }
    graph.set_nodes(nodes.into_iter().zip(gone).filter_map(|(node, gone)| (!gone).then_some(node)).collect());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algorithm::Algorithm;
    use crate::graph::UnaryKind;
    use crate::tensor::DType;
    use crate::window::Window2d;

    struct Built {
        graph: Graph,
        x: ValueId,
    }

    impl Built {
        fn new() -> Self {
            let mut graph = Graph::new();
            let x = graph.input(vec![2, 3, 3, 4], DType::F32, "x", true).unwrap();
            Self { graph, x }
        }

        fn conv(&mut self, name: &str) -> ValueId {
            let weight = self.graph.parameter(vec![1, 1, 4, 4], DType::F32, name);
            let conv =
                Op::Conv2d { window: Window2d::UNIT, groups: 1, algorithm: Algorithm::Auto, fused: Fused::default() };
            self.graph.add_one(conv, &[self.x, weight], name).unwrap()
        }

        fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
            self.graph.add_one(Op::Binary(BinaryKind::Add), &[a, b], "add").unwrap()
        }

        fn fuse(&mut self, outputs: &[ValueId]) -> Vec<String> {
            let mut rewrites = Rewrites::new(None);
            run(&mut self.graph, outputs, &mut rewrites);
            self.graph.check(outputs).unwrap();
            rewrites.take()
        }
    }

    #[test]
    fn either_operand_may_be_the_convolution() {
        for swapped in [false, true] {
            let mut built = Built::new();
            let y = built.conv("conv");
            let z = if swapped { built.add(built.x, y) } else { built.add(y, built.x) };
            assert_eq!(built.fuse(&[z]).len(), 1);
            let [conv] = built.graph.nodes() else { panic!("{}", built.graph) };
            assert!(matches!(conv.op, Op::Conv2d { fused: Fused { add: true, .. }, .. }));
            assert_eq!((conv.inputs[2], conv.outputs[0]), (built.x, z));
        }
    }

    #[test]
    fn what_is_added_may_be_made_after_the_convolution() {
        let mut built = Built::new();
        let y = built.conv("conv");
        let other = built.graph.add_one(Op::Unary(UnaryKind::Tanh), &[built.x], "other").unwrap();
        let z = built.add(y, other);
        assert_eq!(built.fuse(&[z]).len(), 1);
        let names: Vec<&str> = built.graph.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["other", "conv"]);
    }

    #[test]
    fn of_two_convolutions_the_later_takes_the_addition() {
        let mut built = Built::new();
        let (a, b) = (built.conv("first"), built.conv("second"));
        let z = built.add(b, a);
        let made = built.fuse(&[z]);
        assert_eq!(made, [format!("fused add %{} of add into conv2d %{} of second", z.0, b.0)]);
        assert_eq!(built.graph.nodes().len(), 2);
    }

    #[test]
    fn a_convolution_added_to_itself_or_read_elsewhere_stays() {
        let mut built = Built::new();
        let y = built.conv("conv");
        let z = built.add(y, y);
        assert!(built.fuse(&[z]).is_empty());
        let mut built = Built::new();
        let y = built.conv("conv");
        let z = built.add(y, built.x);
        assert!(built.fuse(&[y, z]).is_empty());
    }

    #[test]
    fn a_broadcast_addition_stays() {
        let mut built = Built::new();
        let y = built.conv("conv");
        let row = built.graph.parameter(vec![4], DType::F32, "row");
        let z = built.add(y, row);
        assert!(built.fuse(&[z]).is_empty());
    }

    #[test]
    fn a_second_addition_and_one_behind_an_activation_stay() {
        let mut built = Built::new();
        let y = built.conv("conv");
        let z = built.add(y, built.x);
        let last = built.add(z, built.x);
        assert_eq!(built.fuse(&[last]).len(), 1);
        let mut built = Built::new();
        let y = built.conv("conv");
        let act = built.graph.add_one(Op::Unary(UnaryKind::Relu), &[y], "act").unwrap();
        let z = built.add(act, built.x);
        super::super::fuse_activation::run(&mut built.graph, &[z], &mut Rewrites::new(None));
        assert!(built.fuse(&[z]).is_empty());
    }
}
