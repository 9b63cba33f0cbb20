use cnnrs::function::{Saved, Scalar, UnaryKind};
use cnnrs::kernels::elementwise::{Unary, UnaryBackward};
use cnnrs::simd::Isa;

use crate::{Operand, run, run_mapped, values};

/// Empty, shorter than a vector, ragged, several tasks.
pub const LENS: [usize; 6] = [0, 1, 7, 33, 4099, 70_001];

/// Every function, those with parameters with all signs of them.
fn kinds() -> Vec<UnaryKind> {
    use UnaryKind::*;
    let s = Scalar::new;
    vec![
        Relu,
        Relu6,
        LeakyRelu(s(0.01)),
        LeakyRelu(s(-0.5)),
        Elu(s(1.5)),
        Elu(s(-0.5)),
        Tanh,
        Sigmoid,
        Silu,
        Gelu,
        GeluTanh,
        Hardswish,
        Hardsigmoid,
        Softplus,
        Exp,
        Log,
        Sqrt,
        Abs,
        Clip(s(-1.25), s(2.0)),
        Clip(s(f32::NEG_INFINITY), s(0.0)),
        Affine(s(-3.0), s(0.5)),
        Affine(s(1.0), s(0.25)),
        Affine(s(-1.0), s(0.0)),
    ]
}

fn relu6(x: f64) -> f64 {
    x.clamp(0.0, 6.0)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The normal distribution function by its series, which converges for the values used here.
fn phi(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for k in 1..300 {
        term *= x * x / f64::from(2 * k + 1);
        sum += term;
    }
    if x.is_infinite() { f64::from(x > 0.0) } else { 0.5 + density(x) * sum }
}

fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn cubic(x: f64) -> f64 {
    2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))
}

/// A product that is zero where its first factor, a probability, is.
fn product(probability: f64, x: f64) -> f64 {
    if probability == 0.0 { 0.0 } else { probability * x }
}

fn forward(kind: UnaryKind, x: f64) -> f64 {
    let wide = |s: Scalar| f64::from(s.get());
    if x.is_nan() {
        return x;
    }
    match kind {
        UnaryKind::Relu => x.max(0.0),
        UnaryKind::Relu6 => relu6(x),
        UnaryKind::LeakyRelu(slope) => {
            if x > 0.0 {
                x
            } else {
                wide(slope) * x
            }
        }
        UnaryKind::Elu(alpha) => {
            if x > 0.0 {
                x
            } else {
                wide(alpha) * x.exp_m1()
            }
        }
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Sigmoid => sigmoid(x),
        UnaryKind::Silu => product(sigmoid(x), x),
        UnaryKind::Gelu => product(phi(x), x),
        UnaryKind::GeluTanh => product(sigmoid(cubic(x)), x),
        UnaryKind::Hardswish => product(relu6(x + 3.0) / 6.0, x),
        UnaryKind::Hardsigmoid => relu6(x + 3.0) / 6.0,
        UnaryKind::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        UnaryKind::Exp => x.exp(),
        UnaryKind::Log => x.ln(),
        UnaryKind::Sqrt => x.sqrt(),
        UnaryKind::Abs => x.abs(),
        UnaryKind::Clip(low, high) => x.max(wide(low)).min(wide(high)),
        UnaryKind::Affine(scale, shift) => wide(scale) * x + wide(shift),
    }
}

/// The derivative at `x`, where the result is `y`.
fn derivative(kind: UnaryKind, x: f64, y: f64) -> f64 {
    let wide = |s: Scalar| f64::from(s.get());
    let gated = |v: f64, slope: f64| sigmoid(v) * (1.0 + x * slope * sigmoid(-v));
    let between = |low: f64, high: f64| f64::from(low < x && x < high);
    match kind {
        UnaryKind::Relu => f64::from(x > 0.0),
        UnaryKind::Relu6 => between(0.0, 6.0),
        UnaryKind::LeakyRelu(slope) => {
            if x > 0.0 {
                1.0
            } else {
                wide(slope)
            }
        }
        UnaryKind::Elu(alpha) => {
            if x > 0.0 {
                1.0
            } else {
                wide(alpha) * x.exp()
            }
        }
        UnaryKind::Tanh => 1.0 - y * y,
        UnaryKind::Sigmoid => y * (1.0 - y),
        UnaryKind::Silu => gated(x, 1.0),
        UnaryKind::Gelu => phi(x) + x * density(x),
        UnaryKind::GeluTanh => gated(cubic(x), 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (1.0 + 0.134_145 * x * x)),
        UnaryKind::Hardswish => {
            if x <= -3.0 {
                0.0
            } else if x >= 3.0 {
                1.0
            } else {
                x / 3.0 + 0.5
            }
        }
        UnaryKind::Hardsigmoid => between(-3.0, 3.0) / 6.0,
        UnaryKind::Softplus => sigmoid(x),
        UnaryKind::Exp => y,
        UnaryKind::Log => 1.0 / x,
        UnaryKind::Sqrt => 0.5 / y,
        UnaryKind::Abs => {
            if x == 0.0 {
                0.0
            } else {
                x.signum()
            }
        }
        UnaryKind::Clip(low, high) => f64::from(wide(low) <= x && x <= wide(high)),
        UnaryKind::Affine(scale, _) => wide(scale),
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

/// Equal within a relative and absolute 1e-6, special values as such.
fn assert_near(got: &[f32], want: &[f64], what: &str) {
    for (i, (&x, &y)) in got.iter().zip(want).enumerate() {
        let fine =
            (x.is_nan() && y.is_nan()) || f64::from(x) == y || (f64::from(x) - y).abs() <= 1e-6 * y.abs().max(1.0);
        assert!(fine, "{what}: element {i} is {x}, expected {y}");
    }
    assert_eq!(got.len(), want.len(), "{what}");
}

#[test]
fn functions_of_one_number() {
    for isa in Isa::available() {
        for kind in kinds() {
            for len in LENS {
                let mut x: Vec<f32> = values(1, len).iter().map(|x| x * 4.0).collect();
                for (slot, special) in x.iter_mut().skip(3).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]) {
                    *slot = special;
                }
                let kernel = Unary::new(isa, kind, len);
                let apart = run(&kernel, &[Operand::of(&x), Operand::poison::<f32>(len)]);
                let want: Vec<f64> = x.iter().map(|&x| forward(kind, f64::from(x))).collect();
                assert_near(&apart[1].get::<f32>(), &want, &format!("{kind:?} {}", isa.name()));
                assert_eq!(apart[0].get::<u32>(), Operand::of(&x).get::<u32>());
                let in_place = run_mapped(&kernel, &[Operand::of(&x)], &[0, 0]);
                assert_eq!(in_place[0].get::<u32>(), apart[1].get::<u32>());
            }
        }
    }
}

#[test]
fn gradients_of_functions_of_one_number() {
    for isa in Isa::available() {
        for kind in kinds() {
            for len in LENS {
                // Away from the kinks, which have a test of their own.
                let mut x: Vec<f32> = values(1, len).iter().map(|x| x * 4.0 + 1e-3).collect();
                if matches!(kind, UnaryKind::Log | UnaryKind::Sqrt) {
                    x = x.into_iter().map(|x| x.abs() + 0.1).collect();
                }
                let y: Vec<f32> = x.iter().map(|&x| forward(kind, f64::from(x)) as f32).collect();
                let g = values(2, len);
                let kernel = UnaryBackward::new(isa, kind, len);
                let saved = if kind.saved() == Saved::Result { &y } else { &x };
                let operands = [Operand::of(&g), Operand::of(saved), Operand::poison::<f32>(len)];
                let apart = run(&kernel, &operands);
                let want: Vec<f64> =
                    (0..len).map(|i| f64::from(g[i]) * derivative(kind, f64::from(x[i]), f64::from(y[i]))).collect();
                assert_near(&apart[2].get::<f32>(), &want, &format!("{kind:?} {}", isa.name()));
                for map in [[0, 1, 0], [0, 1, 1]] {
                    let shared = run_mapped(&kernel, &operands[..2], &map);
                    assert_eq!(shared[map[2]].get::<u32>(), apart[2].get::<u32>());
                }
            }
        }
    }
}

/// The derivative at the corners of a function is what its documentation says.
#[test]
fn derivatives_at_kinks() {
    let s = Scalar::new;
    let table: [(UnaryKind, &[f32], &[f32]); 9] = [
        (UnaryKind::Relu, &[0.0, -0.0, 1e-30, -1e-30], &[0.0, 0.0, 1.0, 0.0]),
        (UnaryKind::Relu6, &[0.0, 1e-30, 5.999_999_5, 6.0], &[0.0, 1.0, 1.0, 0.0]),
        (UnaryKind::LeakyRelu(s(0.25)), &[0.0, -0.0, 1e-30], &[0.25, 0.25, 1.0]),
        (UnaryKind::LeakyRelu(s(-0.25)), &[0.0, -2.0, 2.0], &[-0.25, -0.25, 1.0]),
        (UnaryKind::Elu(s(2.0)), &[0.0, 1e-30], &[2.0, 1.0]),
        (UnaryKind::Hardswish, &[-3.0, -2.999_999_8, 3.0, -1e30, 1e30], &[0.0, -0.5, 1.0, 0.0, 1.0]),
        (UnaryKind::Hardsigmoid, &[-3.0, 0.0, 3.0], &[0.0, 1.0 / 6.0, 0.0]),
        (UnaryKind::Abs, &[0.0, -0.0, -1e-30, 1e-30], &[0.0, 0.0, -1.0, 1.0]),
        (UnaryKind::Clip(s(-1.0), s(2.0)), &[-1.0, 2.0, -1.000_000_1, 2.000_000_2], &[1.0, 1.0, 0.0, 0.0]),
    ];
    for isa in Isa::available() {
        for (kind, x, want) in table {
            let len = x.len();
            let y = run(&Unary::new(isa, kind, len), &[Operand::of(x), Operand::poison::<f32>(len)]).swap_remove(1);
            let saved = if kind.saved() == Saved::Result { y } else { Operand::of(x) };
            let operands = [Operand::of(&vec![1.0f32; len]), saved, Operand::poison::<f32>(len)];
            let got = run(&UnaryBackward::new(isa, kind, len), &operands)[2].get::<f32>();
            assert_near(&got, &wide(want), &format!("{kind:?} {}", isa.name()));
        }
    }
}
