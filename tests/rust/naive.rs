//! Convolution by its definition.

use cnnrs::kernels::conv::Geometry;

/// Calls `f(src index, weight index, dst index)` for every product of the convolution.
pub fn products(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let (w, icg, ocg) = (&g.window, g.ic / g.groups, g.oc / g.groups);
    let source = |out: usize, tap: usize, axis: usize, size: usize| {
        let padded = out * w.stride[axis] + tap * w.dilation[axis];
        padded.checked_sub(w.pad[axis][0]).filter(|&i| i < size)
    };
    for n in 0..g.n {
        for (y, x) in (0..g.oh).flat_map(|y| (0..g.ow).map(move |x| (y, x))) {
            for (ky, kx) in (0..w.kernel[0]).flat_map(|ky| (0..w.kernel[1]).map(move |kx| (ky, kx))) {
                let (Some(iy), Some(ix)) = (source(y, ky, 0, g.ih), source(x, kx, 1, g.iw)) else { continue };
                for k in 0..g.oc {
                    for c in 0..icg {
                        let src = ((n * g.ih + iy) * g.iw + ix) * g.ic + k / ocg * icg + c;
                        let weight = ((ky * w.kernel[1] + kx) * icg + c) * g.oc + k;
                        f(src, weight, ((n * g.oh + y) * g.ow + x) * g.oc + k);
                    }
                }
            }
        }
    }
}

/// Results without a bias, gradient by the source, gradient by the weights.
pub fn passes(g: &Geometry, src: &[f32], weights: &[f32], diff_dst: &[f32]) -> [Vec<f64>; 3] {
    let mut dst = vec![0.0f64; g.dst_len()];
    let mut diff_src = vec![0.0f64; g.src_len()];
    let mut diff_weights = vec![0.0f64; g.weights_len()];
    products(g, |s, w, d| {
        dst[d] += f64::from(src[s]) * f64::from(weights[w]);
        diff_src[s] += f64::from(diff_dst[d]) * f64::from(weights[w]);
        diff_weights[w] += f64::from(src[s]) * f64::from(diff_dst[d]);
    });
    [dst, diff_src, diff_weights]
}
