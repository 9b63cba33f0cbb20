//! Element-wise functions and reductions by name: the vocabulary that graph and kernels share.

/// A float as an attribute: compared and hashed by its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scalar(u32);

impl Scalar {
    /// The attribute that stands for `x`.
    pub const fn new(x: f32) -> Self {
        Self(x.to_bits())
    }

    /// The float.
    pub fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

/// Which value of the forward pass the gradient of a function of one number is computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// The operand.
    Operand,
    /// The result.
    Result,
}

/// Functions of one number. NaN stays NaN in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnaryKind {
    /// max(x, 0); the derivative at 0 is 0.
    Relu,
    /// min(max(x, 0), 6); the derivative at 0 and 6 is 0.
    Relu6,
    /// x if x > 0, slope·x otherwise.
    LeakyRelu(Scalar),
    /// x if x > 0, alpha·(exp(x) − 1) otherwise.
    Elu(Scalar),
    /// Hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(−x)).
    Sigmoid,
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x), with the normal distribution's Φ by the error function.
    Gelu,
    /// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
    GeluTanh,
    /// x · relu6(x + 3) / 6; the derivative at −3 is 0 and at 3 is 1.
    Hardswish,
    /// relu6(x + 3) / 6; the derivative at −3 and 3 is 0.
    Hardsigmoid,
    /// log(1 + exp(x)).
    Softplus,
    /// Exponential function.
    Exp,
    /// Natural logarithm.
    Log,
    /// Square root.
    Sqrt,
    /// |x|; the derivative at 0 is 0.
    Abs,
    /// min(max(x, low), high); the derivative at the bounds is 1.
    Clip(Scalar, Scalar),
    /// scale·x + shift.
    Affine(Scalar, Scalar),
}

impl UnaryKind {
    /// The op's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::Relu6 => "relu6",
            Self::LeakyRelu(_) => "leaky_relu",
            Self::Elu(_) => "elu",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Silu => "silu",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Hardswish => "hardswish",
            Self::Hardsigmoid => "hardsigmoid",
            Self::Softplus => "softplus",
            Self::Exp => "exp",
            Self::Log => "log",
            Self::Sqrt => "sqrt",
            Self::Abs => "abs",
            Self::Clip(..) => "clip",
            Self::Affine(..) => "affine",
        }
    }

    /// The name of the gradient.
    pub fn backward_name(self) -> &'static str {
        match self {
            Self::Relu => "relu_backward",
            Self::Relu6 => "relu6_backward",
            Self::LeakyRelu(_) => "leaky_relu_backward",
            Self::Elu(_) => "elu_backward",
            Self::Tanh => "tanh_backward",
            Self::Sigmoid => "sigmoid_backward",
            Self::Silu => "silu_backward",
            Self::Gelu => "gelu_backward",
            Self::GeluTanh => "gelu_tanh_backward",
            Self::Hardswish => "hardswish_backward",
            Self::Hardsigmoid => "hardsigmoid_backward",
            Self::Softplus => "softplus_backward",
            Self::Exp => "exp_backward",
            Self::Log => "log_backward",
            Self::Sqrt => "sqrt_backward",
            Self::Abs => "abs_backward",
            Self::Clip(..) => "clip_backward",
            Self::Affine(..) => "affine_backward",
        }
    }

    /// What the gradient is computed from: the result wherever it tells enough, so that the operand can be overwritten.
    pub fn saved(self) -> Saved {
        match self {
            Self::Relu
            | Self::Relu6
            | Self::Tanh
            | Self::Sigmoid
            | Self::Hardsigmoid
            | Self::Exp
            | Self::Sqrt
            | Self::Affine(..) => Saved::Result,
            // The sign of the result is the operand's only for slopes and scales of one sign.
            Self::LeakyRelu(slope) if slope.get() >= 0.0 => Saved::Result,
            Self::Elu(alpha) if alpha.get() > 0.0 => Saved::Result,
            _ => Saved::Operand,
        }
    }

    /// For an activation whose gradient is either passed on or zero, passed on where the operand lies above zero and is
    /// at most this number; the result may stand for the operand.
    pub fn gate_limit(self) -> Option<f32> {
        match self {
            Self::Relu => Some(f32::INFINITY),
            Self::Relu6 => Some(6.0f32.next_down()),
            _ => None,
        }
    }
}

/// Functions of two numbers, broadcast as NumPy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BinaryKind {
    /// a + b.
    Add,
    /// a − b.
    Sub,
    /// a · b.
    Mul,
    /// a / b.
    Div,
    /// The larger; NaN if either is. The gradient of equals is shared.
    Maximum,
    /// The smaller; NaN if either is. The gradient of equals is shared.
    Minimum,
    /// 1 if a > b, ½ if a = b, 0 otherwise: the share of `Maximum`'s gradient that `a` gets.
    Share,
    /// 1 if a = b, 0 otherwise.
    Equal,
}

impl BinaryKind {
    /// The op's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Sub => "sub",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Maximum => "maximum",
            Self::Minimum => "minimum",
            Self::Share => "share",
            Self::Equal => "equal",
        }
    }
}

/// From many numbers to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReduceKind {
    /// Σ x; 0 of nothing.
    Sum,
    /// Σ x / count; NaN of nothing.
    Mean,
    /// The largest; NaN if any is, −∞ of nothing.
    Max,
    /// The smallest; NaN if any is, ∞ of nothing.
    Min,
    /// Σ x²; 0 of nothing.
    SumSquares,
}

impl ReduceKind {
    /// The op's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Min => "min",
            Self::SumSquares => "sum_squares",
        }
    }
}

/// A linear map along one axis: every result is a weighted sum of a few elements of the same line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AxisMap {
    /// Element ⌊i · from / to⌋.
    Nearest {
        /// Size of the result.
        to: usize,
    },
    /// Linear interpolation at (i + ½)·from/to − ½ (or i·(from − 1)/(to − 1) with `align_corners`), clamped.
    Linear {
        /// Size of the result.
        to: usize,
        /// Whether the outermost elements of both sides lie on each other.
        align_corners: bool,
    },
    /// Mean of the elements ⌊i·from/to⌋ to ⌈(i + 1)·from/to⌉ − 1.
    AdaptiveAvg {
        /// Size of the result.
        to: usize,
    },
    /// The outermost element again and again.
    PadEdge {
        /// Elements in front.
        before: usize,
        /// Elements behind.
        after: usize,
    },
    /// Mirrored at the outermost element, which is not repeated; fewer elements than the line has.
    PadReflect {
        /// Elements in front.
        before: usize,
        /// Elements behind.
        after: usize,
    },
}

impl AxisMap {
    /// Size of the result for a line of `from` elements.
    pub fn size(self, from: usize) -> usize {
        match self {
            Self::Nearest { to } | Self::Linear { to, .. } | Self::AdaptiveAvg { to } => to,
            Self::PadEdge { before, after } | Self::PadReflect { before, after } => before + from + after,
        }
    }

    /// For result `i` of a line of `from ≥ 1` elements: the elements it sums and their weights, in ascending order.
    ///
    /// Computed in double precision; a weight of zero is left out.
    pub fn row(self, i: usize, from: usize) -> impl ExactSizeIterator<Item = (usize, f64)> {
        let (first, count, weight, others) = self.run(i, from);
        (first..first + count).map(move |j| (j, if j == first { weight } else { others }))
    }

    /// First element and number of elements of a row, and the weights of the first and of all others.
    fn run(self, i: usize, from: usize) -> (usize, usize, f64, f64) {
        let single = |j| (j, 1, 1.0, 0.0);
        match self {
            Self::Nearest { to } => single((i * from / to).min(from - 1)),
            Self::Linear { to, align_corners } => {
                let (place, from_f) = (i as f64, from as f64);
                let at = match (align_corners, to) {
                    (true, 1) => 0.0,
                    (true, _) => place * (from_f - 1.0) / (to as f64 - 1.0),
                    (false, _) => (place + 0.5) * from_f / to as f64 - 0.5,
                };
                let at = at.clamp(0.0, from_f - 1.0);
                let low = (at.floor() as usize).min(from - 1);
                let share = at - low as f64;
                if share == 0.0 || low + 1 == from { single(low) } else { (low, 2, 1.0 - share, share) }
            }
            Self::AdaptiveAvg { to } => {
                let (first, last) = (i * from / to, ((i + 1) * from).div_ceil(to));
                let weight = 1.0 / (last - first) as f64;
                (first, last - first, weight, weight)
            }
            Self::PadEdge { before, .. } => single(i.saturating_sub(before).min(from - 1)),
            Self::PadReflect { before, .. } => {
                let place = i as isize - before as isize;
                let end = from as isize - 1;
                let mirrored = if place < 0 {
                    -place
                } else if place > end {
                    2 * end - place
                } else {
                    place
                };
                single(mirrored as usize)
            }
        }
    }

    /// At least as many as the entries of all rows together.
    pub fn most_entries(self, from: usize) -> usize {
        let to = self.size(from);
        match self {
            Self::Linear { .. } => 2 * to,
            Self::AdaptiveAvg { .. } => from + 2 * to,
            Self::Nearest { .. } | Self::PadEdge { .. } | Self::PadReflect { .. } => to,
        }
    }
}
