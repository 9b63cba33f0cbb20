use cnnrs::kernels::counter::Increment;
use cnnrs::kernels::dropout::{Dropout, Unit};
use cnnrs::random::philox;
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, run, run_mapped, values};

/// The uniform number of a unit, by the generator of single blocks.
fn uniform(unit: usize, seed: u64, step: u32, stream: u64) -> f32 {
    let counter = [(unit / 4) as u32, step, stream as u32, (stream >> 32) as u32];
    (philox(counter, [seed as u32, (seed >> 32) as u32])[unit % 4] >> 8) as f32 / 16_777_216.0
}

fn check(isa: Isa, shape: [usize; 3], p: f32, unit: Unit, stream: u64, key: [i64; 2]) {
    let [images, pixels, channels] = shape;
    let x = values(4, images * pixels * channels);
    let kernel = Dropout::new(isa, shape, p, unit, stream);
    let operands = [Operand::of(&x), Operand::of(&key), Operand::poison::<f32>(x.len())];
    let apart = run(&kernel, &operands);
    assert!(run_mapped(&kernel, &operands[..2], &[0, 1, 0])[0] == apart[2]);
    let scale = 1.0f32 / (1.0 - p);
    for (i, y) in apart[2].get::<f32>().into_iter().enumerate() {
        let number = match unit {
            Unit::Element => i,
            Unit::Channel => i / (pixels * channels) * channels + i % channels,
            Unit::Sample => i / (pixels * channels),
        };
        let kept = uniform(number, key[0] as u64, key[1] as u32, stream) >= p;
        let want = if kept { x[i] * scale } else { 0.0 };
        assert_eq!(y.to_bits(), want.to_bits(), "{unit:?} of {shape:?}, element {i}, p {p}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn units_take_the_draws_of_their_numbers(
        shape in [0usize..5, 1usize..12, 1usize..40], p in 0u32..5, unit in 0usize..3, stream: u64, seed: i64, step in 0i64..1 << 40,
    ) {
        let unit = [Unit::Element, Unit::Channel, Unit::Sample][unit];
        for isa in Isa::available() {
            check(isa, shape, p as f32 / 4.0, unit, stream, [seed, step]);
        }
    }
}

#[test]
fn large_tensors_are_cut_into_tasks() {
    for isa in Isa::available() {
        check(isa, [3, 100, 101], 0.3, Unit::Element, 7, [1, 2]);
        check(isa, [2, 700, 33], 0.3, Unit::Channel, 7, [1, 2]);
        check(isa, [7, 60, 60], 0.3, Unit::Sample, 7, [1, 2]);
    }
}

/// Neither NaN nor infinity comes through where a number is dropped.
#[test]
fn dropped_numbers_are_zero_whatever_they_were() {
    for isa in Isa::available() {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].repeat(50);
        let key = Operand::of(&[5i64, 6]);
        for unit in [Unit::Element, Unit::Channel, Unit::Sample] {
            let all = Dropout::new(isa, [10, 5, 3], 1.0, unit, 0);
            let y = run(&all, &[Operand::of(&x), key.clone(), Operand::poison::<f32>(150)])[2].get::<f32>();
            assert!(y.iter().all(|y| y.to_bits() == 0));
        }
    }
}

#[test]
fn a_counter_counts() {
    let counter = run(&Increment, &[Operand::of(&[i64::from(u32::MAX)])]);
    assert_eq!(counter[0].get::<i64>(), [1 << 32]);
}
