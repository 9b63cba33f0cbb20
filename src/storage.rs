//! Stored tensors: parameters with their versions, locks and packed copies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::floats::Floats;
use crate::sync::{Access, Brief, Held, RunLock, Waiting};
use crate::tensor::{AlignedBuf, DType, Slot, shape_text, volume};

/// A tensor that lives between runs: floats, or an int64 counter.
///
/// Runs that read it hold its lock shared, runs that write it exclusively. Every write raises the version, by which
/// packed copies know that they are stale.
#[derive(Debug)]
pub struct Stored {
    shape: Vec<usize>,
    dtype: DType,
    data: AlignedBuf,
    lock: RunLock,
    version: AtomicU64,
    /// Held by whoever packs, so that threads which need the same copy make it once.
    packing: RunLock,
    /// The few copies there are.
    copies: Brief<Vec<PackedCopy>>,
}

/// A copy in a format, and the version it was made of.
#[derive(Debug)]
struct PackedCopy {
    format: String,
    version: u64,
    buffer: Arc<AlignedBuf>,
}

impl Stored {
    /// A tensor of zeros.
    pub fn zeros(shape: Vec<usize>, dtype: DType) -> Result<Self> {
        let data = AlignedBuf::new(volume(&shape)? * dtype.size())?;
        Ok(Self {
            shape,
            dtype,
            data,
            lock: RunLock::default(),
            version: AtomicU64::new(0),
            packing: RunLock::default(),
            copies: Brief::default(),
        })
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the elements are; reading them beside a writing run gives a mixture of old and new values.
    pub fn slot(&self) -> Slot {
        Slot::new(self.data.ptr(), self.data.bytes())
    }

    /// How often it was written.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until the tensor may be read or written; see [`RunLock::lock`].
    ///
    /// In a forked child whose parent was writing, the elements are some new and some old: that counts as a write.
    pub fn lock(&self, access: Access, waiting: Waiting<'_>) -> Result<Held<'_>> {
        Ok(self.noted(self.lock.lock(access, waiting)?))
    }

    fn noted<'a>(&self, held: Held<'a>) -> Held<'a> {
        if held.cut {
            self.touch();
        }
        held
    }

    /// The lock if it is free and nobody waits for it; see [`lock`](Self::lock).
    pub fn lock_if_free(&self, access: Access, waiting: Waiting<'_>) -> Option<Held<'_>> {
        self.lock.lock_if_free(access, waiting).map(|held| self.noted(held))
    }

    /// Says that the contents changed, and drops the packed copies of what they were; the caller holds the write lock.
    pub fn touch(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.forget_packed();
    }

    /// Copies `count` elements in, once no running call uses the tensor.
    ///
    /// # Safety
    /// `source` is readable for `count` elements of the tensor's type, at any alignment.
    pub unsafe fn assign(&self, source: *const u8, count: usize, waiting: Waiting<'_>) -> Result<()> {
        if count * self.dtype.size() != self.data.bytes() {
            return Err(Error::Shape(format!("expects {} values, received {count}", shape_text(&self.shape))));
        }
        let _held = self.lock(Access::Write, waiting)?;
        // SAFETY: both ranges hold `bytes` bytes; `copy` allows overlap, should the source be a view of this tensor.
        unsafe { std::ptr::copy(source, self.data.ptr(), self.data.bytes()) };
        self.touch();
        Ok(())
    }

    /// Copies floats of any format and layout in, once no running call uses the tensor.
    ///
    /// # Safety
    /// All elements of `source` are readable, none of them is this tensor's, and nobody writes them meanwhile.
    pub unsafe fn assign_floats(&self, source: &Floats<'_>, waiting: Waiting<'_>) -> Result<()> {
        if self.dtype != DType::F32 {
            return Err(Error::Type(format!("array expects {}, received floats", self.dtype.name())));
        }
        if source.shape != self.shape {
            let (expected, received) = (shape_text(&self.shape), shape_text(source.shape));
            return Err(Error::Shape(format!("array expects shape {expected}, received {received}")));
        }
        let _held = self.lock(Access::Write, waiting)?;
        // SAFETY: the caller's word; the shapes are equal, and the lock keeps others away.
        unsafe { source.copy_to(self.data.ptr().cast()) };
        self.touch();
        Ok(())
    }

    /// The packed copy in `format` of the present version, made by `pack` if it is missing or stale.
    ///
    /// The caller holds the tensor's lock, so that the version stands still.
    pub fn packed(
        &self,
        format: &str,
        bytes: usize,
        waiting: Waiting<'_>,
        pack: impl FnOnce(Slot) -> Result<()>,
    ) -> Result<Arc<AlignedBuf>> {
        if let Some(found) = self.copy_of(format) {
            return Ok(found);
        }
        // A nested call may meet its own thread packing the same weight; it then packs for itself.
        let _packing = match self.packing.lock(Access::Write, waiting) {
            Err(Error::State(_)) => None,
            held => Some(held?),
        };
        if let Some(found) = self.copy_of(format) {
            return Ok(found);
        }
        let version = self.version();
        let buffer = Arc::new(AlignedBuf::new(bytes)?);
        pack(Slot::new(buffer.ptr(), buffer.bytes()))?;
        let copy = PackedCopy { format: format.to_owned(), version, buffer: buffer.clone() };
        let stale = self.copies.with(|copies| {
            let stale: Vec<_> = copies.extract_if(.., |copy| copy.version != version).collect();
            copies.push(copy);
            stale
        });
        drop(stale);
        Ok(buffer)
    }

    /// The copy in `format`, if it was made of the present version.
    fn copy_of(&self, format: &str) -> Option<Arc<AlignedBuf>> {
        let version = self.version();
        self.copies.with(|copies| {
            let found = copies.iter().find(|copy| copy.version == version && copy.format == format)?;
            Some(found.buffer.clone())
        })
    }

    /// Drops all packed copies.
    pub fn forget_packed(&self) {
        drop(self.copies.with(std::mem::take));
    }
}
