use cnnrs::function::UnaryKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::elementwise::{Add, Normalize, Scale, Unary, UnaryBackward};
use cnnrs::simd::Isa;

use crate::{Operand, assert_close, run, run_mapped, values};

const KINDS: [UnaryKind; 3] = [UnaryKind::Relu, UnaryKind::Tanh, UnaryKind::Sigmoid];
/// Empty, shorter than a vector, ragged, several tasks.
const LENS: [usize; 6] = [0, 1, 7, 33, 4099, 70_001];

fn forward(kind: UnaryKind, x: f64) -> f64 {
    match kind {
        UnaryKind::Relu => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0)
            }
        }
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        _ => unreachable!("not among KINDS"),
    }
}

fn backward(kind: UnaryKind, g: f64, y: f64) -> f64 {
    match kind {
        UnaryKind::Relu => {
            if y > 0.0 {
                g
            } else {
                0.0
            }
        }
        UnaryKind::Tanh => g * (1.0 - y * y),
        UnaryKind::Sigmoid => g * y * (1.0 - y),
        _ => unreachable!("not among KINDS"),
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

#[test]
fn activations_and_their_gradients() {
    for isa in Isa::available() {
        for kind in KINDS {
            for len in LENS {
                let mut x: Vec<f32> = values(1, len).iter().map(|x| x * 4.0).collect();
                for (slot, special) in x.iter_mut().skip(3).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]) {
                    *slot = special;
                }
                let kernel = Unary::new(isa, kind, len);
                let apart = run(&kernel, &[Operand::of(&x), Operand::poison::<f32>(len)]);
                let y: Vec<f32> = apart[1].get();
                let want: Vec<f64> = x.iter().map(|&x| forward(kind, f64::from(x))).collect();
                assert_close(&y, &want, 3e-7, &kernel.name());
                assert_eq!(apart[0].get::<u32>(), Operand::of(&x).get::<u32>());
                let in_place = run_mapped(&kernel, &[Operand::of(&x)], &[0, 0]);
                assert_eq!(in_place[0].get::<u32>(), apart[1].get::<u32>());

                let g = values(2, len);
                let kernel = UnaryBackward::new(isa, kind, len);
                let operands = [Operand::of(&g), Operand::of(&y), Operand::poison::<f32>(len)];
                let apart = run(&kernel, &operands);
                let want: Vec<f64> =
                    g.iter().zip(&y).map(|(&g, &y)| backward(kind, f64::from(g), f64::from(y))).collect();
                assert_close(&apart[2].get::<f32>(), &want, 5e-7, &kernel.name());
                for map in [[0, 1, 0], [0, 1, 1]] {
                    let shared = run_mapped(&kernel, &operands[..2], &map);
                    assert_eq!(shared[map[2]].get::<u32>(), apart[2].get::<u32>());
                }
            }
        }
    }
}

#[test]
fn relu_at_zero_and_nan() {
    for isa in Isa::available() {
        let x = [f32::NAN, 0.0, -0.0, -1.0, 2.0];
        let y: Vec<f32> =
            run(&Unary::new(isa, UnaryKind::Relu, 5), &[Operand::of(&x), Operand::poison::<f32>(5)])[1].get();
        assert!(y[0].is_nan());
        assert_eq!(y[1..], [0.0, 0.0, 0.0, 2.0]);
        let kernel = UnaryBackward::new(isa, UnaryKind::Relu, 4);
        let dst = [0.0f32, -0.0, 1e-30, 5.0];
        let operands = [Operand::of(&[7.0f32; 4]), Operand::of(&dst), Operand::poison::<f32>(4)];
        assert_eq!(run(&kernel, &operands)[2].get::<f32>(), [0.0, 0.0, 7.0, 7.0]);
    }
}

#[test]
fn addition_scaling_and_filling_are_exact() {
    for isa in Isa::available() {
        for len in LENS {
            let (a, b) = (values(3, len), values(4, len));
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let kernel = Add::new(isa, len);
            let operands = [Operand::of(&a), Operand::of(&b), Operand::poison::<f32>(len)];
            assert_eq!(run(&kernel, &operands)[2].get::<f32>(), sum);
            assert_eq!(run_mapped(&kernel, &operands[..2], &[0, 1, 1])[1].get::<f32>(), sum);
            assert_eq!(run_mapped(&kernel, &operands[..2], &[0, 1, 0])[0].get::<f32>(), sum);

            let product: Vec<f32> = a.iter().map(|a| a * -0.3).collect();
            let operands = [Operand::of(&a), Operand::of(&[-0.3f32]), Operand::poison::<f32>(len)];
            assert_eq!(run(&Scale::new(isa, len), &operands)[2].get::<f32>(), product);
        }
    }
}

#[test]
fn normalisation_is_rounded_once_and_broadcasts() {
    let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    let lists: [(&[f32], &[f32]); 4] = [(&mean, &std), (&mean[..1], &std), (&mean, &std[..1]), (&mean[..1], &std[..1])];
    for isa in Isa::available() {
        for (mean, std) in lists {
            for pixels in [0, 1, 300, 9000] {
                let src: Vec<u8> = (0..pixels * 3).map(|i| (i * 7 + i / 256) as u8).collect();
                let kernel = Normalize::new(isa, pixels, 3, mean, std);
                let dst: Vec<f32> = run(&kernel, &[Operand::of(&src), Operand::poison::<f32>(pixels * 3)])[1].get();
                for (i, (&byte, &y)) in src.iter().zip(&dst).enumerate() {
                    let (mean, std) = (f64::from(mean[i % mean.len()]), f64::from(std[i % std.len()]));
                    assert_eq!(y.to_bits(), (((f64::from(byte) / 255.0 - mean) / std) as f32).to_bits());
                }
            }
        }
    }
}

/// A task must be worth handing out, and mid-size work must suffice for two cores.
#[test]
fn tasks_depend_on_size_alone() {
    let tasks = |len| Add::new(Isa::Portable, len).tasks();
    assert_eq!([0, 1, 4096, 4097, 8192, 65_536, 262_144, 1 << 20].map(tasks), [0, 1, 1, 2, 2, 16, 16, 64]);
    assert_eq!(Add::new(Isa::detect(), 50_000).tasks(), tasks(50_000));
}
