//! The sliding window that convolution and pooling share, and the only copy of the output-size formula.

use crate::error::{Error, Result};

/// Kernel size, stride, dilation (1 = dense) and padding of a two-dimensional window; index 0 is height, 1 is width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window2d {
    /// Taps per axis.
    pub kernel: [usize; 2],
    /// Steps between output positions.
    pub stride: [usize; 2],
    /// Steps between taps; 1 means neighbouring pixels.
    pub dilation: [usize; 2],
    /// Padding before and after each axis: `[[top, bottom], [left, right]]`.
    pub pad: [[usize; 2]; 2],
}

impl Window2d {
    /// A 1×1 window that reads every pixel once.
    pub const UNIT: Self = Self { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pad: [[0, 0], [0, 0]] };

    /// Whether windows are 2×2 and lie side by side.
    pub fn halves(&self) -> bool {
        *self == Self { kernel: [2, 2], stride: [2, 2], ..Self::UNIT }
    }

    /// Effective kernel extent of an axis: `dilation·(kernel − 1) + 1`.
    pub fn extent(&self, axis: usize) -> usize {
        self.dilation[axis].saturating_mul(self.kernel[axis] - 1).saturating_add(1)
    }

    /// Output positions of an axis of `size` pixels: `floor((I + P − K_eff) / S) + 1`.
    ///
    /// With `ceil_mode` the division rounds up, less one window if the last would start beyond the input and its
    /// leading padding (`(out − 1)·S ≥ I + pad_before`).
    pub fn output_size(&self, axis: usize, size: usize, ceil_mode: bool) -> Result<usize> {
        let [before, after] = self.pad[axis];
        let (extent, stride) = (self.extent(axis), self.stride[axis]);
        let padded = size.saturating_add(before).saturating_add(after);
        if extent > padded {
            let axis_name = ["height", "width"][axis];
            return Err(Error::Shape(format!(
                "window exceeds the padded input: kernel {} with dilation {} spans {extent}, {axis_name} {size} with \
                 padding {before} + {after} is {padded} (output = floor(({size} + {before} + {after} - {extent}) / {stride}) + 1)",
                self.kernel[axis], self.dilation[axis],
            )));
        }
        let room = padded - extent;
        if !ceil_mode {
            return Ok(room / stride + 1);
        }
        let out = room.div_ceil(stride) + 1;
        Ok(if (out - 1) * stride >= size + before { out - 1 } else { out })
    }

    /// Output height and width.
    pub fn output(&self, input: [usize; 2], ceil_mode: bool) -> Result<[usize; 2]> {
        Ok([self.output_size(0, input[0], ceil_mode)?, self.output_size(1, input[1], ceil_mode)?])
    }

    /// The window's part of a shape string: `kh3kw3sh1sw1ph1pw1dh1dw1` (after benchdnn; paddings that differ are `a_b`).
    pub fn describe(&self) -> String {
        let pad = |[before, after]: [usize; 2]| {
            if before == after { before.to_string() } else { format!("{before}_{after}") }
        };
        format!(
            "kh{}kw{}sh{}sw{}ph{}pw{}dh{}dw{}",
            self.kernel[0],
            self.kernel[1],
            self.stride[0],
            self.stride[1],
            pad(self.pad[0]),
            pad(self.pad[1]),
            self.dilation[0],
            self.dilation[1],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, dilation: usize, pad: [usize; 2]) -> Window2d {
        Window2d { kernel: [kernel; 2], stride: [stride; 2], dilation: [dilation; 2], pad: [pad; 2] }
    }

    #[test]
    fn output_sizes_follow_the_formula() {
        assert_eq!(window(5, 1, 1, [2, 2]).output([28, 28], false), Ok([28, 28]));
        assert_eq!(window(3, 2, 1, [1, 1]).output([224, 225], false), Ok([112, 113]));
        assert_eq!(window(3, 1, 2, [0, 0]).output([5, 6], false), Ok([1, 2]));
    }

    #[test]
    fn ceil_mode_drops_a_window_that_starts_in_the_padding() {
        assert_eq!(window(2, 2, 1, [0, 0]).output_size(0, 5, true), Ok(3));
        // 2 positions fit by rounding up, but the second would start at 3 ≥ 2 + 1.
        assert_eq!(window(2, 3, 1, [1, 1]).output_size(0, 2, true), Ok(1));
    }

    #[test]
    fn a_window_beyond_the_padded_input_is_a_shape_error_with_its_arithmetic() {
        let error = window(5, 1, 1, [1, 0]).output([3, 9], false).unwrap_err();
        assert!(error.to_string().contains("spans 5") && error.to_string().contains("padding 1 + 0 is 4"));
    }
}
