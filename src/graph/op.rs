//! The closed set of operations. Data only: what an op means is in `shape.rs` (results) and `grad.rs` (gradients).

#![allow(missing_docs)] // attribute fields carry the standard names of their op, explained at each variant

use crate::window::Window2d;

/// Element-wise functions whose gradient follows from their result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryKind {
    /// max(x, 0)
    Relu,
    /// tanh(x)
    Tanh,
    /// 1 / (1 + exp(−x))
    Sigmoid,
}

/// How a map of pixels becomes a row of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlattenOrder {
    /// Height, width, channel: NumPy's order, no data moves.
    Hwc,
    /// Channel, height, width: the order of torch's checkpoints.
    Chw,
}

/// A float as an attribute: compared and hashed by its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scalar(u32);

impl Scalar {
    /// The attribute that stands for `x`.
    pub fn new(x: f32) -> Self {
        Self(x.to_bits())
    }

    /// The float.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// One operation with its attributes. Operands and results are listed as `operands → results`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// x NHWC, weight HWIO[, bias] → y. The activation is set by fusion only.
    Conv2d { window: Window2d, groups: usize, activation: Option<UnaryKind> },
    /// grad_y, weight → grad_x of the given height and width.
    Conv2dBackwardData { window: Window2d, groups: usize, input: [usize; 2] },
    /// x, grad_y → grad_weight.
    Conv2dBackwardWeights { window: Window2d, groups: usize },
    /// grad_y → sum over all but the last axis.
    BiasGrad,
    /// x (N, I), weight (I, O)[, bias] → y (N, O). The activation is set by fusion only.
    Linear { activation: Option<UnaryKind> },
    /// grad_y (N, O), weight (I, O) → grad_x (N, I).
    LinearBackwardData,
    /// x (N, I), grad_y (N, O) → grad_weight (I, O).
    LinearBackwardWeights,
    /// x → y, index (flat position in the input plane).
    MaxPool2d { window: Window2d, ceil_mode: bool },
    /// grad_y, index → grad_x of the given height and width.
    MaxPool2dBackward { window: Window2d, ceil_mode: bool, input: [usize; 2] },
    /// x → y.
    AvgPool2d { window: Window2d, ceil_mode: bool, count_include_pad: bool },
    /// grad_y → grad_x of the given height and width.
    AvgPool2dBackward { window: Window2d, ceil_mode: bool, count_include_pad: bool, input: [usize; 2] },
    /// x → f(x).
    Unary(UnaryKind),
    /// grad_y, y → grad_x.
    UnaryBackward(UnaryKind),
    /// a, b of one shape → a + b.
    Add,
    /// x, s () → s·x.
    Scale,
    /// x (N, H, W, C) → (N, H·W·C).
    Flatten { order: FlattenOrder },
    /// x (N, H·W·C) → (N, H, W, C).
    Unflatten { order: FlattenOrder, shape: [usize; 3] },
    /// x (N, K) → softmax along the last axis.
    Softmax,
    /// grad_y, y → grad_x.
    SoftmaxBackward,
    /// logits (N, K), labels (N,) → mean loss (), rows guessed right (), d loss / d logits.
    CrossEntropy,
    /// bytes (N, H, W, C) → (x / 255 − mean) / std; lists of length 1 or C.
    Normalize { mean: Vec<Scalar>, std: Vec<Scalar> },
    /// hyper (P, 4), then parameter, gradient, momentum for each of P parameters → nothing; writes the parameters and
    /// momenta.
    Sgd { nesterov: bool },
}

impl Op {
    /// The name users see in messages and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv2d { .. } => "conv2d",
            Self::Conv2dBackwardData { .. } => "conv2d_backward_data",
            Self::Conv2dBackwardWeights { .. } => "conv2d_backward_weights",
            Self::BiasGrad => "bias_grad",
            Self::Linear { .. } => "linear",
            Self::LinearBackwardData => "linear_backward_data",
            Self::LinearBackwardWeights => "linear_backward_weights",
            Self::MaxPool2d { .. } => "max_pool2d",
            Self::MaxPool2dBackward { .. } => "max_pool2d_backward",
            Self::AvgPool2d { .. } => "avg_pool2d",
            Self::AvgPool2dBackward { .. } => "avg_pool2d_backward",
            Self::Unary(UnaryKind::Relu) => "relu",
            Self::Unary(UnaryKind::Tanh) => "tanh",
            Self::Unary(UnaryKind::Sigmoid) => "sigmoid",
            Self::UnaryBackward(UnaryKind::Relu) => "relu_backward",
            Self::UnaryBackward(UnaryKind::Tanh) => "tanh_backward",
            Self::UnaryBackward(UnaryKind::Sigmoid) => "sigmoid_backward",
            Self::Add => "add",
            Self::Scale => "scale",
            Self::Flatten { .. } => "flatten",
            Self::Unflatten { .. } => "unflatten",
            Self::Softmax => "softmax",
            Self::SoftmaxBackward => "softmax_backward",
            Self::CrossEntropy => "cross_entropy",
            Self::Normalize { .. } => "normalize",
            Self::Sgd { .. } => "sgd",
        }
    }

    /// True if running the node writes parameters; such nodes are never dead and run after everything else.
    pub fn has_effect(&self) -> bool {
        matches!(self, Self::Sgd { .. })
    }
}
