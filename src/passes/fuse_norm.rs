//! Moves a normalization with known statistics into the epilogue of the convolution whose result only it reads.
//!
//! In training only where the layer is frozen: otherwise its gradient reads the convolution's result too.

use super::rewrites::named;
use super::{Rewrites, producers, readers};
use crate::graph::{Fused, Graph, Op, ValueId};

pub fn run(graph: &mut Graph, outputs: &[ValueId], rewrites: &mut Rewrites) {
    let (readers, producers) = (readers(graph, outputs), producers(graph));
    let mut nodes = graph.nodes().to_vec();
    let mut gone = vec![false; nodes.len()];
    for index in 0..nodes.len() {
        let Op::BatchNormInfer { eps } = nodes[index].op else { continue };
        let source = nodes[index].inputs[0];
        let Some(maker) = producers[source.0].filter(|_| readers[source.0] == 1) else { continue };
        let Op::Conv2d { fused: Fused { norm: None, add: false, activation: None }, .. } = nodes[maker].op else {
            continue;
        };
        if !rewrites.allow(|| format!("fused {} into {}", named(&nodes[index]), named(&nodes[maker]))) {
            continue;
        }
        // Where the later of the two stands, all operands of both are there.
        let mut whole = nodes[maker].clone();
        if let Op::Conv2d { fused, .. } = &mut whole.op {
            fused.norm = Some(eps);
        }
        whole.inputs.extend_from_slice(&nodes[index].inputs[1..]);
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
    use crate::graph::{Scalar, UnaryKind};
    use crate::tensor::DType;
    use crate::window::Window2d;

    fn graph(bias: bool) -> (Graph, [ValueId; 3]) {
        let mut graph = Graph::new();
        let x = graph.input(vec![2, 3, 3, 4], DType::F32, "x", true).unwrap();
        let mut operands = vec![x, graph.parameter(vec![1, 1, 4, 5], DType::F32, "weight")];
        if bias {
            operands.push(graph.parameter(vec![5], DType::F32, "bias"));
        }
        let conv =
            Op::Conv2d { window: Window2d::UNIT, groups: 1, algorithm: Algorithm::Auto, fused: Fused::default() };
        let y = graph.add_one(conv, &operands, "conv").unwrap();
        let mut operands = vec![y];
        operands.extend((0..4).map(|index| graph.parameter(vec![5], DType::F32, &format!("norm{index}"))));
        let z = graph.add_one(Op::BatchNormInfer { eps: Scalar::new(0.25) }, &operands, "bn").unwrap();
        let last = graph.add_one(Op::Unary(UnaryKind::Relu), &[z], "act").unwrap();
        (graph, [y, z, last])
    }

    #[test]
    fn a_normalization_joins_the_convolution_before_it() {
        for bias in [false, true] {
            let (mut graph, [y, z, last]) = graph(bias);
            let mut rewrites = Rewrites::new(None);
            run(&mut graph, &[last], &mut rewrites);
            let [conv, _] = graph.nodes() else { panic!("{graph}") };
            let expected = Fused { norm: Some(Scalar::new(0.25)), ..Fused::default() };
            assert!(matches!(conv.op, Op::Conv2d { fused, .. } if fused == expected), "{graph}");
            assert_eq!((conv.inputs.len(), &conv.outputs[..]), (6 + usize::from(bias), &[z][..]));
            let made = format!("fused batch_norm_infer %{} of bn into conv2d %{} of conv", z.0, y.0);
            assert_eq!(rewrites.take(), [made]);
            graph.check(&[last]).unwrap();
        }
    }

    #[test]
    fn a_result_with_another_reader_stays() {
        let (mut graph, [y, _, last]) = graph(true);
        run(&mut graph, &[y, last], &mut Rewrites::new(None));
        assert_eq!(graph.nodes().len(), 3);
    }

    #[test]
    fn no_normalization_joins_behind_an_addition() {
        let (mut graph, [_, _, last]) = graph(false);
        let residual = graph.input(vec![2, 3, 3, 5], DType::F32, "residual", true).unwrap();
        let mut nodes = graph.nodes().to_vec();
        if let Op::Conv2d { fused, .. } = &mut nodes[0].op {
            fused.add = true;
        }
        nodes[0].inputs.push(residual);
        graph.set_nodes(nodes);
        graph.check(&[last]).unwrap();
        run(&mut graph, &[last], &mut Rewrites::new(None));
        assert_eq!(graph.nodes().len(), 3);
    }
}
