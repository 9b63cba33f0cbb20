//! The numbers of one convolution.

use crate::error::{Error, Result};
use crate::window::Window2d;

/// Sizes of one convolution; activations NHWC, weights `[kh][kw][ic / groups][oc]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Images.
    pub n: usize,
    /// Input height.
    pub ih: usize,
    /// Input width.
    pub iw: usize,
    /// Input channels.
    pub ic: usize,
    /// Output channels.
    pub oc: usize,
    /// Independent blocks of channels; divides `ic` and `oc`.
    pub groups: usize,
    /// Kernel, stride, dilation, padding.
    pub window: Window2d,
    /// Output height.
    pub oh: usize,
    /// Output width.
    pub ow: usize,
}

impl Geometry {
    /// The geometry of these sizes; the window must fit the padded input.
    pub fn new(n: usize, input: [usize; 2], ic: usize, oc: usize, groups: usize, window: Window2d) -> Result<Self> {
        if groups == 0 || !ic.is_multiple_of(groups) || !oc.is_multiple_of(groups) {
            return Err(Error::Internal(format!("groups={groups} does not divide {ic} and {oc} channels")));
        }
        let [oh, ow] = window.output(input, false)?;
        Ok(Self { n, ih: input[0], iw: input[1], ic, oc, groups, window, oh, ow })
    }

    /// Input channels of one group.
    pub fn group_ic(&self) -> usize {
        self.ic / self.groups
    }

    /// Output channels of one group.
    pub fn group_oc(&self) -> usize {
        self.oc / self.groups
    }

    /// Kernel taps.
    pub fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// Elements of the input.
    pub fn src_len(&self) -> usize {
        self.n * self.ih * self.iw * self.ic
    }

    /// Elements of the output.
    pub fn dst_len(&self) -> usize {
        self.n * self.oh * self.ow * self.oc
    }

    /// Elements of the weights.
    pub fn weights_len(&self) -> usize {
        self.taps() * self.group_ic() * self.oc
    }

    /// Floating-point operations: two per multiply-add.
    pub fn flops(&self) -> u64 {
        ((self.n * self.oh * self.ow) as u64).saturating_mul(2 * self.weights_len() as u64)
    }

    /// The shape string: `n1ih56iw56ic64oc64kh3kw3sh1sw1ph1pw1dh1dw1`, with `g…` in front if there are groups.
    pub fn describe(&self) -> String {
        let groups = if self.groups == 1 { String::new() } else { format!("g{}", self.groups) };
        let Self { n, ih, iw, ic, oc, .. } = self;
        format!("{groups}n{n}ih{ih}iw{iw}ic{ic}oc{oc}{}", self.window.describe())
    }
}
