//! Random graphs of every kind of op, decoded from a list of numbers: shorter lists are smaller graphs.

use cnnrs::algorithm::Algorithm;
use cnnrs::function::{AxisMap, BinaryKind, ReduceKind};
use cnnrs::graph::op::{Dim, DropoutUnit, Optimizer, Span};
use cnnrs::graph::{FlattenOrder, Fused, Graph, Op, Scalar, UnaryKind, ValueId, grad};
use cnnrs::reference::Tensor;
use cnnrs::tensor::DType;
use cnnrs::window::Window2d;

use super::draws::Draws;

/// A graph with its outputs and the contents of its inputs and stored tensors.
pub struct Case {
    pub graph: Graph,
    pub outputs: Vec<ValueId>,
    pub inputs: Vec<Tensor>,
    pub stored: Vec<Tensor>,
}

impl Case {
    /// The same graph on so many samples, if it fits them.
    pub fn with_batch(self, batch: usize) -> Option<Self> {
        let graph = self.graph.with_batch(batch).ok()?;
        let mut draws = Draws::new(batch as u64);
        let mut inputs = self.inputs;
        for (input, &id) in inputs.iter_mut().zip(graph.inputs()).take(2) {
            *input = draws.floats(&graph.value(id).shape);
        }
        let empty = graph.nodes().iter().flat_map(|node| &node.outputs).any(|&id| graph.value(id).shape.contains(&0));
        (!empty).then_some(Self { graph, inputs, ..self })
    }
}

struct Builder<'a> {
    genes: std::iter::Copied<std::slice::Iter<'a, u32>>,
    draws: Draws,
    graph: Graph,
    /// Floats that nodes may read.
    made: Vec<ValueId>,
    stored: Vec<Tensor>,
    parameters: Vec<ValueId>,
    key: ValueId,
}

const BATCH: usize = 3;
const UNARY: [UnaryKind; 15] = {
    const fn s(bits: f32) -> Scalar {
        Scalar::new(bits)
    }
    [
        UnaryKind::Relu,
        UnaryKind::Relu6,
        UnaryKind::LeakyRelu(s(0.1)),
        UnaryKind::LeakyRelu(s(-0.5)),
        UnaryKind::Elu(s(1.0)),
        UnaryKind::Tanh,
        UnaryKind::Sigmoid,
        UnaryKind::Silu,
        UnaryKind::Gelu,
        UnaryKind::GeluTanh,
        UnaryKind::Hardswish,
        UnaryKind::Hardsigmoid,
        UnaryKind::Softplus,
        UnaryKind::Abs,
        UnaryKind::Clip(s(-1.0), s(0.75)),
    ]
};

impl Builder<'_> {
    /// A number below `bound` from the next gene; 0 once they are used up.
    fn below(&mut self, bound: usize) -> usize {
        self.genes.next().map_or(0, |gene| gene as usize % bound)
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn shape(&self, id: ValueId) -> Vec<usize> {
        self.graph.value(id).shape.clone()
    }

    /// A value that was made, of a rank that fits; the last ones are as likely as all others together.
    fn operand(&mut self, fits: impl Fn(&[usize]) -> bool) -> Option<ValueId> {
        let fitting: Vec<ValueId> = self.made.iter().copied().filter(|&id| fits(&self.graph.value(id).shape)).collect();
        let tail = fitting.len().saturating_sub(2);
        let from = if self.below(2) == 0 { tail } else { 0 };
        (!fitting.is_empty()).then(|| self.pick(&fitting[from..]))
    }

    /// A stored tensor of normal numbers times `scale`, plus `shift`.
    fn parameter(&mut self, shape: &[usize], scale: f64, shift: f64) -> ValueId {
        let id = self.stored(shape, |draws| shift + scale * draws.normal());
        self.parameters.push(id);
        id
    }

    fn stored(&mut self, shape: &[usize], mut each: impl FnMut(&mut Draws) -> f64) -> ValueId {
        let count = shape.iter().product();
        let data = (0..count).map(|_| f64::from(each(&mut self.draws) as f32)).collect();
        self.stored.push(Tensor::floats(shape.to_vec(), data));
        self.graph.parameter(shape.to_vec(), DType::F32, &format!("stored{}", self.stored.len() - 1))
    }

    /// Adds a node if its operands fit; its first result, unless it is empty, may be read from then on.
    fn node(&mut self, op: Op, inputs: &[ValueId]) -> Option<ValueId> {
        let layer = format!("layer{}", self.graph.nodes().len());
        let first = self.graph.add(op, inputs, &layer).ok()?.first().copied()?;
        if self.graph.value(first).shape.contains(&0) {
            return None;
        }
        self.made.push(first);
        Some(first)
    }

    fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Option<ValueId> {
        self.node(Op::Unary(kind), &[x])
    }

    fn window(&mut self) -> Window2d {
        Window2d {
            kernel: [1 + self.below(3), 1 + self.below(3)],
            stride: [1 + self.below(2), 1 + self.below(2)],
            dilation: [1 + self.below(5) / 4, 1],
            pad: [[self.below(2), self.below(2)], [self.below(2); 2]],
        }
    }

    /// One op, or a few that belong together; nothing if it does not fit.
    fn grow(&mut self) -> Option<ValueId> {
        match self.below(13) {
            0 | 1 => self.convolution(),
            2 => self.product(),
            3 => self.elementwise(),
            4 => self.arithmetic(),
            5 => self.reduction(),
            6 => self.movement(),
            7 => self.resampling(),
            8 => self.pooling(),
            9 | 12 => self.normalization(),
            10 => {
                let x = self.operand(|shape| !shape.is_empty())?;
                let op = Op::Softmax { axis: self.below(self.shape(x).len()), log: self.below(2) == 1 };
                self.node(op, &[x])
            }
            _ => {
                let x = self.operand(|shape| !shape.is_empty())?;
                let unit = self.pick(&[DropoutUnit::Element, DropoutUnit::Channel, DropoutUnit::Sample]);
                let op = Op::Dropout { p: Scalar::new(0.3), unit, stream: self.below(1000) as u64 };
                self.node(op, &[x, self.key])
            }
        }
    }

    fn convolution(&mut self) -> Option<ValueId> {
        let x = self.operand(|shape| shape.len() == 4)?;
        let (shape, window) = (self.shape(x), self.window());
        let groups = if self.below(3) == 0 { shape[3] } else { 1 };
        let per_group = 1 + self.below(4);
        let [kh, kw] = window.kernel;
        if self.below(4) == 0 {
            // Transposed: the operand is a convolution's gradient, and of all sizes that lead to it we take the smallest.
            let weight = self.parameter(&[kh, kw, per_group, shape[3]], 0.5, 0.0);
            let size = |axis: usize| {
                ((shape[axis + 1] - 1) * window.stride[axis] + window.extent(axis))
                    .checked_sub(window.pad[axis][0] + window.pad[axis][1])
            };
            let input = [size(0)?, size(1)?];
            return self
                .node(Op::Conv2dBackwardData { window, groups, algorithm: Algorithm::Auto, input }, &[x, weight]);
        }
        let fan = (kh * kw * shape[3] / groups) as f64;
        let weight = self.parameter(&[kh, kw, shape[3] / groups, groups * per_group], fan.sqrt().recip(), 0.0);
        let mut operands = vec![x, weight];
        if self.below(2) == 1 {
            operands.push(self.parameter(&[groups * per_group], 0.5, 0.0));
        }
        let conv = Op::Conv2d { window, groups, algorithm: Algorithm::Auto, fused: Fused::default() };
        // A shortcut is made before the convolution or after it.
        let shortcut = self.below(4);
        let before = if shortcut == 0 { Some(self.node(conv.clone(), &operands)?) } else { None };
        let mut y = self.node(conv.clone(), &operands)?;
        if self.below(2) == 0 {
            y = self.frozen_norm(y)?;
        }
        if shortcut < 2 {
            let other = before.map_or_else(|| self.node(conv, &operands), Some)?;
            let operands = if self.below(2) == 0 { [y, other] } else { [other, y] };
            y = self.node(Op::Binary(BinaryKind::Add), &operands)?;
        }
        if self.below(2) == 1 { self.activation(y) } else { Some(y) }
    }

    /// Normalization of which nothing is trained.
    fn frozen_norm(&mut self, x: ValueId) -> Option<ValueId> {
        let c = *self.shape(x).last()?;
        let weight = self.stored(&[c], |draws| 1.0 + 0.25 * draws.normal());
        let bias = self.stored(&[c], |draws| 0.25 * draws.normal());
        let mean = self.stored(&[c], |draws| 0.1 * draws.normal());
        let variance = self.stored(&[c], |draws| 1.0 + 0.5 * draws.uniform());
        self.node(Op::BatchNormInfer { eps: Scalar::new(0.1) }, &[x, weight, bias, mean, variance])
    }

    fn activation(&mut self, x: ValueId) -> Option<ValueId> {
        let kind = self.pick(&UNARY);
        self.unary(kind, x)
    }

    fn product(&mut self) -> Option<ValueId> {
        if self.below(4) == 0 {
            // A stack of products of values with themselves.
            let x = self.operand(|shape| shape.len() > 2)?;
            let rank = self.shape(x).len();
            let mut axes: Vec<usize> = (0..rank).collect();
            axes.swap(rank - 1, rank - 2);
            let turned = self.node(Op::Transpose { axes }, &[x])?;
            return self.node(Op::Linear { activation: None }, &[x, turned]);
        }
        let x = self.operand(|shape| shape.len() == 2)?;
        let (inputs, outputs) = (self.shape(x)[1], 1 + self.below(7));
        let weight = self.parameter(&[inputs, outputs], (inputs as f64).sqrt().recip(), 0.0);
        let mut operands = vec![x, weight];
        if self.below(2) == 1 {
            operands.push(self.parameter(&[outputs], 0.5, 0.0));
        }
        let y = self.node(Op::Linear { activation: None }, &operands)?;
        if self.below(2) == 1 { self.activation(y) } else { Some(y) }
    }

    fn elementwise(&mut self) -> Option<ValueId> {
        let x = self.operand(|_| true)?;
        let (one, half) = (Scalar::new(1.0), Scalar::new(0.5));
        match self.below(4) {
            0 => {
                let tame = self.unary(UnaryKind::Tanh, x)?;
                self.unary(UnaryKind::Exp, tame)
            }
            1 => {
                let tame = self.unary(UnaryKind::Softplus, x)?;
                let away = self.unary(UnaryKind::Affine(one, half), tame)?;
                let kind = self.pick(&[UnaryKind::Log, UnaryKind::Sqrt]);
                self.unary(kind, away)
            }
            2 => self.unary(UnaryKind::Affine(Scalar::new(-0.75), half), x),
            _ => self.activation(x),
        }
    }

    fn arithmetic(&mut self) -> Option<ValueId> {
        use BinaryKind::{Add, Div, Maximum, Minimum, Mul, Sub};
        let a = self.operand(|_| true)?;
        let b = match self.below(3) {
            0 => {
                let shape = self.shape(a);
                self.operand(|other| other == shape)?
            }
            1 => {
                let axes: Vec<usize> = (0..self.shape(a).len()).filter(|_| self.below(2) == 1).collect();
                self.node(Op::Reduce { kind: ReduceKind::Mean, axes, keepdims: true }, &[a])?
            }
            _ => {
                let channels = self.shape(a).last().copied().unwrap_or(1);
                self.parameter(&[channels], 1.0, 0.0)
            }
        };
        let kind = self.pick(&[Add, Sub, Mul, Div, Maximum, Minimum]);
        if kind == Div {
            let tame = self.unary(UnaryKind::Softplus, b)?;
            let away = self.unary(UnaryKind::Affine(Scalar::new(1.0), Scalar::new(0.5)), tame)?;
            return self.node(Op::Binary(Div), &[a, away]);
        }
        let operands = if self.below(2) == 0 { [a, b] } else { [b, a] };
        self.node(Op::Binary(kind), &operands)
    }

    fn reduction(&mut self) -> Option<ValueId> {
        use ReduceKind::{Max, Mean, Min, Sum, SumSquares};
        let x = self.operand(|shape| !shape.is_empty())?;
        let mut axes: Vec<usize> = (0..self.shape(x).len()).filter(|_| self.below(2) == 1).collect();
        if axes.is_empty() {
            axes.push(self.shape(x).len() - 1);
        }
        let (kind, keepdims) = (self.pick(&[Sum, Mean, Max, Min, SumSquares]), self.below(2) == 0);
        let y = self.node(Op::Reduce { kind, axes, keepdims }, &[x])?;
        if keepdims && self.below(2) == 1 {
            let mean = self.below(2) == 1;
            return self.node(Op::Expand { mean }, &[y, x]);
        }
        Some(y)
    }

    fn movement(&mut self) -> Option<ValueId> {
        let x = self.operand(|shape| shape.len() > 1)?;
        let shape = self.shape(x);
        let rank = shape.len();
        match self.below(7) {
            0 => self.node(Op::Reshape { dims: vec![Dim::Same(0), Dim::Rest] }, &[x]),
            1 => {
                let mut axes: Vec<usize> = (0..rank).collect();
                axes.swap(1, rank - 1);
                self.node(Op::Transpose { axes }, &[x])
            }
            2 => {
                let choices = [
                    Span::ALL,
                    Span { start: Some(1), stop: None, step: 1 },
                    Span { start: None, stop: None, step: -1 },
                    Span { start: None, stop: Some(-1), step: 2 },
                ];
                let spans: Vec<Span> = (0..rank).map(|_| self.pick(&choices)).collect();
                let empty = spans.iter().zip(&shape).any(|(span, &size)| span.resolve(size).1 == 0);
                if empty { None } else { self.node(Op::Slice { spans }, &[x]) }
            }
            3 => {
                let mut pads = vec![[0, 0]; rank];
                pads[rank - 1] = [self.below(3), self.below(2)];
                pads[1][0] += self.below(2);
                self.node(Op::Pad { pads, value: Scalar::new(0.25) }, &[x])
            }
            4 => {
                let other = self.operand(|other| other == shape)?;
                let axis = self.below(rank);
                self.node(Op::Concat { axis }, &[x, other, x])
            }
            5 if rank == 4 => {
                let order = self.pick(&[FlattenOrder::Hwc, FlattenOrder::Chw]);
                self.node(Op::Flatten { order }, &[x])
            }
            _ => {
                let order = self.pick(&[FlattenOrder::Hwc, FlattenOrder::Chw]);
                let rows = self.operand(|shape| shape.len() == 2)?;
                let features = self.shape(rows)[1];
                let shape = if features.is_multiple_of(4) { [2, features / 4, 2] } else { [1, 1, features] };
                self.node(Op::Unflatten { order, shape }, &[rows])
            }
        }
    }

    fn resampling(&mut self) -> Option<ValueId> {
        let x = self.operand(|shape| shape.len() > 1)?;
        let axis = 1 + self.below(self.shape(x).len() - 1);
        let (to, from) = (1 + self.below(6), self.shape(x)[axis]);
        let align_corners = self.below(2) == 1;
        let reflect = from.saturating_sub(1).min(2);
        let map = self.pick(&[
            AxisMap::Nearest { to },
            AxisMap::Linear { to, align_corners },
            AxisMap::AdaptiveAvg { to },
            AxisMap::PadEdge { before: to % 3, after: 1 },
            AxisMap::PadReflect { before: reflect, after: reflect / 2 },
        ]);
        self.node(Op::AxisMap { axis, map }, &[x])
    }

    fn pooling(&mut self) -> Option<ValueId> {
        let x = self.operand(|shape| shape.len() == 4)?;
        let mut window = self.window();
        window.pad = window.pad.map(|pad| pad.map(|size| size.min(window.kernel[0].min(window.kernel[1]) / 2)));
        let ceil_mode = self.below(2) == 1;
        if self.below(2) == 0 {
            return self.node(Op::MaxPool2d { window, ceil_mode }, &[x]);
        }
        window.dilation = [1, 1];
        let count_include_pad = self.below(2) == 1;
        self.node(Op::AvgPool2d { window, ceil_mode, count_include_pad }, &[x])
    }

    fn normalization(&mut self) -> Option<ValueId> {
        let x =
            self.operand(|shape| shape.len() > 1 && shape.iter().product::<usize>() > 2 * shape[shape.len() - 1])?;
        let c = *self.shape(x).last()?;
        if self.below(4) == 0 {
            let [alpha, beta, k] = [0.5, 0.75, 1.0].map(Scalar::new);
            let size = 1 + self.below(5);
            return self.node(Op::LocalResponseNorm { size, alpha, beta, k }, &[x]);
        }
        let (weight, bias) = (self.parameter(&[c], 0.25, 1.0), self.parameter(&[c], 0.25, 0.0));
        let eps = Scalar::new(0.1);
        if self.below(3) == 0 {
            let groups = if self.below(2) == 0 { 1 } else { c };
            return self.node(Op::GroupNorm { groups, eps }, &[x, weight, bias]);
        }
        let mean = self.stored(&[c], |draws| 0.1 * draws.normal());
        let variance = self.stored(&[c], |draws| 1.0 + 0.5 * draws.uniform());
        let operands = [x, weight, bias, mean, variance];
        if self.below(2) == 0 {
            return self.node(Op::BatchNormInfer { eps }, &operands);
        }
        let y = self.node(Op::BatchNormTrain { eps, momentum: Scalar::new(0.1), activation: None }, &operands)?;
        let results = self.graph.nodes().last()?.outputs.clone();
        for (buffer, value) in [mean, variance].into_iter().zip(&results[3..]) {
            self.graph.add(Op::Assign, &[buffer, *value], "buffers").ok()?;
        }
        self.behind_normalization(y)
    }

    /// What follows a normalization in a network: perhaps a sum with a value of the same shape, which may be the operand
    /// of the normalization or another one's result, perhaps an activation, and perhaps several readers.
    fn behind_normalization(&mut self, y: ValueId) -> Option<ValueId> {
        let (shape, mut last) = (self.shape(y), y);
        if self.below(2) == 1 {
            let other = self.operand(|other| other == shape)?;
            let operands = if self.below(2) == 0 { [y, other] } else { [other, y] };
            last = self.node(Op::Binary(BinaryKind::Add), &operands)?;
        }
        let kind = self.pick(&[UnaryKind::Relu, UnaryKind::Relu6, UnaryKind::Tanh, UnaryKind::Silu]);
        if self.below(4) > 0 {
            last = self.unary(kind, last)?;
        }
        // Read twice: its gradient is a sum.
        if self.below(3) == 0 { self.node(Op::Binary(BinaryKind::Mul), &[last, last]) } else { Some(last) }
    }

    /// A loss, the gradients of what it depends on, and perhaps an update.
    fn train(&mut self, last: ValueId, training: usize) -> Vec<ValueId> {
        let axes: Vec<usize> = (0..self.shape(last).len()).collect();
        let square = Op::Reduce { kind: ReduceKind::SumSquares, axes, keepdims: false };
        let loss = self.graph.add_one(square, &[last], "loss").expect("a float has a sum of squares");
        let mut wrt = self.parameters.clone();
        wrt.push(self.made[0]);
        let before = self.graph.clone();
        let Ok(gradients) = grad::gradients(&mut self.graph, &[loss], &[None], &wrt) else {
            // An operand of a backward op has no gradient; the forward pass is tested all the same.
            self.graph = before;
            return vec![loss];
        };
        let mut outputs = vec![loss];
        outputs.extend(gradients.iter().flatten());
        let (updates, nesterov) = (training > 3, training == 5);
        let trained: Vec<(ValueId, ValueId)> =
            self.parameters.clone().into_iter().zip(gradients).filter_map(|(p, g)| Some((p, g?))).collect();
        if updates && !trained.is_empty() {
            let row = [0.01f32, 0.9, 0.001, 0.0];
            let hyper = self.graph.constant(vec![trained.len(), 4], row.repeat(trained.len()));
            let mut operands = vec![hyper];
            for (parameter, gradient) in trained {
                let shape = self.shape(parameter);
                let momentum = self.stored(&shape, |draws| 0.1 * draws.normal());
                operands.extend([parameter, gradient, momentum]);
            }
            self.graph.add(Op::Update(Optimizer::Sgd { nesterov }), &operands, "update").expect("operands fit");
        }
        outputs
    }
}

/// The graph that a list of numbers stands for.
pub fn decode(genes: &[u32]) -> Case {
    let mut graph = Graph::new();
    let x = graph.input(vec![BATCH, 5, 4, 4], DType::F32, "x", true).expect("a shape");
    let rows = graph.input(vec![BATCH, 6], DType::F32, "rows", true).expect("a shape");
    let key = graph.input(vec![2], DType::I64, "key", false).expect("a shape");
    let mut draws = Draws::new(
        genes.iter().fold(1, |seed: u64, &gene| seed.wrapping_mul(31).wrapping_add(u64::from(gene))) % 1_000_003,
    );
    let inputs = vec![
        draws.floats(&[BATCH, 5, 4, 4]),
        draws.floats(&[BATCH, 6]),
        Tensor::ints(vec![2], vec![draws.below(1000) as i64, 7]),
    ];
    let mut builder = Builder {
        genes: genes.iter().copied(),
        draws,
        graph,
        made: vec![x, rows],
        stored: Vec::new(),
        parameters: Vec::new(),
        key,
    };
    // The first number says whether there are gradients and an update behind them.
    let training = builder.below(6);
    let mut last = x;
    while builder.genes.len() > 0 {
        last = builder.grow().unwrap_or(last);
    }
    let mut outputs = if training < 2 { vec![last] } else { builder.train(last, training) };
    if builder.made.len() > 4 {
        outputs.push(builder.made[builder.made.len() / 2]);
    }
    Case { graph: builder.graph, outputs, inputs, stored: builder.stored }
}
