use cnnrs::kernels::Kernel;
use cnnrs::kernels::update::Sgd;
use cnnrs::simd::Isa;

use crate::{Operand, assert_close, run, values};

const LENS: [usize; 8] = [150, 6, 0, 2400, 40_000, 16, 16_384, 1];

/// One step in double precision, written from torch's documentation.
fn reference(hyper: &[f32], nesterov: bool, grad: &[f32], param: &mut [f64], momentum: &mut [f64]) {
    let [lr, mu, decay, decoupled] = [0, 1, 2, 3].map(|i| f64::from(hyper[i]));
    for i in 0..grad.len() {
        let g = f64::from(grad[i]) + decay * param[i];
        param[i] -= lr * decoupled * param[i];
        momentum[i] = mu * momentum[i] + g;
        param[i] -= lr * if nesterov { g + mu * momentum[i] } else { momentum[i] };
    }
}

#[test]
fn three_steps_follow_the_formulas() {
    for isa in Isa::available() {
        for nesterov in [false, true] {
            let kernel = Sgd::new(isa, LENS.to_vec(), nesterov);
            let hyper: Vec<f32> = (0..LENS.len())
                .flat_map(|p| [0.1 + p as f32 * 0.01, 0.9, 5e-4, if p % 2 == 0 { 0.0 } else { 0.01 }])
                .collect();
            let mut params: Vec<Vec<f32>> = LENS.iter().enumerate().map(|(p, &len)| values(p as u64, len)).collect();
            let mut buffers: Vec<Vec<f32>> = LENS.iter().map(|&len| vec![0.0; len]).collect();
            let wide = |list: &[Vec<f32>]| -> Vec<Vec<f64>> {
                list.iter().map(|one| one.iter().copied().map(f64::from).collect()).collect()
            };
            let (mut want_params, mut want_buffers) = (wide(&params), wide(&buffers));
            for step in 0..3 {
                let grads: Vec<Vec<f32>> = LENS.iter().map(|&len| values(90 + step, len)).collect();
                let mut operands = vec![Operand::of(&hyper)];
                for p in 0..LENS.len() {
                    operands.extend([&grads[p], &params[p], &buffers[p]].map(|list| Operand::of(list)));
                }
                let results = run(&kernel, &operands);
                for p in 0..LENS.len() {
                    reference(&hyper[4 * p..], nesterov, &grads[p], &mut want_params[p], &mut want_buffers[p]);
                    assert!(results[3 * p + 1] == operands[3 * p + 1], "the gradient was written");
                    (params[p], buffers[p]) = (results[3 * p + 2].get(), results[3 * p + 3].get());
                    assert_close(&params[p], &want_params[p], 2e-6, "param");
                    assert_close(&buffers[p], &want_buffers[p], 2e-6, "momentum");
                }
            }
        }
    }
}

#[test]
fn small_parameters_share_a_task_and_large_ones_are_cut() {
    let tasks = |lens: &[usize]| Sgd::new(Isa::Portable, lens.to_vec(), false).tasks();
    assert_eq!(tasks(&[]), 0);
    assert_eq!(tasks(&[0, 0]), 0);
    assert_eq!(tasks(&[150, 6, 2400, 16]), 1);
    assert_eq!(tasks(&[16_384, 1]), 2);
    assert_eq!(tasks(&[40_000]), 3);
}
