//! Pooling: one window at a time.

use super::layers::taps;
use super::tensor::Tensor;
use crate::window::Window2d;

/// The numbers of an image's channel that lie under one window: (position in the plane, number).
fn under<'a>(
    x: &'a Tensor,
    window: &Window2d,
    [image, oy, ox, c]: [usize; 4],
) -> impl Iterator<Item = (usize, f64)> + use<'a> {
    let (shape, data) = (x.shape(), x.f());
    let [h, w, channels] = [shape[1], shape[2], shape[3]];
    taps(window, [oy, ox], [h, w]).into_iter().map(move |[_, _, iy, ix]| {
        let place = iy * w + ix;
        (place, data[(image * h * w + place) * channels + c])
    })
}

/// Every result position of a shape (N, H, W, C).
fn positions(shape: &[usize]) -> impl Iterator<Item = [usize; 4]> {
    let [n, h, w, c] = [shape[0], shape[1], shape[2], shape[3]];
    (0..n * h * w * c).map(move |flat| [flat / (h * w * c), flat / (w * c) % h, flat / c % w, flat % c])
}

/// The largest number of each window and where it stands: the first of equals, or the first NaN; −∞ and −1 where a
/// window has no input.
pub fn max(x: &Tensor, window: &Window2d, shape: &[usize]) -> Vec<Tensor> {
    let (mut y, mut index) = (Vec::new(), Vec::new());
    for at in positions(shape) {
        let (mut best, mut place) = (f64::NEG_INFINITY, -1);
        for (position, number) in under(x, window, at) {
            if place < 0 || number > best || number.is_nan() && !best.is_nan() {
                (best, place) = (number, position as i64);
            }
        }
        y.push(best);
        index.push(place);
    }
    vec![Tensor::floats(shape.to_vec(), y), Tensor::ints(shape.to_vec(), index)]
}

pub fn max_backward(grad: &Tensor, index: &Tensor, shape: &[usize]) -> Tensor {
    let (plane, channels) = (shape[1] * shape[2], shape[3]);
    let mut x = vec![0.0; shape.iter().product()];
    for (at, [image, _, _, c]) in positions(grad.shape()).enumerate() {
        if let Ok(place) = usize::try_from(index.i()[at]) {
            x[(image * plane + place) * channels + c] += grad.f()[at];
        }
    }
    Tensor::floats(shape.to_vec(), x)
}

/// What the sum of the window at one position is divided by: the taps on the padded input, or on the input alone.
fn divisor(window: &Window2d, include_pad: bool, at: [usize; 2], size: [usize; 2]) -> f64 {
    if !include_pad {
        return taps(window, at, size).len() as f64;
    }
    let padded = [0, 1].map(|axis| size[axis] + window.pad[axis][0] + window.pad[axis][1]);
    let bare = Window2d { pad: [[0, 0], [0, 0]], ..*window };
    taps(&bare, at, padded).len() as f64
}

/// The mean of each window; 0 where a window has no input.
pub fn avg(x: &Tensor, window: &Window2d, include_pad: bool, shape: &[usize]) -> Tensor {
    let size = [x.shape()[1], x.shape()[2]];
    let mean = |at: [usize; 4]| {
        let numbers: Vec<f64> = under(x, window, at).map(|(_, number)| number).collect();
        if numbers.is_empty() {
            return 0.0;
        }
        numbers.iter().sum::<f64>() / divisor(window, include_pad, [at[1], at[2]], size)
    };
    Tensor::floats(shape.to_vec(), positions(shape).map(mean).collect())
}

pub fn avg_backward(grad: &Tensor, window: &Window2d, include_pad: bool, shape: &[usize]) -> Tensor {
    let (size, channels) = ([shape[1], shape[2]], shape[3]);
    let mut x = vec![0.0; shape.iter().product()];
    for (flat, [image, oy, ox, c]) in positions(grad.shape()).enumerate() {
        let share = grad.f()[flat] / divisor(window, include_pad, [oy, ox], size);
        for [_, _, iy, ix] in taps(window, [oy, ox], size) {
            x[((image * size[0] + iy) * size[1] + ix) * channels + c] += share;
        }
    }
    Tensor::floats(shape.to_vec(), x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &[f64]) -> Tensor {
        Tensor::floats(vec![1, 1, data.len(), 1], data.to_vec())
    }

    fn window(kernel: usize, stride: usize, pad: [usize; 2]) -> Window2d {
        Window2d { kernel: [1, kernel], stride: [1, stride], dilation: [1, 1], pad: [[0, 0], pad] }
    }

    #[test]
    fn the_first_of_equals_wins_and_nan_beats_all() {
        let x = row(&[1.0, 4.0, 4.0, f64::NAN, 9.0]);
        let found = max(&x, &window(3, 2, [0, 0]), &[1, 1, 2, 1]);
        assert_eq!(found[0].f()[0], 4.0);
        assert!(found[0].f()[1].is_nan());
        assert_eq!(found[1].i(), [1, 3]);
        let grad = row(&[10.0, 20.0]);
        assert_eq!(max_backward(&grad, &found[1], x.shape()).f(), [0.0, 10.0, 0.0, 20.0, 0.0]);
    }

    #[test]
    fn a_window_without_input_gives_no_position() {
        let dilated = Window2d { kernel: [1, 2], stride: [1, 1], dilation: [1, 3], pad: [[0, 0], [1, 1]] };
        let found = max(&row(&[1.0, 2.0]), &dilated, &[1, 1, 1, 1]);
        assert_eq!((found[0].f(), found[1].i()), (&[f64::NEG_INFINITY][..], &[-1][..]));
        assert_eq!(max_backward(&row(&[5.0]), &found[1], &[1, 1, 2, 1]).f(), [0.0, 0.0]);
    }

    #[test]
    fn the_divisor_counts_the_padding_or_not() {
        let (x, window) = (row(&[2.0, 4.0, 6.0]), window(2, 2, [1, 0]));
        assert_eq!(avg(&x, &window, true, &[1, 1, 2, 1]).f(), [1.0, 5.0]);
        assert_eq!(avg(&x, &window, false, &[1, 1, 2, 1]).f(), [2.0, 5.0]);
        let grad = row(&[10.0, 8.0]);
        assert_eq!(avg_backward(&grad, &window, true, x.shape()).f(), [5.0, 4.0, 4.0]);
        assert_eq!(avg_backward(&grad, &window, false, x.shape()).f(), [10.0, 4.0, 4.0]);
    }

    #[test]
    fn beyond_the_padded_input_nothing_counts() {
        // Rounded up, the second window covers one pixel of the input and one that is not even padding.
        assert_eq!(avg(&row(&[2.0, 4.0, 6.0]), &window(2, 2, [0, 0]), true, &[1, 1, 2, 1]).f(), [3.0, 6.0]);
    }
}
