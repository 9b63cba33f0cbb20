//! Which algorithms may be used: by the process and by one op.

use crate::error::{Error, Result};

/// Which algorithms a plan, or one op of it, may be computed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// The fastest whose error stays within the published tolerance.
    Auto,
    /// Direct summation only: the strict switch.
    Direct,
}

impl Algorithm {
    /// The name users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Direct => "direct",
        }
    }

    /// The algorithm of that name.
    pub fn parse(name: &str) -> Result<Self> {
        [Self::Auto, Self::Direct]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| Error::Value(format!("algorithm expects auto or direct, received {name:?}")))
    }

    /// What both permit.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == Self::Direct { self } else { other }
    }
}
