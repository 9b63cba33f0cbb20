use cnnrs::kernels::norm::{
    Apply, GradientSums, GradientSumsFinish, LocalResponseNorm, LocalResponseNormBackward, LongRowApply, LongRowSlopes,
    LongRowSums, Moments, MomentsFinish, ReciprocalDeviation, RowNorm, RowNormBackward, Segments,
};
use cnnrs::kernels::reduce::Reduce;
use cnnrs::simd::Isa;
use proptest::prelude::*;

use crate::{Operand, assert_close, run, run_mapped, values};

const EPS: f32 = 1e-5;

fn floats(list: &[f64]) -> Vec<f32> {
    list.iter().map(|&x| x as f32).collect()
}

/// Everything that group and batch normalization compute, in double precision.
struct Reference {
    mean: Vec<f64>,
    variance: Vec<f64>,
    y: Vec<f64>,
    diff_src: Vec<f64>,
    diff_weight: Vec<f64>,
    diff_bias: Vec<f64>,
}

fn reference(shape: Segments, x: &[f32], g: &[f32], weight: &[f32], bias: &[f32]) -> Reference {
    let Segments { segments, rows, channels, bins } = shape;
    let wide = |list: &[f32]| -> Vec<f64> { list.iter().copied().map(f64::from).collect() };
    let (x, g, weight, bias) = (wide(x), wide(g), wide(weight), wide(bias));
    let per = channels / bins;
    let mut result = Reference {
        mean: vec![0.0; segments * bins],
        variance: vec![0.0; segments * bins],
        y: vec![0.0; x.len()],
        diff_src: vec![0.0; x.len()],
        diff_weight: vec![0.0; channels],
        diff_bias: vec![0.0; channels],
    };
    for statistic in 0..segments * bins {
        let (segment, bin) = (statistic / bins, statistic % bins);
        let places: Vec<(usize, usize)> = (0..rows)
            .flat_map(|row| (bin * per..(bin + 1) * per).map(move |c| ((segment * rows + row) * channels + c, c)))
            .collect();
        let n = places.len().max(1) as f64;
        let mean = places.iter().map(|&(i, _)| x[i]).sum::<f64>() / n;
        let variance = places.iter().map(|&(i, _)| (x[i] - mean).powi(2)).sum::<f64>() / n;
        let rstd = 1.0 / (variance + f64::from(EPS)).sqrt();
        let weighted = places.iter().map(|&(i, c)| g[i] * weight[c]).sum::<f64>() / n;
        let product = places.iter().map(|&(i, c)| g[i] * weight[c] * (x[i] - mean) * rstd).sum::<f64>() / n;
        (result.mean[statistic], result.variance[statistic]) = (mean, variance);
        for (i, c) in places {
            let normal = (x[i] - mean) * rstd;
            result.y[i] = normal * weight[c] + bias[c];
            result.diff_src[i] = rstd * (g[i] * weight[c] - weighted - normal * product);
            result.diff_weight[c] += g[i] * normal;
            result.diff_bias[c] += g[i];
        }
    }
    result
}

fn check(got: &Operand, want: &[f64], scale: f64, what: &str) {
    let largest = want.iter().fold(1.0f64, |most, x| most.max(x.abs()));
    assert_close(&got.get::<f32>(), want, scale * largest * 3e-6, what);
}

/// Statistics, result and gradients by the kernels for pixels.
fn by_pixels(isa: Isa, shape: Segments, seed: u64, offset: f32) {
    let len = shape.segments * shape.rows * shape.channels;
    let x: Vec<f32> = values(seed, len).into_iter().map(|x| x + offset).collect();
    let (g, weight, bias) = (values(seed + 1, len), values(seed + 2, shape.channels), values(seed + 3, shape.channels));
    let want = reference(shape, &x, &g, &weight, &bias);
    let what = format!("{shape:?} on {}", isa.name());
    // Rounding the mean to a float moves every result alike.
    let scale = 1.0 + f64::from(offset.abs()) / 20.0;

    let moments = Moments::new(isa, shape);
    let partials = Operand::poison::<f64>(moments.partials());
    let partials = run(&moments, &[Operand::of(&x), partials])[1].clone();
    let statistics = shape.segments * shape.bins;
    let empty = || Operand::poison::<f32>(statistics);
    let old = [values(seed + 4, statistics), values(seed + 5, statistics)];
    let operands = [partials, empty(), empty(), Operand::of(&old[0]), Operand::of(&old[1]), empty(), empty()];
    let finish = run(&MomentsFinish::new(shape, moments.parts(), EPS, Some(0.25)), &operands);
    let plain = run(&MomentsFinish::new(shape, moments.parts(), EPS, None), &operands[..3]);
    assert!(plain[1] == finish[1] && plain[2] == finish[2]);
    let (mean, rstd) = (&finish[1], &finish[2]);
    let count = (shape.rows * shape.channels / shape.bins) as f64;
    let want_rstd: Vec<f64> = want.variance.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
    check(mean, &want.mean, 1.0, &format!("mean {what}"));
    if count > 1.0 {
        check(rstd, &want_rstd, 1.0, &format!("rstd {what}"));
        for i in 0..statistics {
            let unbiased = want.variance[i] * count / (count - 1.0);
            let new = [(old[0][i], want.mean[i], 5), (old[1][i], unbiased, 6)];
            for (old, seen, index) in new {
                let want = 0.75 * f64::from(old) + 0.25 * seen;
                let got = f64::from(finish[index].get::<f32>()[i]);
                assert!((got - want).abs() <= 3e-6 * want.abs().max(1.0), "running value {what}");
            }
        }
    }
    if count == 0.0 {
        assert_eq!(finish[5].get::<f32>(), old[0]);
        assert_eq!(finish[6].get::<f32>(), old[1]);
    }

    let forward = [
        Operand::of(&x),
        Operand::of(&weight),
        Operand::of(&bias),
        mean.clone(),
        rstd.clone(),
        Operand::poison::<f32>(len),
    ];
    let apart = run(&Apply::new(isa, shape, false), &forward);
    check(&apart[5], &want.y, scale, &format!("y {what}"));
    let inside = run_mapped(&Apply::new(isa, shape, false), &forward[..5], &[0, 1, 2, 3, 4, 0]);
    assert!(inside[0] == apart[5]);

    let sums = GradientSums::new(isa, shape);
    let partials = Operand::poison::<f64>(sums.partials());
    let partials = run(&sums, &[Operand::of(&g), Operand::of(&x), mean.clone(), partials])[3].clone();
    let channel = || Operand::poison::<f32>(shape.channels);
    let operands = [partials, Operand::of(&weight), rstd.clone(), empty(), empty(), channel(), channel()];
    let finish = run(&GradientSumsFinish::new(shape, sums.parts(), true, true), &operands);
    // Sums over many pixels: the magnitude counts, not what is left of it.
    let many = 1.0 + (shape.segments * shape.rows) as f64 / 8.0;
    check(&finish[5], &want.diff_weight, scale * many, &format!("diff_weight {what}"));
    check(&finish[6], &want.diff_bias, many, &format!("diff_bias {what}"));
    let slopes = run(&GradientSumsFinish::new(shape, sums.parts(), true, false), &operands[..5]);
    assert!(slopes[3] == finish[3] && slopes[4] == finish[4]);
    let weights =
        run(&GradientSumsFinish::new(shape, sums.parts(), false, true), &[&operands[..3], &operands[5..]].concat());
    assert!(weights[3] == finish[5] && weights[4] == finish[6]);
    let backward = [
        Operand::of(&g),
        Operand::of(&x),
        Operand::of(&weight),
        mean.clone(),
        rstd.clone(),
        finish[3].clone(),
        finish[4].clone(),
        Operand::poison::<f32>(len),
    ];
    let apart = run(&Apply::new(isa, shape, true), &backward);
    check(
        &apart[7],
        &want.diff_src,
        scale * (1.0 + want_rstd.iter().fold(0.0f64, |most, x| most.max(*x))),
        &format!("diff_src {what}"),
    );
    for inside in [0, 1] {
        let map = [0, 1, 2, 3, 4, 5, 6, inside];
        assert!(run_mapped(&Apply::new(isa, shape, true), &backward[..7], &map)[inside] == apart[7]);
    }
}

/// The same by the kernels for rows, for many and for few long ones.
fn by_rows(isa: Isa, rows: usize, len: usize, groups: usize, seed: u64) {
    let shape = Segments { segments: rows / groups, rows: 1, channels: groups * len, bins: groups };
    let (x, g) = (values(seed, rows * len), values(seed + 1, rows * len));
    let (weight, bias) = (values(seed + 2, groups * len), values(seed + 3, groups * len));
    let want = reference(shape, &x, &g, &weight, &bias);
    let what = format!("{rows} rows of {len} in {groups} groups on {}", isa.name());
    let rstd: Vec<f64> = want.variance.iter().map(|v| 1.0 / (v + f64::from(EPS)).sqrt()).collect();
    let steep = 1.0 + rstd.iter().fold(0.0f64, |most, x| most.max(*x));
    let tensor = || Operand::poison::<f32>(rows * len);
    let each = || Operand::poison::<f32>(rows);
    let channel = || Operand::poison::<f32>(groups * len);
    let parameters = [Operand::of(&weight), Operand::of(&bias)];

    let kernel = RowNorm::new(isa, rows, len, groups, EPS);
    let [scale, shift] = parameters.clone();
    let operands = [Operand::of(&x), scale, shift, tensor(), each(), each()];
    let forward = run(&kernel, &operands);
    check(&forward[4], &want.mean, 1.0, &format!("mean {what}"));
    if len > 1 {
        check(&forward[5], &rstd, 1.0, &format!("rstd {what}"));
    }
    check(&forward[3], &want.y, steep, &format!("y {what}"));
    let inside = run_mapped(&kernel, &[&operands[..3], &operands[4..]].concat(), &[0, 1, 2, 0, 3, 4]);
    assert!(inside[0] == forward[3]);

    let (mean, deviation) = (forward[4].clone(), forward[5].clone());
    let kernel = RowNormBackward::new(isa, rows, len, groups, true, true);
    let parts = kernel.parts();
    let partial = || Operand::poison::<f32>(parts * groups * len);
    let common = [Operand::of(&g), Operand::of(&x), parameters[0].clone(), mean.clone(), deviation.clone()];
    let operands = [&common[..], &[tensor(), partial(), partial()]].concat();
    let backward = run(&kernel, &operands);
    let total = |partials: &Operand| {
        run(&Reduce::sum_of_parts(isa, parts, groups * len), &[partials.clone(), channel()])[1].clone()
    };
    let many = 1.0 + rows as f64 / 8.0;
    check(&backward[5], &want.diff_src, steep, &format!("diff_src {what}"));
    check(&total(&backward[6]), &want.diff_weight, many, &format!("diff_weight {what}"));
    check(&total(&backward[7]), &want.diff_bias, many, &format!("diff_bias {what}"));
    let only = run(&RowNormBackward::new(isa, rows, len, groups, true, false), &operands[..6]);
    assert!(only[5] == backward[5]);
    let only = run(
        &RowNormBackward::new(isa, rows, len, groups, false, true),
        &[&common[..], &[partial(), partial()]].concat(),
    );
    assert!(only[5] == backward[6] && only[6] == backward[7]);

    if rows == 0 {
        return;
    }
    let [scale, shift] = parameters.clone();
    let operands = [Operand::of(&x), scale, shift, mean.clone(), deviation.clone(), tensor()];
    let apply = LongRowApply::new(isa, rows, len, groups, false);
    check(&run(&apply, &operands)[5], &want.y, steep, &format!("long y {what}"));
    let kernel = LongRowSums::new(isa, rows, len, groups, true);
    let partials = Operand::poison::<f64>(2 * kernel.parts() * rows);
    let sums = run(&kernel, &[&common[..], &[partials.clone(), channel(), channel()]].concat());
    check(&sums[6], &want.diff_weight, many, &format!("long diff_weight {what}"));
    check(&sums[7], &want.diff_bias, many, &format!("long diff_bias {what}"));
    let bare = run(&LongRowSums::new(isa, rows, len, groups, false), &[&common[..], &[partials]].concat());
    assert!(bare[5] == sums[5]);
    let slopes = run(&LongRowSlopes::new(rows, len, kernel.parts()), &[sums[5].clone(), deviation, each(), each()]);
    let operands = [&common[..], &[slopes[2].clone(), slopes[3].clone(), tensor()]].concat();
    let apply = LongRowApply::new(isa, rows, len, groups, true);
    check(&run(&apply, &operands)[7], &want.diff_src, steep, &format!("long diff_src {what}"));
}

#[test]
fn pixels_against_the_formulas() {
    let shape = |segments, rows, channels, bins| Segments { segments, rows, channels, bins };
    for isa in Isa::available() {
        for channels in (1..=18).chain([31, 32, 33, 48, 63, 64, 65, 80, 100]) {
            by_pixels(isa, shape(1, 37, channels, channels), channels as u64, 0.0);
            by_pixels(isa, shape(3, 9, channels, 1), channels as u64, 3.0);
        }
        for (segments, rows, channels, bins) in [
            (1, 2, 3, 3),
            (1, 0, 5, 5),
            (0, 4, 5, 5),
            (2, 0, 4, 2),
            (1, 3000, 7, 7),
            (1, 700, 64, 64),
            (1, 200, 1030, 1030),
            (2, 49, 96, 32),
            (5, 64, 12, 3),
            (2, 2000, 16, 4),
            (1, 20_000, 3, 1),
            (4, 130, 24, 24),
        ] {
            by_pixels(isa, shape(segments, rows, channels, bins), rows as u64, 1.0);
        }
    }
}

#[test]
fn rows_against_the_formulas() {
    for isa in Isa::available() {
        for len in (1..=18).chain([31, 33, 64, 96, 200, 257]) {
            by_rows(isa, 5, len, 1, len as u64);
        }
        for (rows, len, groups) in
            [(0, 7, 1), (6, 5, 3), (1000, 30, 2), (700, 96, 1), (2, 17_000, 1), (3, 20_011, 3), (1, 9000, 1)]
        {
            by_rows(isa, rows, len, groups, rows as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_shape(segments in 1usize..4, rows in 1usize..150, bins in 1usize..6, per in 1usize..14, seed in 0u64..1 << 40) {
        for isa in Isa::available() {
            by_pixels(isa, Segments { segments, rows, channels: bins * per, bins }, seed, 2.0);
            by_rows(isa, segments * bins, rows, bins, seed);
        }
    }
}

/// Means of 1e4 and more and deviations of one, in the order that is worst for a pivot: the first rows lie elsewhere.
#[test]
fn a_large_mean_costs_no_digits_of_the_variance() {
    for isa in Isa::available() {
        for (rows, channels) in [(5000, 6), (4000, 64), (300, 1500)] {
            for (offset, start) in [(1e4f32, 1e4f32), (1e4, 0.0), (-3e5, 1e3)] {
                let shape = Segments { segments: 1, rows, channels, bins: channels };
                let mut x: Vec<f32> = values(3, rows * channels).into_iter().map(|x| x + offset).collect();
                for value in &mut x[..2 * channels] {
                    *value += start - offset;
                }
                let want = reference(shape, &x, &x, &vec![1.0; channels], &vec![0.0; channels]);
                let moments = Moments::new(isa, shape);
                let partials = run(&moments, &[Operand::of(&x), Operand::poison::<f64>(moments.partials())])[1].clone();
                let operands = [partials, Operand::poison::<f32>(channels), Operand::poison::<f32>(channels)];
                let got = run(&MomentsFinish::new(shape, moments.parts(), 0.0, None), &operands);
                for c in 0..channels {
                    let mean = f64::from(got[1].get::<f32>()[c]);
                    let variance = f64::from(got[2].get::<f32>()[c]).powi(-2);
                    assert!((mean - want.mean[c]).abs() <= 2f64.powi(-23) * want.mean[c].abs());
                    let error = (variance / want.variance[c] - 1.0).abs();
                    assert!(error <= 2e-5, "variance off by {error} for {offset} after {start} on {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn equal_numbers_have_no_spread() {
    for isa in Isa::available() {
        for channels in [1, 5, 16, 70] {
            let shape = Segments { segments: 1, rows: 900, channels, bins: channels };
            let moments = Moments::new(isa, shape);
            let partials = Operand::poison::<f64>(moments.partials());
            let partials = run(&moments, &[Operand::of(&vec![0.1f32; 900 * channels]), partials])[1].clone();
            let operands = [partials, Operand::poison::<f32>(channels), Operand::poison::<f32>(channels)];
            let got = run(&MomentsFinish::new(shape, moments.parts(), 1.0, None), &operands);
            assert_eq!(got[1].get::<f32>(), vec![0.1f32; channels]);
            assert_eq!(got[2].get::<f32>(), vec![1.0f32; channels]);
        }
    }
}

#[test]
fn deviations_of_stored_variances() {
    let variance = [0.0f32, 1.0, 4.0, 1e-12, 1e30, f32::NAN];
    let got = run(&ReciprocalDeviation::new(6, 0.0625), &[Operand::of(&variance), Operand::poison::<f32>(6)]);
    let want: Vec<f64> = variance.iter().map(|&v| 1.0 / (f64::from(v) + 0.0625).sqrt()).collect();
    let got = got[1].get::<f32>();
    for (got, want) in got.iter().zip(floats(&want)) {
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()));
    }
}

#[test]
fn local_response_norm_against_the_formula() {
    for isa in Isa::available() {
        for (rows, channels, size) in
            [(3, 1, 1), (5, 7, 3), (4, 16, 5), (3, 17, 4), (2, 33, 2), (1, 96, 5), (2, 5, 12), (0, 4, 3), (700, 24, 5)]
        {
            for beta in [0.5f32, 0.75, 1.0, 0.3] {
                let (alpha, k) = (0.7f32, 1.5f32);
                let (x, g) = (values(8, rows * channels), values(9, rows * channels));
                let share = f64::from(alpha) / size as f64;
                let inside = |c: usize| c.saturating_sub(size / 2)..(c + (size - 1) / 2 + 1).min(channels);
                let (mut want, mut scale, mut gradient) = (vec![], vec![], vec![]);
                for row in 0..rows {
                    let x: Vec<f64> = x[row * channels..][..channels].iter().copied().map(f64::from).collect();
                    let g: Vec<f64> = g[row * channels..][..channels].iter().copied().map(f64::from).collect();
                    let s: Vec<f64> = (0..channels)
                        .map(|c| f64::from(k) + share * inside(c).map(|j| x[j] * x[j]).sum::<f64>())
                        .collect();
                    let beta = f64::from(beta);
                    want.extend((0..channels).map(|c| x[c] / s[c].powf(beta)));
                    for c in 0..channels {
                        let others = (0..channels).filter(|&j| inside(j).contains(&c));
                        let common: f64 = others.map(|j| g[j] * x[j] * s[j].powf(-beta - 1.0)).sum();
                        gradient.push(g[c] / s[c].powf(beta) - 2.0 * share * beta * x[c] * common);
                    }
                    scale.extend(s);
                }
                let len = rows * channels;
                let what = format!("{rows} x {channels}, size {size}, beta {beta} on {}", isa.name());
                let kernel = LocalResponseNorm::new(isa, rows, channels, size, [alpha, beta, k], true);
                let empty = || Operand::poison::<f32>(len);
                let got = run(&kernel, &[Operand::of(&x), empty(), empty()]);
                check(&got[1], &want, 1.0, &what);
                check(&got[2], &scale, 1.0, &what);
                let plain = LocalResponseNorm::new(isa, rows, channels, size, [alpha, beta, k], false);
                assert!(run_mapped(&plain, &[Operand::of(&x)], &[0, 0])[0] == got[1]);
                let kernel = LocalResponseNormBackward::new(isa, rows, channels, size, [alpha, beta]);
                let operands = [Operand::of(&g), Operand::of(&x), got[1].clone(), got[2].clone(), empty()];
                let backward = run(&kernel, &operands);
                check(&backward[4], &gradient, 1.0, &format!("gradient {what}"));
                for place in 0..4 {
                    assert!(run_mapped(&kernel, &operands[..4], &[0, 1, 2, 3, place])[place] == backward[4]);
                }
            }
        }
    }
}
