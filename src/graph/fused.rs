//! What fusion puts behind the sums of a convolution.

use super::op::{Scalar, UnaryKind};

/// What follows the sums and the bias of a convolution, in this order. Set by fusion only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Fused {
    /// Normalization with known statistics, and its eps: (y − mean) / √(variance + eps) · weight + bias.
    pub norm: Option<Scalar>,
    /// Addition of a tensor of the result's shape.
    pub add: bool,
    /// A function of each element.
    pub activation: Option<UnaryKind>,
}

/// The operands of a convolution behind its source and its weight.
#[derive(Debug, Clone, Copy)]
pub struct FusedOperands<'a, T> {
    /// One number per channel.
    pub bias: Option<&'a T>,
    /// Weight, bias, mean and variance of the normalization, or nothing.
    pub norm: &'a [T],
    /// What is added.
    pub added: Option<&'a T>,
}

impl Fused {
    /// Nothing but an activation.
    pub fn activation(activation: Option<UnaryKind>) -> Self {
        Self { activation, ..Self::default() }
    }

    /// How many operands stand behind source, weight and bias.
    pub fn count(self) -> usize {
        4 * usize::from(self.norm.is_some()) + usize::from(self.add)
    }

    /// Tells apart the operands of a convolution; there are at least two and [`Fused::count`].
    pub fn split<T>(self, operands: &[T]) -> FusedOperands<'_, T> {
        let (own, behind) = operands.split_at(operands.len() - self.count());
        let (norm, added) = behind.split_at(behind.len() - usize::from(self.add));
        FusedOperands { bias: own.get(2), norm, added: added.first() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_told_apart() {
        let fused = |norm: bool, add| Fused { norm: norm.then_some(Scalar::new(0.1)), add, activation: None };
        let split = |fused: Fused, operands: &[u8]| {
            let FusedOperands { bias, norm, added } = fused.split(operands);
            (bias.copied(), norm.to_vec(), added.copied())
        };
        assert_eq!(split(fused(false, false), &[0, 1]), (None, vec![], None));
        assert_eq!(split(fused(false, false), &[0, 1, 2]), (Some(2), vec![], None));
        assert_eq!(split(fused(true, false), &[0, 1, 2, 3, 4, 5]), (None, vec![2, 3, 4, 5], None));
        assert_eq!(split(fused(true, true), &[0, 1, 2, 3, 4, 5, 6, 7]), (Some(2), vec![3, 4, 5, 6], Some(7)));
        assert_eq!(split(fused(false, true), &[0, 1, 2]), (None, vec![], Some(2)));
    }
}
