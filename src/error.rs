//! The one error type of the core. Knows nothing of Python; `python/errors.rs` maps each kind to one exception.

use std::fmt;

/// What went wrong, by the kind of mend it needs. The texts follow one form: lower-case, no full stop, the
/// argument's name, what was expected and what was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Shapes or the geometry they lead to do not fit.
    Shape(String),
    /// An array has the wrong element type.
    Type(String),
    /// A number is outside its range.
    Value(String),
    /// A well-formed request for something that is not there.
    Unsupported(String),
    /// So many bytes could not be had.
    Memory(u128),
    /// The caller asked to stop before anything was written.
    Interrupted,
    /// The moment is wrong: nothing is amiss with the arguments, and the same call can succeed at another time.
    State(String),
    /// NaN or an infinity among the results of a node, with `CNNRS_CHECK=finite`.
    NotFinite(String),
    /// A bug of this library: an invariant that does not hold.
    Internal(String),
}

/// The core's result.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape(text)
            | Self::Type(text)
            | Self::Value(text)
            | Self::Unsupported(text)
            | Self::State(text)
            | Self::NotFinite(text) => f.write_str(text),
            Self::Memory(bytes) => write!(f, "cannot allocate {bytes} bytes"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Internal(text) => write!(f, "internal error: {text}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The same error with the layer's path (or the op's name) in front of its text.
    #[must_use]
    pub fn within(self, scope: &str) -> Self {
        if scope.is_empty() {
            return self;
        }
        let add = |text: String| format!("{scope}: {text}");
        match self {
            Self::Shape(text) => Self::Shape(add(text)),
            Self::Type(text) => Self::Type(add(text)),
            Self::Value(text) => Self::Value(add(text)),
            Self::Unsupported(text) => Self::Unsupported(add(text)),
            Self::State(text) => Self::State(add(text)),
            Self::NotFinite(text) => Self::NotFinite(add(text)),
            Self::Internal(text) => Self::Internal(add(text)),
            other @ (Self::Memory(_) | Self::Interrupted) => other,
        }
    }
}
