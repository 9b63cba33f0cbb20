//! Convolution and products of matrices, as sums of products in the order of the formula.

use super::tensor::Tensor;
use crate::window::Window2d;

/// Taps of the window at one result position that fall on the image: kernel row and column, input row and column.
pub fn taps(window: &Window2d, at: [usize; 2], size: [usize; 2]) -> Vec<[usize; 4]> {
    let axis = |axis: usize| {
        let start = (at[axis] * window.stride[axis]) as isize - window.pad[axis][0] as isize;
        (0..window.kernel[axis]).filter_map(move |tap| {
            let place = start + (tap * window.dilation[axis]) as isize;
            usize::try_from(place).ok().filter(|&place| place < size[axis]).map(|place| (tap, place))
        })
    };
    axis(0).flat_map(|(m, iy)| axis(1).map(move |(n, ix)| [m, n, iy, ix])).collect()
}

/// Every product x[image, iy, ix, c] · weight[m, n, c, k] of a convolution: positions in x, weight and y.
fn products(
    x: &[usize],
    weight: &[usize],
    y: &[usize],
    window: &Window2d,
    groups: usize,
    mut each: impl FnMut(usize, usize, usize),
) {
    let (ic, oc) = (weight[2], weight[3] / groups);
    for image in 0..y[0] {
        for oy in 0..y[1] {
            for ox in 0..y[2] {
                for [m, n, iy, ix] in taps(window, [oy, ox], [x[1], x[2]]) {
                    for c in 0..x[3] {
                        let source = ((image * x[1] + iy) * x[2] + ix) * x[3] + c;
                        for k in c / ic * oc..(c / ic + 1) * oc {
                            let tap = ((m * weight[1] + n) * ic + c % ic) * weight[3] + k;
                            each(source, tap, ((image * y[1] + oy) * y[2] + ox) * y[3] + k);
                        }
                    }
                }
            }
        }
    }
}

pub fn conv2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    window: &Window2d,
    groups: usize,
    shape: &[usize],
) -> Tensor {
    let (src, w) = (x.f(), weight.f());
    let mut y = vec![0.0; shape.iter().product()];
    products(x.shape(), weight.shape(), shape, window, groups, |s, t, d| y[d] += src[s] * w[t]);
    add_bias(&mut y, bias);
    Tensor::floats(shape.to_vec(), y)
}

pub fn conv2d_backward_data(
    grad: &Tensor,
    weight: &Tensor,
    window: &Window2d,
    groups: usize,
    shape: &[usize],
) -> Tensor {
    let (diff, w) = (grad.f(), weight.f());
    let mut x = vec![0.0; shape.iter().product()];
    products(shape, weight.shape(), grad.shape(), window, groups, |s, t, d| x[s] += diff[d] * w[t]);
    Tensor::floats(shape.to_vec(), x)
}

pub fn conv2d_backward_weights(x: &Tensor, grad: &Tensor, window: &Window2d, groups: usize, shape: &[usize]) -> Tensor {
    let (src, diff) = (x.f(), grad.f());
    let mut w = vec![0.0; shape.iter().product()];
    products(x.shape(), shape, grad.shape(), window, groups, |s, t, d| w[t] += src[s] * diff[d]);
    Tensor::floats(shape.to_vec(), w)
}

fn add_bias(y: &mut [f64], bias: Option<&Tensor>) {
    if let Some(bias) = bias.map(Tensor::f) {
        for (index, y) in y.iter_mut().enumerate() {
            *y += bias[index % bias.len()];
        }
    }
}

/// a (…, rows, inner) times b (…, inner, columns), where `at` gives the positions in a and b for a matrix number, a
/// row, a column and an inner index.
fn product(
    sizes: [usize; 3],
    shape: &[usize],
    a: &[f64],
    b: &[f64],
    at: impl Fn(usize, usize, usize, usize) -> [usize; 2],
) -> Tensor {
    let [rows, columns, inner] = sizes;
    let count: usize = shape[..shape.len() - 2].iter().product();
    let mut y = Vec::with_capacity(count * rows * columns);
    for matrix in 0..count {
        for row in 0..rows {
            for column in 0..columns {
                y.push((0..inner).map(|k| at(matrix, row, column, k)).map(|[i, j]| a[i] * b[j]).sum());
            }
        }
    }
    Tensor::floats(shape.to_vec(), y)
}

/// Rows and columns of the last two axes.
fn matrix(tensor: &Tensor) -> [usize; 2] {
    let shape = tensor.shape();
    [shape[shape.len() - 2], shape[shape.len() - 1]]
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, shape: &[usize]) -> Tensor {
    let ([n, i], [_, o]) = (matrix(x), matrix(weight));
    let y = product([n, o, i], shape, x.f(), weight.f(), |matrix, row, column, k| {
        [(matrix * n + row) * i + k, (matrix * i + k) * o + column]
    });
    let mut numbers = y.f().to_vec();
    add_bias(&mut numbers, bias);
    y.with(numbers)
}

pub fn linear_backward_data(grad: &Tensor, weight: &Tensor, shape: &[usize]) -> Tensor {
    let ([n, o], [i, _]) = (matrix(grad), matrix(weight));
    product([n, i, o], shape, grad.f(), weight.f(), |matrix, row, column, k| {
        [(matrix * n + row) * o + k, (matrix * i + column) * o + k]
    })
}

pub fn linear_backward_weights(x: &Tensor, grad: &Tensor, shape: &[usize]) -> Tensor {
    let ([n, i], [_, o]) = (matrix(x), matrix(grad));
    product([i, o, n], shape, x.f(), grad.f(), |matrix, row, column, k| {
        [(matrix * n + k) * i + row, (matrix * n + k) * o + column]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(h: usize, w: usize, c: usize, data: &[f64]) -> Tensor {
        Tensor::floats(vec![1, h, w, c], data.to_vec())
    }

    /// One row of three pixels, padded on the left by one, kernel (1, 2), stride 2.
    const STRIDED: Window2d = Window2d { kernel: [1, 2], stride: [1, 2], dilation: [1, 1], pad: [[0, 0], [1, 0]] };

    #[test]
    fn a_padded_strided_convolution_and_its_gradients() {
        let x = image(1, 3, 1, &[2.0, 3.0, 5.0]);
        let weight = Tensor::floats(vec![1, 2, 1, 1], vec![10.0, 100.0]);
        let bias = Tensor::floats(vec![1], vec![0.5]);
        let y = conv2d(&x, &weight, Some(&bias), &STRIDED, 1, &[1, 1, 2, 1]);
        assert_eq!(y.f(), [200.5, 530.5]);
        let grad = image(1, 2, 1, &[1.0, 7.0]);
        assert_eq!(conv2d_backward_data(&grad, &weight, &STRIDED, 1, x.shape()).f(), [100.0, 70.0, 700.0]);
        assert_eq!(conv2d_backward_weights(&x, &grad, &STRIDED, 1, weight.shape()).f(), [21.0, 37.0]);
    }

    #[test]
    fn dilated_taps_skip_pixels() {
        let window = Window2d { kernel: [1, 2], stride: [1, 1], dilation: [1, 2], pad: [[0, 0], [0, 0]] };
        let x = image(1, 3, 1, &[2.0, 3.0, 5.0]);
        let weight = Tensor::floats(vec![1, 2, 1, 1], vec![10.0, 100.0]);
        assert_eq!(conv2d(&x, &weight, None, &window, 1, &[1, 1, 1, 1]).f(), [520.0]);
    }

    #[test]
    fn groups_read_their_own_channels() {
        let x = image(1, 1, 4, &[1.0, 2.0, 3.0, 4.0]);
        let weight = Tensor::floats(vec![1, 1, 2, 2], vec![1.0, 10.0, 100.0, 1000.0]);
        let y = conv2d(&x, &weight, None, &Window2d::UNIT, 2, &[1, 1, 1, 2]);
        assert_eq!(y.f(), [1.0 + 200.0, 30.0 + 4000.0]);
    }

    #[test]
    fn products_of_matrices_and_their_gradients() {
        let x = Tensor::floats(vec![2, 1, 2], vec![1.0, 2.0, 3.0, 4.0]);
        let weight = Tensor::floats(vec![2, 2, 1], vec![5.0, 6.0, 7.0, 8.0]);
        assert_eq!(linear(&x, &weight, None, &[2, 1, 1]).f(), [17.0, 53.0]);
        let grad = Tensor::floats(vec![2, 1, 1], vec![2.0, 3.0]);
        assert_eq!(linear_backward_data(&grad, &weight, x.shape()).f(), [10.0, 12.0, 21.0, 24.0]);
        assert_eq!(linear_backward_weights(&x, &grad, weight.shape()).f(), [2.0, 4.0, 9.0, 12.0]);
        let (x, weight) = (x.reshaped(&[2, 2]), Tensor::floats(vec![2, 2], vec![1.0, 0.0, 0.0, 1.0]));
        let bias = Tensor::floats(vec![2], vec![10.0, 20.0]);
        assert_eq!(linear(&x, &weight, Some(&bias), &[2, 2]).f(), [11.0, 22.0, 13.0, 24.0]);
    }
}
