//! Functions of one number and their derivatives.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use super::tensor::Tensor;
use crate::function::{Saved, UnaryKind};

pub fn forward(kind: UnaryKind, x: &Tensor) -> Tensor {
    x.with(x.f().iter().map(|&x| function(kind, x)).collect())
}

/// grad · f'(x), where `saved` is x or f(x) as [`UnaryKind::saved`] says.
pub fn backward(kind: UnaryKind, grad: &Tensor, saved: &Tensor) -> Tensor {
    let slope = |value: f64| match kind.saved() {
        Saved::Operand => derivative(kind, value),
        Saved::Result => derivative_by_result(kind, value),
    };
    grad.with(grad.f().iter().zip(saved.f()).map(|(&grad, &value)| grad * slope(value)).collect())
}

/// `low` or `high` where x is beyond them; NaN stays.
fn clamp(x: f64, low: f64, high: f64) -> f64 {
    if x > high {
        high
    } else if x < low {
        low
    } else {
        x
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The normal distribution's Φ(x) = (1 + erf(x/√2))/2.
fn normal(x: f64) -> f64 {
    let t = x.abs() * FRAC_1_SQRT_2;
    let tail = if t < 3.0 {
        // erf(t) = 2/√π · exp(−t²) · Σ 2ⁿ t²ⁿ⁺¹ / (2n + 1)!!, all terms positive.
        let (mut term, mut sum) = (t, 0.0);
        for n in 1..200 {
            sum += term;
            term *= 2.0 * t * t / f64::from(2 * n + 1);
        }
        1.0 - 2.0 / PI.sqrt() * (-t * t).exp() * sum
    } else {
        // erfc(t) = exp(−t²)/√π · 1/(t + (1/2)/(t + (2/2)/(t + …))).
        let fraction = (1..200).rev().fold(t, |below, n| t + f64::from(n) / 2.0 / below);
        (-t * t).exp() / PI.sqrt() / fraction
    };
    if x > 0.0 { 1.0 - tail / 2.0 } else { tail / 2.0 }
}

/// √(2/π)·(x + 0.044715·x³), the argument of tanh in the approximate gelu.
fn gelu_argument(x: f64) -> f64 {
    (2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)
}

fn function(kind: UnaryKind, x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    match kind {
        UnaryKind::Relu => x.max(0.0),
        UnaryKind::Relu6 => clamp(x, 0.0, 6.0),
        UnaryKind::LeakyRelu(slope) => x * if x > 0.0 { 1.0 } else { f64::from(slope.get()) },
        UnaryKind::Elu(_) if x > 0.0 => x,
        UnaryKind::Elu(alpha) => f64::from(alpha.get()) * x.exp_m1(),
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Sigmoid => sigmoid(x),
        UnaryKind::Silu => x * sigmoid(x),
        UnaryKind::Gelu => x * normal(x),
        UnaryKind::GeluTanh => 0.5 * x * (1.0 + gelu_argument(x).tanh()),
        UnaryKind::Hardswish => x * clamp(x + 3.0, 0.0, 6.0) / 6.0,
        UnaryKind::Hardsigmoid => clamp(x + 3.0, 0.0, 6.0) / 6.0,
        UnaryKind::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        UnaryKind::Exp => x.exp(),
        UnaryKind::Log => x.ln(),
        UnaryKind::Sqrt => x.sqrt(),
        UnaryKind::Abs => x.abs(),
        UnaryKind::Clip(low, high) => clamp(x, f64::from(low.get()), f64::from(high.get())),
        UnaryKind::Affine(scale, shift) => f64::from(scale.get()) * x + f64::from(shift.get()),
    }
}

/// f'(x) from x.
fn derivative(kind: UnaryKind, x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let inside = |low: f64, high: f64| f64::from(u8::from(low < x && x < high));
    match kind {
        UnaryKind::Relu => inside(0.0, f64::INFINITY),
        UnaryKind::Relu6 => inside(0.0, 6.0),
        UnaryKind::LeakyRelu(slope) => {
            if x > 0.0 {
                1.0
            } else {
                f64::from(slope.get())
            }
        }
        UnaryKind::Elu(_) if x > 0.0 => 1.0,
        UnaryKind::Elu(alpha) => f64::from(alpha.get()) * x.exp(),
        UnaryKind::Tanh => 1.0 - x.tanh() * x.tanh(),
        UnaryKind::Sigmoid => sigmoid(x) * sigmoid(-x),
        UnaryKind::Silu => sigmoid(x) + x * sigmoid(x) * sigmoid(-x),
        UnaryKind::Gelu => normal(x) + x * (-x * x / 2.0).exp() / (2.0 * PI).sqrt(),
        UnaryKind::GeluTanh => {
            let tanh = gelu_argument(x).tanh();
            let slope = (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044_715 * x * x);
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope
        }
        UnaryKind::Hardswish if x <= -3.0 => 0.0,
        UnaryKind::Hardswish if x >= 3.0 => 1.0,
        UnaryKind::Hardswish => (2.0 * x + 3.0) / 6.0,
        UnaryKind::Hardsigmoid => inside(-3.0, 3.0) / 6.0,
        UnaryKind::Softplus => sigmoid(x),
        UnaryKind::Exp => x.exp(),
        UnaryKind::Log => 1.0 / x,
        UnaryKind::Sqrt => 0.5 / x.sqrt(),
        UnaryKind::Abs => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        UnaryKind::Clip(low, high) => f64::from(u8::from(f64::from(low.get()) <= x && x <= f64::from(high.get()))),
        UnaryKind::Affine(scale, _) => f64::from(scale.get()),
    }
}

/// f'(x) from y = f(x), for the functions whose result tells enough.
fn derivative_by_result(kind: UnaryKind, y: f64) -> f64 {
    if y.is_nan() {
        return y;
    }
    match kind {
        UnaryKind::Tanh => 1.0 - y * y,
        UnaryKind::Sigmoid => y * (1.0 - y),
        UnaryKind::Exp => y,
        UnaryKind::Sqrt => 0.5 / y,
        UnaryKind::Elu(alpha) if y <= 0.0 => y + f64::from(alpha.get()),
        UnaryKind::Hardsigmoid => {
            if 0.0 < y && y < 1.0 {
                1.0 / 6.0
            } else {
                0.0
            }
        }
        // Increasing functions that leave 0 (and 6) where they are: x and y lie on the same side of them.
        other => derivative(other, y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::function::Scalar;

    fn kinds() -> Vec<UnaryKind> {
        let s = Scalar::new;
        vec![
            UnaryKind::Relu,
            UnaryKind::Relu6,
            UnaryKind::LeakyRelu(s(0.25)),
            UnaryKind::LeakyRelu(s(-0.5)),
            UnaryKind::Elu(s(1.5)),
            UnaryKind::Elu(s(-1.5)),
            UnaryKind::Tanh,
            UnaryKind::Sigmoid,
            UnaryKind::Silu,
            UnaryKind::Gelu,
            UnaryKind::GeluTanh,
            UnaryKind::Hardswish,
            UnaryKind::Hardsigmoid,
            UnaryKind::Softplus,
            UnaryKind::Exp,
            UnaryKind::Log,
            UnaryKind::Sqrt,
            UnaryKind::Abs,
            UnaryKind::Clip(s(-1.0), s(2.0)),
            UnaryKind::Affine(s(-3.0), s(0.5)),
        ]
    }

    #[test]
    fn known_values() {
        let s = Scalar::new;
        let cases = [
            (UnaryKind::Relu6, 7.0, 6.0),
            (UnaryKind::LeakyRelu(s(0.25)), -2.0, -0.5),
            (UnaryKind::Elu(s(2.0)), -1.0, 2.0 * ((-1.0f64).exp() - 1.0)),
            (UnaryKind::Silu, 0.0, 0.0),
            (UnaryKind::Hardswish, 1.0, 4.0 / 6.0),
            (UnaryKind::Hardsigmoid, -1.5, 0.25),
            (UnaryKind::Softplus, 0.0, 2.0f64.ln()),
            (UnaryKind::Softplus, -800.0, 0.0),
            (UnaryKind::Clip(s(-1.0), s(2.0)), 3.0, 2.0),
            (UnaryKind::Affine(s(-3.0), s(0.5)), 2.0, -5.5),
        ];
        for (kind, x, y) in cases {
            assert!((function(kind, x) - y).abs() <= 1e-15, "{kind:?} at {x}");
        }
    }

    /// Φ from tables (Abramowitz and Stegun, 26.2 and 7.1), on both sides of the switch of formulas.
    #[test]
    fn the_normal_distribution() {
        for (x, expected) in [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_542_9),
            (-2.0, 0.022_750_131_948_179_2),
            (-4.3, 8.539_905_471e-6),
            (-5.0, 2.866_515_718_791_94e-7),
        ] {
            assert!((normal(x) - expected).abs() <= 1e-9 * expected, "{x}: {}", normal(x));
        }
        let (left, right) = (normal(-4.242_640_687_11), normal(-4.242_640_687_13));
        assert!((left / right - 1.0).abs() < 1e-9);
    }

    #[test]
    fn derivatives_are_those_of_the_functions() {
        for kind in kinds() {
            for x in [-4.7, -2.2, -0.4, 0.3, 1.1, 3.6, 6.5] {
                if x < 0.0 && matches!(kind, UnaryKind::Log | UnaryKind::Sqrt) {
                    continue;
                }
                let step = 1e-6;
                let slope = (function(kind, x + step) - function(kind, x - step)) / (2.0 * step);
                assert!((slope - derivative(kind, x)).abs() < 1e-7, "{kind:?} at {x}");
                if kind.saved() == Saved::Result {
                    let by_result = derivative_by_result(kind, function(kind, x));
                    assert!((slope - by_result).abs() < 1e-7, "{kind:?} at {x} from the result");
                }
            }
        }
    }

    #[test]
    fn derivatives_at_the_kinks() {
        let s = Scalar::new;
        let slope = |kind: UnaryKind, x: f64| {
            let saved = if kind.saved() == Saved::Result { function(kind, x) } else { x };
            let one = Tensor::floats(vec![1], vec![1.0]);
            backward(kind, &one, &Tensor::floats(vec![1], vec![saved])).f()[0]
        };
        for (kind, x, expected) in [
            (UnaryKind::Relu, 0.0, 0.0),
            (UnaryKind::Relu6, 0.0, 0.0),
            (UnaryKind::Relu6, 6.0, 0.0),
            (UnaryKind::LeakyRelu(s(0.25)), 0.0, 0.25),
            (UnaryKind::Elu(s(2.0)), 0.0, 2.0),
            (UnaryKind::Hardswish, -3.0, 0.0),
            (UnaryKind::Hardswish, 3.0, 1.0),
            (UnaryKind::Hardsigmoid, 3.0, 0.0),
            (UnaryKind::Abs, 0.0, 0.0),
            (UnaryKind::Clip(s(-1.0), s(2.0)), 2.0, 1.0),
        ] {
            assert_eq!(slope(kind, x), expected, "{kind:?} at {x}");
        }
    }

    #[test]
    fn nan_stays() {
        assert!(kinds().into_iter().all(|kind| function(kind, f64::NAN).is_nan()));
    }
}
