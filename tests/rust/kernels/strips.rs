//! Gradients that are taken through an activation, and summed, strip by strip: the bits of separate steps.

use cnnrs::function::{ReduceKind, UnaryKind};
use cnnrs::kernels::Kernel;
use cnnrs::kernels::elementwise::UnaryBackward;
use cnnrs::kernels::pool::{AvgPoolBackward, MaxPoolBackward, PoolGeometry, Winner};
use cnnrs::kernels::reduce::Reduce;
use cnnrs::kernels::strips::{Activated, Strips, Summed};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::{Operand, run, values};

const KINDS: [UnaryKind; 4] = [UnaryKind::Relu, UnaryKind::Tanh, UnaryKind::Silu, UnaryKind::Relu6];

fn geometry(n: usize, [ih, iw]: [usize; 2], c: usize, kernel: usize, stride: usize) -> Option<PoolGeometry> {
    let window = Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [1; 2], pad: [[kernel / 3; 2]; 2] };
    let [oh, ow] = window.output([ih, iw], false).ok()?;
    Some(PoolGeometry { n, ih, iw, c, oh, ow, window })
}

/// Checks the sums of a gradient, which is `kernel`'s result over these operands, against a sum of its own and double
/// precision.
fn check_sums<A: Strips>(kernel: A, operands: &[Operand], gradient: &Operand, [line, width]: [usize; 2]) {
    if width == 0 || line == 0 || kernel.count() == 0 {
        return;
    }
    let (rows, isa, result) = (kernel.count() / width, kernel.isa(), kernel.result());
    let sum = || Reduce::new(isa, ReduceKind::Sum, [1, rows, width], None).by_lines(line);
    let parts = sum().parts();
    let apart = run(&sum(), &[gradient.clone(), Operand::poison::<f32>(parts * width)])[1].clone();
    let gradient_values = gradient.get::<f32>();
    let (mut want, mut size) = (vec![0.0f64; width], vec![0.0f64; width]);
    for (i, &x) in gradient_values.iter().enumerate() {
        want[i % width] += f64::from(x);
        size[i % width] += f64::from(x).abs();
    }
    let found = apart.get::<f32>();
    // Sums go by 64 values; the blocks' sums are added one by one.
    let steps = (64 + 2 * rows.div_ceil(64)) as f64;
    for column in 0..width {
        let got: f64 = found.iter().skip(column).step_by(width).map(|&x| f64::from(x)).sum();
        assert!(
            (got - want[column]).abs() <= steps * size[column] * 2f64.powi(-24),
            "{got} {} of {rows}",
            want[column]
        );
    }
    if !Summed::serves(&kernel, &sum()) {
        return;
    }
    let at = kernel.operands();
    let mut operands = operands.to_vec();
    operands.push(Operand::poison::<f32>(parts * width));
    let together = run(&Summed::new(kernel, sum()), &operands);
    assert!(together[result] == *gradient && together[at] == apart, "{rows} rows of {width} {}", isa.name());
}

/// Checks `Activated` with `first`, made twice, over operands that end with its result.
fn check_activated<A: Strips>(isa: Isa, first: impl Fn() -> A, operands: &[Operand], len: usize, lines: [usize; 2]) {
    let saved = Operand::of(&values(5, len));
    let pooled = run(&first(), operands)[first().result()].clone();
    for kind in KINDS {
        let apart =
            run(&UnaryBackward::new(isa, kind, len), &[pooled.clone(), saved.clone(), Operand::poison::<f32>(len)]);
        let mut all = operands.to_vec();
        all.push(saved.clone());
        let kernel = Activated::new(isa, first(), kind);
        let together = run(&kernel, &all)[kernel.result()].clone();
        assert!(together == apart[2], "{} {}", kernel.name(), isa.name());
        check_sums(kernel, &all, &together, lines);
    }
}

fn check_pools(g: PoolGeometry) {
    let (inputs, len) = (g.n * g.ih * g.iw * g.c, g.n * g.oh * g.ow * g.c);
    let (grad, result) = (Operand::of(&values(1, len)), Operand::poison::<f32>(inputs));
    let taps: Vec<u8> =
        values(2, len).iter().map(|x| (x.abs() * 1000.0) as u8 % g.window.kernel[0].pow(2) as u8).collect();
    for isa in Isa::available() {
        let mean = || AvgPoolBackward::new(isa, g, true);
        check_activated(isa, mean, &[grad.clone(), result.clone()], inputs, [g.iw, g.c]);
        let max = || MaxPoolBackward::new(isa, g, Winner::Tap);
        check_activated(isa, max, &[grad.clone(), Operand::of(&taps), result.clone()], inputs, [g.iw, g.c]);
    }
}

fn check_rows(kind: UnaryKind, [lines, line, width]: [usize; 3]) {
    let len = lines * line * width;
    let [g, saved] = [1, 2].map(|seed| Operand::of(&values(seed, len)));
    for isa in Isa::available() {
        let operands = [g.clone(), saved.clone(), Operand::poison::<f32>(len)];
        let plain = run(&UnaryBackward::new(isa, kind, len), &operands)[2].clone();
        check_sums(UnaryBackward::new(isa, kind, len), &operands, &plain, [line, width]);
    }
}

#[test]
fn sums_of_many_and_of_few_rows() {
    let shapes =
        [[64, 1, 120], [1792, 28, 6], [640, 10, 16], [4096, 9, 3], [900, 60, 64], [257, 13, 100], [32, 1, 1000]];
    for shape in shapes {
        check_rows(UnaryKind::Tanh, shape);
    }
    let serves = |[lines, line, width]: [usize; 3]| {
        let (isa, rows) = (Isa::Portable, lines * line);
        let sum = Reduce::new(isa, ReduceKind::Sum, [1, rows, width], None).by_lines(line);
        Summed::serves(&UnaryBackward::new(isa, UnaryKind::Relu, rows * width), &sum)
    };
    assert!(serves([64, 1, 60]) && serves([1792, 28, 6]) && serves([640, 10, 16]) && serves([448, 56, 64]));
    // Too few parts for what they hold, and one number a row.
    assert!(!serves([32, 1, 4096]) && !serves([112, 14, 512]) && !serves([1792, 28, 1]));
}

#[test]
fn pooling_gradients_of_the_usual_networks() {
    for (input, c, kernel, stride) in
        [([28, 28], 6, 2, 2), ([10, 10], 16, 2, 2), ([27, 29], 64, 3, 2), ([14, 14], 96, 2, 2)]
    {
        check_pools(geometry(3, input, c, kernel, stride).expect("fits"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pooling_gradients_of_any_shape(n in 0usize..4, ih in 1usize..14, iw in 1usize..14, c in 0usize..40, kernel in 1usize..4, stride in 1usize..4) {
        if let Some(g) = geometry(n, [ih, iw], c, kernel, stride) {
            check_pools(g);
        }
    }

    #[test]
    fn sums_of_any_shape(kind in 0..KINDS.len(), lines in 0usize..300, line in 1usize..12, width in 1usize..70) {
        check_rows(KINDS[kind], [lines, line, width]);
    }
}
