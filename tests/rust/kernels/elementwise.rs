use cnnrs::function::{BinaryKind, UnaryKind};
use cnnrs::kernels::Kernel;
use cnnrs::kernels::elementwise::{Binary, Expand, Normalize, Unary};
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::unary::LENS;
use crate::{Operand, integers, run, run_mapped, values};

const BINARY: [BinaryKind; 8] = [
    BinaryKind::Add,
    BinaryKind::Sub,
    BinaryKind::Mul,
    BinaryKind::Div,
    BinaryKind::Maximum,
    BinaryKind::Minimum,
    BinaryKind::Share,
    BinaryKind::Equal,
];

fn combine(kind: BinaryKind, a: f32, b: f32) -> f32 {
    match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
        BinaryKind::Maximum | BinaryKind::Minimum if a.is_nan() || b.is_nan() => f32::NAN,
        BinaryKind::Maximum => a.max(b),
        BinaryKind::Minimum => a.min(b),
        BinaryKind::Share if a > b => 1.0,
        BinaryKind::Share => {
            if a == b {
                0.5
            } else {
                0.0
            }
        }
        BinaryKind::Equal => f32::from(a == b),
    }
}

/// Equal as numbers; NaN equals NaN.
fn assert_equal(got: &[f32], want: &[f32], what: &str) {
    let same = got.iter().zip(want).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
    assert!(got.len() == want.len() && same, "{what}: {got:?} instead of {want:?}");
}

/// The operand's element for every element of a result.
fn broadcast(x: &[f32], own: &[usize], shape: &[usize]) -> Vec<f32> {
    let len: usize = shape.iter().product();
    let place = |mut at: usize| {
        let (mut offset, mut dense) = (0, 1);
        for (axis, &size) in shape.iter().enumerate().rev() {
            let mine = (axis + own.len()).checked_sub(shape.len()).map_or(1, |axis| own[axis]);
            offset += if mine == 1 { 0 } else { at % size * dense };
            at /= size;
            dense *= mine;
        }
        offset
    };
    (0..len).map(|at| x[place(at)]).collect()
}

#[test]
fn operands_of_one_shape() {
    for isa in Isa::available() {
        for kind in BINARY {
            for len in LENS {
                // Whole numbers: many are equal.
                let (mut a, mut b) = (integers(3, len), integers(4, len));
                for (i, x) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0].into_iter().enumerate() {
                    if len > 20 {
                        (a[i], b[4 + i], a[8 + i], b[8 + i]) = (x, x, x, x);
                    }
                }
                let want: Vec<f32> = a.iter().zip(&b).map(|(&a, &b)| combine(kind, a, b)).collect();
                let kernel = Binary::new(isa, kind, &[len], &[len], &[len]).unwrap();
                let operands = [Operand::of(&a), Operand::of(&b), Operand::poison::<f32>(len)];
                assert_equal(&run(&kernel, &operands)[2].get::<f32>(), &want, &kernel.name());
                for map in [[0, 1, 0], [0, 1, 1]] {
                    let shared = run_mapped(&kernel, &operands[..2], &map);
                    assert_equal(&shared[map[2]].get::<f32>(), &want, &kernel.name());
                }
            }
        }
    }
}

/// Rows shorter than a vector, of which one operand is gathered, and their neighbours that are not.
#[test]
fn short_rows() {
    for isa in Isa::available() {
        for n in [1, 2, 3, 5, 7, 8, 9, 15, 16, 17] {
            for rows in [1, 7, 16, 33, 1500] {
                let shape = [2, rows, n];
                let own: [[usize; 3]; 5] = [[2, rows, n], [1, 1, n], [2, rows, 1], [2, 1, n], [1, rows, 1]];
                for other in own {
                    for (a, b) in [(own[0], other), (other, own[0])] {
                        let (x, y) = (integers(5, a.iter().product()), integers(6, b.iter().product()));
                        let pairs = broadcast(&x, &a, &shape).into_iter().zip(broadcast(&y, &b, &shape));
                        let want: Vec<f32> = pairs.map(|(a, b)| a - b).collect();
                        let kernel = Binary::new(isa, BinaryKind::Sub, &shape, &a, &b).unwrap();
                        let operands = [Operand::of(&x), Operand::of(&y), Operand::poison::<f32>(want.len())];
                        assert_equal(&run(&kernel, &operands)[2].get::<f32>(), &want, &format!("{a:?} {b:?}"));
                    }
                }
            }
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
    let tasks = |len: usize| Binary::new(Isa::Portable, BinaryKind::Add, &[len], &[len], &[len]).unwrap().tasks();
    assert_eq!([0, 1, 4096, 4097, 8192, 65_536, 262_144, 1 << 20].map(tasks), [0, 1, 1, 2, 2, 16, 16, 64]);
    assert_eq!(Unary::new(Isa::detect(), UnaryKind::Exp, 50_000).tasks(), tasks(50_000));
}

/// Axes with one side or both repeated, some with many elements.
fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    let size = prop_oneof![4 => 0usize..6, 3 => 6usize..40, 1 => 100usize..400];
    prop::collection::vec((size, 0u8..4), 0..5).prop_map(|axes| {
        let mut room = 30_000;
        let shape: Vec<usize> = axes
            .iter()
            .map(|&(size, _)| {
                let size = if size > room { 1 } else { size };
                room /= size.max(1);
                size
            })
            .collect();
        let own = |repeated: u8| -> Vec<usize> {
            axes.iter().zip(&shape).map(|(&(_, kind), &size)| if kind == repeated { 1 } else { size }).collect()
        };
        (shape.clone(), own(0), own(1))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn broadcast_operands((shape, a, b) in shapes()) {
        let len: usize = shape.iter().product();
        let (x, y) = (integers(5, a.iter().product()), integers(6, b.iter().product()));
        let (wide_x, wide_y) = (broadcast(&x, &a, &shape), broadcast(&y, &b, &shape));
        for isa in Isa::available() {
            for kind in BINARY {
                let kernel = Binary::new(isa, kind, &shape, &a, &b).unwrap();
                let got = run(&kernel, &[Operand::of(&x), Operand::of(&y), Operand::poison::<f32>(len)]);
                let want: Vec<f32> = wide_x.iter().zip(&wide_y).map(|(&a, &b)| combine(kind, a, b)).collect();
                assert_equal(&got[2].get::<f32>(), &want, &format!("{} {a:?} {b:?}", kernel.name()));
            }
        }
    }

    #[test]
    fn expansion((shape, a, _) in shapes(), divisor in prop_oneof![Just(None), Just(Some(3.0f32))]) {
        let len: usize = shape.iter().product();
        let x = values(5, a.iter().product());
        let want: Vec<f32> = broadcast(&x, &a, &shape).into_iter().map(|x| x / divisor.unwrap_or(1.0)).collect();
        for isa in Isa::available() {
            let kernel = Expand::new(isa, &shape, &a, divisor).unwrap();
            assert_equal(&run(&kernel, &[Operand::of(&x), Operand::poison::<f32>(len)])[1].get::<f32>(), &want, "expand");
        }
    }
}
