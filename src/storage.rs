//! Stored tensors: parameters with their versions, locks and packed copies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
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
    lock: RwLock<()>,
    version: AtomicU64,
    packed: Mutex<HashMap<String, (u64, Arc<AlignedBuf>)>>,
}

impl Stored {
    /// A tensor of zeros.
    pub fn zeros(shape: Vec<usize>, dtype: DType) -> Result<Self> {
        let data = AlignedBuf::new(volume(&shape)? * dtype.size())?;
        Ok(Self {
            shape,
            dtype,
            data,
            lock: RwLock::new(()),
            version: AtomicU64::new(0),
            packed: Mutex::new(HashMap::new()),
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

    /// Held by a run that reads.
    pub fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.lock.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by a run that writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the contents changed, and drops the packed copies of what they were; the caller holds the write lock.
    pub fn touch(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.forget_packed();
    }

    /// Copies `count` elements in.
    ///
    /// # Safety
    /// `source` is readable for `count` elements of the tensor's type, at any alignment.
    pub unsafe fn assign(&self, source: *const u8, count: usize) -> Result<()> {
        if count * self.dtype.size() != self.data.bytes() {
            return Err(Error::Shape(format!("expects {} values, received {count}", shape_text(&self.shape))));
        }
        let _guard = self.write();
        // SAFETY: both ranges hold `bytes` bytes; `copy` allows overlap, should the source be a view of this tensor.
        unsafe { std::ptr::copy(source, self.data.ptr(), self.data.bytes()) };
        self.touch();
        Ok(())
    }

    /// The packed copy in `format` of the present version, made by `pack` if it is missing or stale.
    ///
    /// The caller holds the read lock, so that the version stands still.
    pub fn packed(&self, format: &str, bytes: usize, pack: impl FnOnce(Slot) -> Result<()>) -> Result<Arc<AlignedBuf>> {
        let mut cache = self.packed.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.version();
        if let Some((made, buffer)) = cache.get(format)
            && *made == version
        {
            return Ok(buffer.clone());
        }
        let buffer = Arc::new(AlignedBuf::new(bytes)?);
        pack(Slot::new(buffer.ptr(), buffer.bytes()))?;
        cache.insert(format.to_owned(), (version, buffer.clone()));
        Ok(buffer)
    }

    /// Drops all packed copies.
    pub fn forget_packed(&self) {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
