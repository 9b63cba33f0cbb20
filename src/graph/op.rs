//! The closed set of operations. Data only: what an op means is in `shape.rs` (results) and `grad.rs` (gradients).

#![allow(missing_docs)] // attribute fields carry the standard names of their op, explained at each variant

pub use crate::algorithm::Algorithm;
pub use crate::function::{AxisMap, BinaryKind, ReduceKind, Saved, Scalar, UnaryKind};

use super::Fused;
use crate::window::Window2d;

/// How a map of pixels becomes a row of features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlattenOrder {
    /// Height, width, channel: NumPy's order, no data moves.
    Hwc,
    /// Channel, height, width: the order of torch's checkpoints.
    Chw,
}

/// One axis of a new shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dim {
    /// So many elements.
    Size(usize),
    /// As many as axis number so-and-so of the operand has.
    Same(usize),
    /// Whatever is left; at most once.
    Rest,
}

/// Elements `start, start + step, …` of one axis up to but without `stop`, with Python's rules for negative and open
/// ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    pub start: Option<i64>,
    pub stop: Option<i64>,
    pub step: i64,
}

impl Span {
    /// The whole axis.
    pub const ALL: Self = Self { start: None, stop: None, step: 1 };

    /// First index and number of the elements chosen on an axis of `size`.
    pub fn resolve(self, size: usize) -> (usize, usize) {
        let n = size as i64;
        let (low, high) = if self.step > 0 { (0, n) } else { (-1, n - 1) };
        let place = |bound: Option<i64>, open: i64| match bound {
            None => open,
            Some(index) => (if index < 0 { index.saturating_add(n) } else { index }).clamp(low, high),
        };
        let (start, stop) = if self.step > 0 {
            (place(self.start, 0), place(self.stop, n))
        } else {
            (place(self.start, n - 1), place(self.stop, -1))
        };
        let room = if self.step > 0 { stop - start } else { start - stop };
        let count = if room <= 0 { 0 } else { (room - 1) / self.step.abs() + 1 };
        (start.max(0) as usize, count as usize)
    }
}

/// What dropout draws for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropoutUnit {
    /// Each number.
    Element,
    /// Each channel of each image.
    Channel,
    /// Each image.
    Sample,
}

/// How parameters follow their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Optimizer {
    /// One state: momentum. Hyper: lr, momentum, weight decay, decoupled weight decay.
    Sgd { nesterov: bool },
    /// Two states: mean square, momentum (and a third, the mean gradient, if `centered`). Hyper: lr, 1 − alpha, eps,
    /// momentum, weight decay, decoupled weight decay.
    RmsProp { centered: bool },
    /// Two states: first and second moment (and a third, the largest second moment, if `amsgrad`). Hyper: lr, 1 − beta1,
    /// 1 − beta2, eps, weight decay, decoupled weight decay, 1 − beta1ᵗ, 1 − beta2ᵗ.
    Adam { amsgrad: bool },
    /// One state: sum of squares. Hyper: lr (after its decay), eps, weight decay, decoupled weight decay.
    Adagrad,
}

impl Optimizer {
    /// The name in messages and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sgd { .. } => "sgd",
            Self::RmsProp { .. } => "rmsprop",
            Self::Adam { .. } => "adam",
            Self::Adagrad => "adagrad",
        }
    }

    /// Stored tensors a parameter needs beside itself.
    pub fn states(self) -> usize {
        match self {
            Self::Sgd { .. } | Self::Adagrad => 1,
            Self::RmsProp { centered: extra } | Self::Adam { amsgrad: extra } => 2 + usize::from(extra),
        }
    }

    /// Numbers in a parameter's row of the table of hyperparameters.
    pub fn hyper(self) -> usize {
        match self {
            Self::Sgd { .. } | Self::Adagrad => 4,
            Self::RmsProp { .. } => 6,
            Self::Adam { .. } => 8,
        }
    }
}

/// The activation behind a batch normalization, through which a gradient comes to it: one that is zero, or passes the
/// gradient as it is ([`UnaryKind::gate_limit`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gate {
    pub kind: UnaryKind,
    /// Whether the activation's result is computed anew, from the bias (C,), instead of read.
    pub recompute: bool,
}

/// One operation with its attributes. Operands and results are listed as `operands → results`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// x NHWC, weight HWIO[, bias] → y. With more behind the sums by fusion: x, weight[, bias][, weight, bias, mean,
    /// variance of a normalization][, what is added] → y.
    Conv2d { window: Window2d, groups: usize, algorithm: Algorithm, fused: Fused },
    /// grad_y, weight → grad_x of the given height and width.
    Conv2dBackwardData { window: Window2d, groups: usize, algorithm: Algorithm, input: [usize; 2] },
    /// x, grad_y → grad_weight.
    Conv2dBackwardWeights { window: Window2d, groups: usize, algorithm: Algorithm },
    /// x (…, N, I), weight (…, I, O)[, bias] → y (…, N, O): a product for each index of the leading axes, which are
    /// equal. A bias only without leading axes; the activation is set by fusion only.
    Linear { activation: Option<UnaryKind> },
    /// grad_y (…, N, O), weight (…, I, O) → grad_x (…, N, I).
    LinearBackwardData,
    /// x (…, N, I), grad_y (…, N, O) → grad_weight (…, I, O).
    LinearBackwardWeights,
    /// x → y, index (flat position in the input plane; how it is kept is up to lowering).
    MaxPool2d { window: Window2d, ceil_mode: bool },
    /// grad_y, index → grad_x of the given height and width.
    MaxPool2dBackward { window: Window2d, ceil_mode: bool, input: [usize; 2] },
    /// x → y.
    AvgPool2d { window: Window2d, ceil_mode: bool, count_include_pad: bool },
    /// grad_y → grad_x of the given height and width.
    AvgPool2dBackward { window: Window2d, ceil_mode: bool, count_include_pad: bool, input: [usize; 2] },
    /// x → f(x).
    Unary(UnaryKind),
    /// grad_y, x or y (`UnaryKind::saved` says which) → grad_x.
    UnaryBackward(UnaryKind),
    /// a, b, broadcast as in NumPy → f(a, b).
    Binary(BinaryKind),
    /// x → x with the axes (ascending) reduced to one element, or taken away.
    Reduce { kind: ReduceKind, axes: Vec<usize>, keepdims: bool },
    /// x, like → x broadcast to the shape of like, whose numbers are not read; with `mean`, divided by the number of
    /// copies of each.
    Expand { mean: bool },
    /// x → the same elements in order, in another shape.
    Reshape { dims: Vec<Dim> },
    /// x, like → x in the shape of like, whose numbers are not read.
    ReshapeLike,
    /// x → x with axis `axes[i]` as axis i.
    Transpose { axes: Vec<usize> },
    /// x → the chosen elements of each axis.
    Slice { spans: Vec<Span> },
    /// grad_y, like → grad_x of like's shape, zero where nothing was chosen; like's numbers are not read.
    SliceBackward { spans: Vec<Span> },
    /// x → x with so many elements of the value before and after each axis.
    Pad { pads: Vec<[usize; 2]>, value: Scalar },
    /// parts… → one after the other along the axis.
    Concat { axis: usize },
    /// whole, parts… → the elements of `whole` that part number `index` would be; the parts' numbers are not read.
    ConcatPart { axis: usize, index: usize },
    /// x → a linear map of every line along the axis.
    AxisMap { axis: usize, map: AxisMap },
    /// grad_y → grad_x with `from` elements along the axis: the transposed map.
    AxisMapBackward { axis: usize, map: AxisMap, from: usize },
    /// x (N, H, W, C) → (N, H·W·C).
    Flatten { order: FlattenOrder },
    /// x (N, H·W·C) → (N, H, W, C).
    Unflatten { order: FlattenOrder, shape: [usize; 3] },
    /// x → softmax along the axis, or its logarithm.
    Softmax { axis: usize, log: bool },
    /// grad_y, y → grad_x.
    SoftmaxBackward { axis: usize, log: bool },
    /// x (…, C), weight (C,), bias (C,), running mean (C,), running variance (C,) → y, mean (C,), 1/√(variance + eps)
    /// (C,), new running mean, new running variance. Statistics over all but the last axis; the variance is biased,
    /// the running one unbiased; `momentum` is the weight of the new value.
    ///
    /// With a residual as last operand and an activation y is activation(what it was + residual); both are set by fusion
    /// only.
    BatchNormTrain { eps: Scalar, momentum: Scalar, activation: Option<UnaryKind> },
    /// grad_y, x, weight, mean, 1/√(variance + eps) → grad_x, grad_weight, grad_bias.
    BatchNormBackward,
    /// grad_y, x, weight, mean, 1/√(variance + eps)[, what the gate reads][, other] → grad_x, grad_weight, grad_bias,
    /// grad: those of `BatchNormBackward` for grad, the gradient of the gate's activation by grad_y, or by grad_y + other
    /// with `sum`. Made by fusion only.
    BatchNormGateBackward { gate: Option<Gate>, sum: bool },
    /// x (…, C), weight, bias, mean, variance (C,) → (x − mean) / √(variance + eps) · weight + bias.
    BatchNormInfer { eps: Scalar },
    /// x (N, …, C), weight (C,), bias (C,) → y, mean (N, G), 1/√(variance + eps) (N, G). Statistics over all but the
    /// first axis for each of G groups of neighbouring channels.
    GroupNorm { groups: usize, eps: Scalar },
    /// grad_y, x, weight, mean, 1/√(variance + eps) → grad_x, grad_weight, grad_bias.
    GroupNormBackward { groups: usize },
    /// x (…, C) → y = x / s^beta, s (…, C) = k + alpha/size · Σ x² over the channels from c − size/2 to
    /// c + (size − 1)/2 that exist.
    LocalResponseNorm { size: usize, alpha: Scalar, beta: Scalar, k: Scalar },
    /// grad_y, x, y, s → grad_x.
    LocalResponseNormBackward { size: usize, alpha: Scalar, beta: Scalar },
    /// x (N, …, C), key (seed, step) → x / (1 − p) where the unit's draw keeps it, 0 elsewhere. Draws are Philox's for
    /// (seed; step, stream), so that the same op on the gradient is the gradient.
    Dropout { p: Scalar, unit: DropoutUnit, stream: u64 },
    /// logits (N, K), labels (N,)[, class weights (K,)] → mean loss (), rows guessed right (), d loss / d logits, rows
    /// counted (). Rows labelled `ignore` count for nothing; the mean is weighted.
    CrossEntropy { smoothing: Scalar, ignore: Option<i64> },
    /// bytes (N, H, W, C) → (x / 255 − mean) / std; lists of length 1 or C.
    Normalize { mean: Vec<Scalar>, std: Vec<Scalar> },
    /// hyper (P, `Optimizer::hyper`), then parameter, gradient and `Optimizer::states` states for each of P parameters
    /// → nothing; writes the parameters and states.
    Update(Optimizer),
    /// stored tensor, value → nothing; the tensor becomes the value.
    Assign,
    /// stored tensor t, value, weight () → nothing; t becomes t + weight·(value − t), the value itself for a weight of 1.
    Blend,
    /// stored int64 counter () → nothing; the counter grows by one.
    Increment,
}

impl Op {
    /// The name users see in messages and reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Conv2d { .. } => "conv2d",
            Self::Conv2dBackwardData { .. } => "conv2d_backward_data",
            Self::Conv2dBackwardWeights { .. } => "conv2d_backward_weights",
            Self::Linear { .. } => "linear",
            Self::LinearBackwardData => "linear_backward_data",
            Self::LinearBackwardWeights => "linear_backward_weights",
            Self::MaxPool2d { .. } => "max_pool2d",
            Self::MaxPool2dBackward { .. } => "max_pool2d_backward",
            Self::AvgPool2d { .. } => "avg_pool2d",
            Self::AvgPool2dBackward { .. } => "avg_pool2d_backward",
            Self::Unary(kind) => kind.name(),
            Self::UnaryBackward(kind) => kind.backward_name(),
            Self::Binary(kind) => kind.name(),
            Self::Reduce { kind, .. } => kind.name(),
            Self::Expand { .. } => "expand",
            Self::Reshape { .. } => "reshape",
            Self::ReshapeLike => "reshape_like",
            Self::Transpose { .. } => "transpose",
            Self::Slice { .. } => "slice",
            Self::SliceBackward { .. } => "slice_backward",
            Self::Pad { .. } => "pad",
            Self::Concat { .. } => "concat",
            Self::ConcatPart { .. } => "concat_part",
            Self::AxisMap { map, .. } => match map {
                AxisMap::Nearest { .. } | AxisMap::Linear { .. } => "upsample",
                AxisMap::AdaptiveAvg { .. } => "adaptive_avg_pool2d",
                AxisMap::PadEdge { .. } | AxisMap::PadReflect { .. } => "pad",
            },
            Self::AxisMapBackward { map, .. } => match map {
                AxisMap::Nearest { .. } | AxisMap::Linear { .. } => "upsample_backward",
                AxisMap::AdaptiveAvg { .. } => "adaptive_avg_pool2d_backward",
                AxisMap::PadEdge { .. } | AxisMap::PadReflect { .. } => "pad_backward",
            },
            Self::Flatten { .. } => "flatten",
            Self::Unflatten { .. } => "unflatten",
            Self::Softmax { log: false, .. } => "softmax",
            Self::Softmax { log: true, .. } => "log_softmax",
            Self::SoftmaxBackward { log: false, .. } => "softmax_backward",
            Self::SoftmaxBackward { log: true, .. } => "log_softmax_backward",
            Self::BatchNormTrain { .. } => "batch_norm_train",
            Self::BatchNormBackward | Self::BatchNormGateBackward { .. } => "batch_norm_backward",
            Self::BatchNormInfer { .. } => "batch_norm_infer",
            Self::GroupNorm { .. } => "group_norm",
            Self::GroupNormBackward { .. } => "group_norm_backward",
            Self::LocalResponseNorm { .. } => "local_response_norm",
            Self::LocalResponseNormBackward { .. } => "local_response_norm_backward",
            Self::Dropout { .. } => "dropout",
            Self::CrossEntropy { .. } => "cross_entropy",
            Self::Normalize { .. } => "normalize",
            Self::Update(optimizer) => optimizer.name(),
            Self::Assign => "assign",
            Self::Blend => "blend",
            Self::Increment => "increment",
        }
    }

    /// True if running the node writes stored tensors; such nodes are never dead and run after everything else.
    pub fn has_effect(&self) -> bool {
        matches!(self, Self::Update(_) | Self::Assign | Self::Blend | Self::Increment)
    }

    /// Whether operand `index` is a stored tensor that the node writes.
    pub fn writes(&self, index: usize) -> bool {
        match self {
            Self::Update(optimizer) => index > 0 && (index - 1) % (2 + optimizer.states()) != 1,
            Self::Assign | Self::Blend | Self::Increment => index == 0,
            _ => false,
        }
    }

    /// Whether the numbers of operand `index` are read; if not, only its shape is.
    pub fn reads(&self, index: usize) -> bool {
        match self {
            Self::Expand { .. } | Self::ReshapeLike | Self::SliceBackward { .. } | Self::ConcatPart { .. } => {
                index == 0
            }
            _ => true,
        }
    }
}
