use cnnrs::kernels::Kernel;
use cnnrs::kernels::update::{Adagrad, Adam, Blend, RmsProp, Rule, Sgd, Update};
use cnnrs::simd::Isa;

use crate::{Operand, assert_close, run, values};

const LENS: [usize; 8] = [150, 6, 0, 2400, 40_000, 16, 16_384, 1];

/// One element's step in double precision: hyper, gradient, parameter, states.
type Reference = fn(&[f64], f64, &mut f64, &mut [f64]);

/// Three updates on every level. `hyper` makes the row of parameter `p` at a step; states start at `start`.
fn check<R: Rule + Copy>(rule: R, hyper: impl Fn(usize, i32) -> Vec<f32>, start: f32, reference: Reference) {
    for isa in Isa::available() {
        let kernel = Update::new(isa, rule, &LENS);
        let per = 2 + rule.states();
        let mut params: Vec<Vec<f32>> = LENS.iter().enumerate().map(|(p, &len)| values(p as u64, len)).collect();
        let mut states: Vec<Vec<Vec<f32>>> = LENS.iter().map(|&len| vec![vec![start; len]; rule.states()]).collect();
        let mut want_params: Vec<Vec<f64>> = params.iter().map(|one| wide(one)).collect();
        let mut want_states: Vec<Vec<Vec<f64>>> =
            states.iter().map(|one| one.iter().map(|state| wide(state)).collect()).collect();
        for step in 1..=3 {
            let rows: Vec<Vec<f32>> = (0..LENS.len()).map(|p| hyper(p, step)).collect();
            let grads: Vec<Vec<f32>> = LENS.iter().map(|&len| values(90 + step as u64, len)).collect();
            let mut operands = vec![Operand::of(&rows.concat())];
            for p in 0..LENS.len() {
                operands.extend([Operand::of(&grads[p]), Operand::of(&params[p])]);
                operands.extend(states[p].iter().map(|state| Operand::of(state)));
            }
            let results = run(&kernel, &operands);
            for p in 0..LENS.len() {
                let first = 1 + per * p;
                assert!(results[first] == operands[first], "the gradient was written");
                params[p] = results[first + 1].get();
                let row = wide(&rows[p]);
                for i in 0..LENS[p] {
                    let mut own: Vec<f64> = want_states[p].iter().map(|state| state[i]).collect();
                    reference(&row, f64::from(grads[p][i]), &mut want_params[p][i], &mut own);
                    for (state, value) in want_states[p].iter_mut().zip(own) {
                        state[i] = value;
                    }
                }
                assert_close(&params[p], &want_params[p], 4e-6, "param");
                for s in 0..rule.states() {
                    states[p][s] = results[first + 2 + s].get();
                    assert_close(&states[p][s], &want_states[p][s], 4e-6, "state");
                }
            }
        }
    }
}

fn wide(list: &[f32]) -> Vec<f64> {
    list.iter().copied().map(f64::from).collect()
}

/// Learning rate by parameter, decoupled decay for every second one.
fn rates(p: usize) -> (f32, f32) {
    (0.1 + p as f32 * 0.01, if p.is_multiple_of(2) { 0.0 } else { 0.01 })
}

#[test]
fn sgd() {
    let hyper = |p: usize, _| vec![rates(p).0, 0.9, 5e-4, rates(p).1];
    check(Sgd { nesterov: false }, hyper, 0.0, |h, grad, w, s| {
        let g = grad + h[2] * *w;
        *w -= h[0] * h[3] * *w;
        s[0] = h[1] * s[0] + g;
        *w -= h[0] * s[0];
    });
    check(Sgd { nesterov: true }, hyper, 0.0, |h, grad, w, s| {
        let g = grad + h[2] * *w;
        *w -= h[0] * h[3] * *w;
        s[0] = h[1] * s[0] + g;
        *w -= h[0] * (g + h[1] * s[0]);
    });
}

#[test]
fn rmsprop() {
    let hyper = |p: usize, _| vec![rates(p).0 * 0.1, 0.1, 1e-3, 0.5, 5e-4, rates(p).1];
    check(RmsProp { centered: false }, hyper, 0.0, |h, grad, w, s| {
        let g = grad + h[4] * *w;
        *w -= h[0] * h[5] * *w;
        s[0] = (1.0 - h[1]) * s[0] + h[1] * g * g;
        s[1] = h[3] * s[1] + g / (s[0].sqrt() + h[2]);
        *w -= h[0] * s[1];
    });
    check(RmsProp { centered: true }, hyper, 0.0, |h, grad, w, s| {
        let g = grad + h[4] * *w;
        *w -= h[0] * h[5] * *w;
        s[0] = (1.0 - h[1]) * s[0] + h[1] * g * g;
        s[2] = (1.0 - h[1]) * s[2] + h[1] * g;
        s[1] = h[3] * s[1] + g / ((s[0] - s[2] * s[2]).sqrt() + h[2]);
        *w -= h[0] * s[1];
    });
}

#[test]
fn adam() {
    let hyper = |p: usize, t: i32| {
        let (lr, decoupled) = rates(p);
        vec![lr * 0.1, 0.1, 0.01, 1e-3, 5e-4, decoupled, 1.0 - 0.9f32.powi(t), 1.0 - 0.99f32.powi(t)]
    };
    check(Adam { amsgrad: false }, hyper, 0.0, |h, grad, w, s| {
        let g = grad + h[4] * *w;
        *w -= h[0] * h[5] * *w;
        s[0] = (1.0 - h[1]) * s[0] + h[1] * g;
        s[1] = (1.0 - h[2]) * s[1] + h[2] * g * g;
        *w -= h[0] / h[6] * s[0] / (s[1].sqrt() / h[7].sqrt() + h[3]);
    });
    check(Adam { amsgrad: true }, hyper, 0.0, |h, grad, w, s| {
        let g = grad + h[4] * *w;
        *w -= h[0] * h[5] * *w;
        s[0] = (1.0 - h[1]) * s[0] + h[1] * g;
        s[1] = (1.0 - h[2]) * s[1] + h[2] * g * g;
        s[2] = s[2].max(s[1]);
        *w -= h[0] / h[6] * s[0] / (s[2].sqrt() / h[7].sqrt() + h[3]);
    });
}

#[test]
fn adagrad() {
    let hyper = |p: usize, _| vec![rates(p).0, 1e-3, 5e-4, rates(p).1];
    check(Adagrad, hyper, 0.1, |h, grad, w, s| {
        let g = grad + h[2] * *w;
        *w -= h[0] * h[3] * *w;
        s[0] += g * g;
        *w -= h[0] * g / (s[0].sqrt() + h[1]);
    });
}

/// One update of one element: parameter and states.
fn once<R: Rule>(isa: Isa, rule: R, hyper: &[f32], grad: f32, states: &[f32]) -> (f32, Vec<f32>) {
    let mut operands = vec![Operand::of(hyper), Operand::of(&[grad]), Operand::of(&[1.0f32])];
    operands.extend(states.iter().map(|&state| Operand::of(&[state])));
    let results = run(&Update::new(isa, rule, &[1]), &operands);
    (results[2].get::<f32>()[0], results[3..].iter().map(|state| state.get::<f32>()[0]).collect())
}

#[test]
fn extreme_hyperparameters_and_gradients() {
    for isa in Isa::available() {
        // A gradient of zero from the start divides by eps alone.
        let adam = [0.1, 0.1, 0.001, 1e-8, 0.0, 0.0, 0.1, 0.001];
        assert_eq!(once(isa, Adam { amsgrad: true }, &adam, 0.0, &[0.0; 3]), (1.0, vec![0.0; 3]));
        assert_eq!(once(isa, Adagrad, &[0.1, 1e-10, 0.0, 0.0], 0.0, &[0.0]), (1.0, vec![0.0]));
        // Without memory the new square counts alone, however large the old one.
        let rms = [0.5, 1.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(once(isa, RmsProp { centered: false }, &rms, 1e-3, &[1e6, 7.0]).0, 0.5);
        // A mean whose square exceeds the mean square does not make a NaN.
        let centred = once(isa, RmsProp { centered: true }, &[0.0, 0.0, 1e-8, 0.0, 0.0, 0.0], 1.0, &[1.0, 0.0, 1.5]);
        assert_eq!(centred.0, 1.0);
        assert!(centred.1.iter().all(|state| state.is_finite()));
        // A NaN in the gradient is not hidden.
        let (nan, two) = (f32::NAN, [0.0; 3]);
        assert!(once(isa, Adam { amsgrad: true }, &adam, nan, &two).0.is_nan());
        assert!(once(isa, RmsProp { centered: true }, &rms, nan, &two).0.is_nan());
        assert!(once(isa, Adagrad, &[0.1, 1e-10, 0.0, 0.0], nan, &[0.0]).0.is_nan());
        assert!(once(isa, Sgd { nesterov: true }, &[0.1, 0.9, 0.0, 0.0], nan, &[0.0]).0.is_nan());
    }
}

#[test]
fn small_parameters_share_a_task_and_large_ones_are_cut() {
    let tasks = |lens: &[usize]| Update::new(Isa::Portable, Sgd { nesterov: false }, lens).tasks();
    assert_eq!(tasks(&[]), 0);
    assert_eq!(tasks(&[0, 0]), 0);
    assert_eq!(tasks(&[150, 6, 2400, 16]), 1);
    assert_eq!(tasks(&[4_096, 1]), 2);
    assert_eq!(tasks(&[40_000]), 10);
}

#[test]
fn blending() {
    for isa in Isa::available() {
        for len in [0, 1, 7, 16, 33, 20_000] {
            let (value, old) = (values(1, len), values(2, len));
            for weight in [0.0f32, 1e-4, 0.1, 0.5, 0.7, 1.0] {
                let operands = [Operand::of(&value), Operand::of(&[weight]), Operand::of(&old)];
                let results = run(&Blend::new(isa, len), &operands);
                assert!(results[0] == operands[0] && results[1] == operands[1], "an operand was written");
                let new: Vec<f32> = results[2].get();
                let share = f64::from(weight);
                let want: Vec<f64> = old
                    .iter()
                    .zip(&value)
                    .map(|(&a, &b)| (1.0 - share) * f64::from(a) + share * f64::from(b))
                    .collect();
                assert_close(&new, &want, 4e-7, "blend");
                if weight == 0.0 {
                    assert_eq!(new, old);
                }
                if weight == 1.0 {
                    assert_eq!(new, value);
                }
            }
        }
    }
}
