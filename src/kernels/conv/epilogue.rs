//! What follows the sums of a convolution while they are in registers.

use crate::function::UnaryKind;
use crate::simd::{Isa, Simd};
use crate::tensor::Args;

/// What follows a sum in registers or while the results are in cache, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epilogue {
    /// Add one value per output channel.
    pub bias: bool,
    /// Normalize with known statistics: (y − mean) · rstd·weight + bias.
    pub norm: bool,
    /// Add a tensor of the result's shape.
    pub add: bool,
    /// Apply this.
    pub activation: Option<UnaryKind>,
}

impl Epilogue {
    /// Operands between the weights and the result: the bias, then weight, bias, mean and rstd of the normalization (one
    /// value per output channel each), then what is added.
    pub fn operands(self) -> usize {
        usize::from(self.bias) + 4 * usize::from(self.norm) + usize::from(self.add)
    }

    /// The addresses of these operands and of the result behind them, from operand number 2 on, for `channels` output
    /// channels and `len` results.
    pub(super) fn finish(self, args: &Args<'_>, channels: usize, len: usize) -> Finish {
        let mut next = 2;
        let mut take = |there: bool, count: usize| {
            if !there {
                return std::ptr::null();
            }
            next += 1;
            args.src::<f32>(next - 1).at(0, count)
        };
        let bias = take(self.bias, channels);
        let norm = [(); 4].map(|()| take(self.norm, channels));
        let added = take(self.add, len);
        let results = args.dst::<f32>(next).at(0, len).cast_const();
        Finish { bias, norm, added, results, relu: self.activation == Some(UnaryKind::Relu) }
    }

    /// The activation, unless it is the one that [`Finish`] applies.
    pub(super) fn later(self) -> Option<UnaryKind> {
        self.activation.filter(|&kind| kind != UnaryKind::Relu)
    }

    /// What a kernel's name says of it: all but the bias.
    pub(super) fn name(self) -> String {
        let parts = [self.norm.then_some("norm"), self.add.then_some("add"), self.activation.map(UnaryKind::name)];
        parts.into_iter().flatten().flat_map(|part| ["_", part]).collect()
    }
}

/// The addresses of an epilogue's operands, null for what it has not: of one channel, and of whole tensors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finish {
    pub bias: *const f32,
    /// Weight, bias, mean and rstd.
    pub norm: [*const f32; 4],
    /// The first element of what is added and of the results: both lie alike, and may be the same memory.
    pub added: *const f32,
    pub results: *const f32,
    /// Whether to finish with max(x, 0).
    pub relu: bool,
}

/// How much an epilogue does: its loops are compiled for each.
pub(super) mod mode {
    /// Bias and max(x, 0) at most.
    pub const PLAIN: u8 = 0;
    /// Normalization too.
    pub const NORM: u8 = 1;
    /// Addition too, and perhaps normalization.
    pub const ADD: u8 = 2;
}

/// What the vectors of one or more channels have in common.
#[derive(Clone, Copy)]
pub(in crate::kernels::conv) struct PerChannel<V> {
    pub bias: V,
    mean: V,
    scale: V,
    offset: V,
    /// Zero, or −∞ where results may be negative.
    floor: V,
}

impl Finish {
    /// Nothing to do.
    pub const NONE: Self = Self {
        bias: std::ptr::null(),
        norm: [std::ptr::null(); 4],
        added: std::ptr::null(),
        results: std::ptr::null(),
        relu: false,
    };

    /// The same for the channels from `channel` on.
    pub fn at(self, channel: usize) -> Self {
        let step = |from: *const f32| if from.is_null() { from } else { from.wrapping_add(channel) };
        Self { bias: step(self.bias), norm: self.norm.map(step), ..self }
    }

    /// One of [`mode`].
    #[inline(always)]
    pub fn mode(&self) -> u8 {
        match (self.norm[0].is_null(), self.added.is_null()) {
            (true, true) => mode::PLAIN,
            (false, true) => mode::NORM,
            (_, false) => mode::ADD,
        }
    }

    /// Numbers of `lanes` channels from number `first` on; all lanes count if `FULL`. What is not there is neutral to the
    /// last bit: x − 0, x · 1 + (−0), max(−∞, x).
    ///
    /// # Safety
    /// Every operand per channel holds them; `MODE` is the epilogue's; the CPU has the level's features.
    #[inline(always)]
    pub unsafe fn per_channel<S: Simd, const FULL: bool, const MODE: u8>(
        &self,
        first: usize,
        lanes: usize,
    ) -> PerChannel<S::V> {
        // SAFETY: the caller's word.
        unsafe {
            let zero = S::splat(0.0);
            let bias = if self.bias.is_null() { zero } else { load::<S, FULL>(self.bias, first, lanes) };
            let floor = S::splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
            if MODE == mode::PLAIN || self.norm[0].is_null() {
                return PerChannel { bias, mean: zero, scale: S::splat(1.0), offset: S::splat(-0.0), floor };
            }
            let [weight, offset, mean, rstd] = [
                load::<S, FULL>(self.norm[0], first, lanes),
                load::<S, FULL>(self.norm[1], first, lanes),
                load::<S, FULL>(self.norm[2], first, lanes),
                load::<S, FULL>(self.norm[3], first, lanes),
            ];
            PerChannel { bias, mean, scale: S::mul(weight, rstd), offset, floor }
        }
    }

    /// The numbers of one channel in every lane, without its bias.
    ///
    /// # Safety
    /// As [`per_channel`](Self::per_channel).
    #[inline(always)]
    pub unsafe fn one_channel<S: Simd, const MODE: u8>(&self, channel: usize) -> PerChannel<S::V> {
        // SAFETY: the caller's word.
        unsafe {
            let zero = S::splat(0.0);
            let floor = S::splat(if self.relu { 0.0 } else { f32::NEG_INFINITY });
            if MODE == mode::PLAIN {
                return PerChannel { bias: zero, mean: zero, scale: S::splat(1.0), offset: S::splat(-0.0), floor };
            }
            let mut numbers = [0.0; 4];
            for (number, from) in numbers.iter_mut().zip(self.norm) {
                *number = from.wrapping_add(channel).read_unaligned();
            }
            let [weight, offset, mean, rstd] = numbers;
            PerChannel {
                bias: zero,
                mean: S::splat(mean),
                scale: S::splat(weight * rstd),
                offset: S::splat(offset),
                floor,
            }
        }
    }

    /// What becomes of a sum to which the bias was added; `result` is where it is to be written.
    ///
    /// # Safety
    /// `lanes` floats (a whole vector if `FULL`) of what is added lie where `result` lies in the results; `MODE` is the
    /// epilogue's; the CPU has the level's features.
    #[inline(always)]
    pub unsafe fn finish<S: Simd, const FULL: bool, const MODE: u8>(
        &self,
        value: S::V,
        channel: &PerChannel<S::V>,
        result: *const f32,
        lanes: usize,
    ) -> S::V {
        // SAFETY: the caller's word.
        unsafe {
            let mut value = value;
            if MODE != mode::PLAIN {
                value = S::fma(S::sub(value, channel.mean), channel.scale, channel.offset);
            }
            if MODE == mode::ADD {
                value = S::add(value, load::<S, FULL>(self.beside(result), 0, lanes));
            }
            S::max(channel.floor, value)
        }
    }

    /// What is added to the result at this address.
    #[inline(always)]
    pub fn beside(&self, result: *const f32) -> *const f32 {
        self.added.wrapping_byte_add((result as usize).wrapping_sub(self.results as usize))
    }

    /// [`Finish::finish`] for one number of channel `channel`, bias included, to the same bits.
    ///
    /// # Safety
    /// As there; the addend has not been overwritten.
    pub unsafe fn one(&self, isa: Isa, sum: f32, channel: usize, result: *const f32) -> f32 {
        // SAFETY: the caller's word.
        let read = |from: *const f32| unsafe { from.wrapping_add(channel).read_unaligned() };
        let mut value = if self.bias.is_null() { sum } else { sum + read(self.bias) };
        if !self.norm[0].is_null() {
            let [weight, offset, mean, rstd] = self.norm.map(read);
            let (centred, scale) = (value - mean, weight * rstd);
            value = if isa == Isa::Portable { centred * scale + offset } else { centred.mul_add(scale, offset) };
        }
        if !self.added.is_null() {
            // SAFETY: the caller's word.
            value += unsafe { self.beside(result).read_unaligned() };
        }
        if self.relu && value < 0.0 { 0.0 } else { value }
    }
}

/// # Safety
/// `lanes` floats from number `first` on at `from`, or a whole vector if `FULL`.
#[inline(always)]
unsafe fn load<S: Simd, const FULL: bool>(from: *const f32, first: usize, lanes: usize) -> S::V {
    let at = from.wrapping_add(first);
    // SAFETY: the caller's word.
    unsafe { if FULL { S::load(at) } else { S::load_partial(at, lanes) } }
}
