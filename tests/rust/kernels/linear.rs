//! Products by weights as they are: to the same bits as packed ones; and updates to the same bits as gradient and update.

use cnnrs::function::UnaryKind;
use cnnrs::kernels::Kernel;
use cnnrs::kernels::conv::{BackwardData, Epilogue, Forward, Geometry, PackBackwardData, PackForward};
use cnnrs::kernels::linear::{BackwardUpdate, BackwardWeights, Product};
use cnnrs::kernels::update::{Adagrad, Adam, RmsProp, Rule, Sgd, Update};
use cnnrs::simd::Isa;
use cnnrs::window::Window2d;
use proptest::prelude::*;

use crate::{Operand, run, values};

/// Rows, inputs, outputs.
type Sizes = [usize; 3];

const SIZES: [Sizes; 10] = [
    [1, 1, 1],
    [0, 3, 5],
    [17, 17, 17],
    [13, 255, 33],
    [12, 256, 32],
    [25, 257, 31],
    [2, 600, 1100],
    [100, 300, 70],
    [200, 520, 40],
    [3, 1030, 515],
];

fn bits(operand: &Operand) -> Vec<u32> {
    operand.get::<f32>().iter().map(|x| x.to_bits()).collect()
}

/// The last operand after a run.
fn result(kernel: &dyn Kernel, operands: Vec<Operand>, len: usize) -> Operand {
    let mut operands = operands;
    operands.push(Operand::poison::<f32>(len));
    run(kernel, &operands).pop().unwrap()
}

fn check_products(isa: Isa, [rows, inputs, outputs]: Sizes, bias: bool, activation: Option<UnaryKind>) {
    let geometry = Geometry::new(rows, [1, 1], inputs, outputs, 1, Window2d::UNIT).unwrap();
    let src = Operand::of(&values(1, rows * inputs));
    let weights = Operand::of(&values(2, inputs * outputs));
    let diff = Operand::of(&values(3, rows * outputs));
    let behind: Vec<Operand> = bias.then(|| Operand::of(&values(4, outputs))).into_iter().collect();
    let pack = PackForward::new(isa, geometry);
    let packed = result(&pack, vec![weights.clone()], pack.packed_len());
    let epilogue = Epilogue { bias, activation, ..Epilogue::default() };
    let with = |weights: Operand| [vec![src.clone(), weights], behind.clone()].concat();
    let expected = result(&Forward::new(isa, geometry, epilogue), with(packed), rows * outputs);
    let kernel = Product::forward(isa, rows, [inputs, outputs], bias, activation);
    let found = result(&kernel, with(weights.clone()), rows * outputs);
    assert_eq!(bits(&found), bits(&expected), "{} {rows} {inputs} {outputs}", kernel.name());

    let pack = PackBackwardData::new(isa, geometry);
    let packed = result(&pack, vec![weights.clone()], pack.packed_len());
    let expected = result(&BackwardData::new(isa, geometry), vec![diff.clone(), packed], rows * inputs);
    let kernel = Product::backward_data(isa, rows, [inputs, outputs]);
    let found = result(&kernel, vec![diff, weights], rows * inputs);
    assert_eq!(bits(&found), bits(&expected), "{} {rows} {inputs} {outputs}", kernel.name());
}

#[test]
fn products_are_the_packed_ones_to_the_bit() {
    for isa in Isa::available() {
        for sizes in SIZES {
            check_products(isa, sizes, true, Some(UnaryKind::Relu));
            check_products(isa, sizes, false, None);
        }
        check_products(isa, [4, 300, 70], true, Some(UnaryKind::Tanh));
        check_products(isa, [4, 300, 70], false, Some(UnaryKind::Gelu));
    }
}

#[test]
fn without_terms_there_is_only_the_bias() {
    for isa in Isa::available() {
        let (bias, none) = (values(1, 5), Operand::of::<f32>(&[]));
        let kernel = Product::forward(isa, 3, [0, 5], true, None);
        let found = result(&kernel, vec![none.clone(), none.clone(), Operand::of(&bias)], 15);
        assert_eq!(found.get::<f32>(), bias.repeat(3));
        let found = result(&Product::backward_data(isa, 3, [5, 0]), vec![none.clone(), none], 15);
        assert_eq!(found.get::<f32>(), [0.0; 15]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_product_is_the_packed_one(rows in 0usize..60, inputs in 1usize..600, outputs in 1usize..300) {
        for isa in Isa::available() {
            check_products(isa, [rows, inputs, outputs], rows % 2 == 0, None);
        }
    }
}

fn gradient(isa: Isa, [rows, inputs, outputs]: Sizes, src: &[f32], diff: &[f32]) -> Operand {
    let kernel = BackwardWeights::new(isa, rows, [inputs, outputs]);
    result(&kernel, vec![Operand::of(src), Operand::of(diff)], inputs * outputs)
}

#[test]
fn gradients_are_sums_over_rows() {
    for isa in Isa::available() {
        for sizes @ [rows, inputs, outputs] in [[1, 1, 1], [0, 5, 7], [3, 13, 33], [40, 50, 260], [600, 49, 35]] {
            let src: Vec<f32> = values(1, rows * inputs).iter().map(|x| x.round()).collect();
            let diff: Vec<f32> = values(2, rows * outputs).iter().map(|x| x.round()).collect();
            let found = gradient(isa, sizes, &src, &diff).get::<f32>();
            for (i, o) in (0..inputs).flat_map(|i| (0..outputs).map(move |o| (i, o))) {
                let sum: f32 = (0..rows).map(|row| src[row * inputs + i] * diff[row * outputs + o]).sum();
                assert_eq!(found[i * outputs + o], sum, "{isa:?} {sizes:?} {i} {o}");
            }
        }
    }
}

fn check_update<R: Rule + Copy + 'static>(rule: R, isa: Isa, sizes: Sizes) {
    let [rows, inputs, outputs] = sizes;
    let (src, diff) = (values(1, rows * inputs), values(2, rows * outputs));
    let len = inputs * outputs;
    let hyper: Vec<f32> = (0..3 * rule.hyper()).map(|i| 0.01 + 0.003 * i as f32).collect();
    let tensors = || (0..=rule.states()).map(|i| Operand::of(&values(5 + i as u64, len).map_abs(i > 0)));
    let plain = Update::with_rows(isa, rule, &[len], vec![2]);
    let mut operands = vec![Operand::of(&hyper), gradient(isa, sizes, &src, &diff)];
    operands.extend(tensors());
    let expected = run(&plain, &operands);
    let kernel = BackwardUpdate::new(isa, rule, 2, rows, [inputs, outputs]);
    let mut operands = vec![Operand::of(&src), Operand::of(&diff), Operand::of(&hyper)];
    operands.extend(tensors());
    let found = run(&kernel, &operands);
    for (found, expected) in found[3..].iter().zip(&expected[2..]) {
        assert_eq!(bits(found), bits(expected), "{} {sizes:?}", kernel.name());
    }
    assert!(found[3] != operands[3], "nothing was updated");
}

/// Numbers made positive where a state has to be.
trait MapAbs {
    fn map_abs(self, absolute: bool) -> Self;
}

impl MapAbs for Vec<f32> {
    fn map_abs(self, absolute: bool) -> Self {
        self.into_iter().map(|x| if absolute { x.abs() } else { x }).collect()
    }
}

#[test]
fn updates_are_gradient_and_update_to_the_bit() {
    for isa in Isa::available() {
        for sizes in [[1, 1, 1], [3, 50, 300], [32, 49, 1030], [300, 20, 70]] {
            check_update(Sgd { nesterov: false }, isa, sizes);
            check_update(Sgd { nesterov: true }, isa, sizes);
            check_update(Adam { amsgrad: false }, isa, sizes);
            check_update(Adam { amsgrad: true }, isa, sizes);
            check_update(RmsProp { centered: true }, isa, sizes);
            check_update(Adagrad, isa, sizes);
        }
    }
}
