//! Shapes, element types, aligned memory, and the raw views that kernels work on. No arithmetic.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::error::{Error, Result};

/// Cache line and widest vector: every buffer starts on such a boundary.
pub const ALIGN: usize = 64;

/// Bytes behind every buffer of a run that nobody may write: debug builds check them after each step.
pub const GUARD: usize = if cfg!(debug_assertions) { ALIGN } else { 0 };

/// Bytes from one thread's scratch to the next: two lines more than needed, so that neighbours' prefetches do not meet;
/// these lines are guards, too.
pub fn scratch_pitch(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGN) + 2 * ALIGN
}

/// Element types that values can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// Image bytes.
    U8,
    /// Positions inside a plane.
    I32,
    /// Labels.
    I64,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::U8 => 1,
            Self::I64 => 8,
        }
    }

    /// NumPy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::U8 => "uint8",
            Self::I32 => "int32",
            Self::I64 => "int64",
        }
    }

    /// The type of that NumPy name.
    pub fn parse(name: &str) -> Result<Self> {
        [Self::F32, Self::U8, Self::I32, Self::I64]
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| Error::Type(format!("dtype expects float32, uint8, int32 or int64, received {name}")))
    }
}

/// Number of elements of a shape; a product that no machine can hold is a memory error.
pub fn volume(shape: &[usize]) -> Result<usize> {
    if shape.contains(&0) {
        return Ok(0);
    }
    let exact = shape.iter().try_fold(1u128, |product, &size| product.checked_mul(size as u128));
    match exact {
        Some(count) if count <= (isize::MAX as u128) / 16 => Ok(count as usize),
        Some(count) => Err(Error::Memory(count.saturating_mul(4))),
        None => Err(Error::Memory(u128::MAX)),
    }
}

/// A shape as Python writes it: `(1, 28, 28, 1)`.
pub fn shape_text(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// Zeroed memory on a 64-byte boundary; freed on drop.
///
/// All but small buffers come from the system page by page and go back to it at once: nothing is touched before it is
/// used, and no hole in a heap outlives them. Large ones are in huge pages where the system grants them, so that address
/// translation costs little.
#[derive(Debug)]
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    bytes: usize,
}

/// For the address of a buffer of no bytes, which is on a boundary, too.
#[repr(align(64))]
struct Line;

// SAFETY: the buffer owns its memory; access goes through raw views whose users state their own exclusivity.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; `&AlignedBuf` alone hands out only a pointer.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `bytes` zero bytes, or a memory error that names them.
    pub fn new(bytes: usize) -> Result<Self> {
        if bytes == 0 {
            return Ok(Self { ptr: NonNull::<Line>::dangling().cast(), bytes });
        }
        if faults::strike() {
            return Err(Error::Memory(bytes as u128));
        }
        let start = if pages::wanted(bytes) {
            pages::map(bytes)
        } else {
            let layout = Self::layout(bytes)?;
            // SAFETY: the layout has a size above zero.
            NonNull::new(unsafe { alloc_zeroed(layout) })
        };
        start.map(|ptr| Self { ptr, bytes }).ok_or(Error::Memory(bytes as u128))
    }

    /// What a buffer of so many bytes takes from the system once all of it is touched.
    pub fn footprint(bytes: usize) -> usize {
        let unit = if pages::wanted(bytes) { pages::unit(bytes) } else { ALIGN };
        bytes.checked_next_multiple_of(unit).unwrap_or(usize::MAX)
    }

    fn layout(bytes: usize) -> Result<Layout> {
        Layout::from_size_align(bytes, ALIGN).map_err(|_| Error::Memory(bytes as u128))
    }

    /// Start of the memory.
    pub fn ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        if pages::wanted(self.bytes) {
            // SAFETY: mapped in `new` with this very size.
            unsafe { pages::unmap(self.ptr, self.bytes) };
        } else if let Ok(layout) = Self::layout(self.bytes) {
            // SAFETY: allocated in `new` with this very layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}

/// Allocations that fail on demand, for tests of what happens then.
pub mod faults {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Allocations until the one that fails; 0 for none.
    static COUNTDOWN: AtomicU64 = AtomicU64::new(0);

    /// Lets the `count`-th allocation from now on fail, once; 0 lets all succeed.
    pub fn arm(count: u64) {
        COUNTDOWN.store(count, Ordering::Relaxed);
    }

    /// Whether an armed failure is still to come.
    pub fn armed() -> bool {
        COUNTDOWN.load(Ordering::Relaxed) > 0
    }

    /// Counts an allocation; true for the one that is to fail.
    pub(super) fn strike() -> bool {
        armed() && COUNTDOWN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) == Ok(1)
    }
}

/// Memory straight from the system, on Linux.
mod pages {
    use std::ptr::NonNull;

    /// Buffers of that size and more are mapped.
    const LEAST: usize = 128 << 10;
    /// A page of x86-64.
    const PAGE: usize = 4 << 10;
    /// A huge page of x86-64; buffers of that size and more are in such pages.
    const HUGE: usize = 2 << 20;

    pub fn wanted(bytes: usize) -> bool {
        cfg!(target_os = "linux") && bytes >= LEAST
    }

    /// What the size of a mapped buffer is rounded up to.
    pub fn unit(bytes: usize) -> usize {
        if bytes >= HUGE { HUGE } else { PAGE }
    }

    #[cfg(target_os = "linux")]
    pub fn map(bytes: usize) -> Option<NonNull<u8>> {
        let unit = unit(bytes);
        let length = bytes.checked_next_multiple_of(unit)?;
        let whole = if unit == HUGE { length.checked_add(HUGE)? } else { length };
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new anonymous mapping, of which the parts outside a boundary of huge pages are given back at once;
        // advice that the system refuses changes nothing.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), whole, access, kind, -1, 0);
            if start == libc::MAP_FAILED {
                return None;
            }
            if unit < HUGE {
                return NonNull::new(start.cast());
            }
            let before = start.align_offset(HUGE);
            if before > 0 {
                libc::munmap(start, before);
            }
            let start = start.byte_add(before);
            libc::munmap(start.byte_add(length), whole - before - length);
            libc::madvise(start, length, libc::MADV_HUGEPAGE);
            NonNull::new(start.cast())
        }
    }

    /// # Safety
    /// `start` came from [`map`] with the same size and is not used any more.
    #[cfg(target_os = "linux")]
    pub unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the mapping that `map` left.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes.next_multiple_of(unit(bytes))) };
    }

    #[cfg(not(target_os = "linux"))]
    pub fn map(_bytes: usize) -> Option<NonNull<u8>> {
        None
    }

    /// # Safety
    /// Nothing is ever mapped here.
    #[cfg(not(target_os = "linux"))]
    pub unsafe fn unmap(_start: NonNull<u8>, _bytes: usize) {}
}

/// One operand of a kernel: where its elements are and how many bytes they take.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    ptr: *mut u8,
    bytes: usize,
}

// SAFETY: a slot is an address; the executor guarantees that tasks running at the same time write disjoint elements.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    /// The `bytes` bytes at `ptr`.
    pub fn new(ptr: *mut u8, bytes: usize) -> Self {
        Self { ptr, bytes }
    }

    /// Start of the operand.
    pub fn ptr(self) -> *mut u8 {
        self.ptr
    }

    /// Size in bytes.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// Whether both share a byte.
    pub fn meets(self, other: Self) -> bool {
        let (start, end) = (self.ptr as usize, self.ptr as usize + self.bytes);
        let (other_start, other_end) = (other.ptr as usize, other.ptr as usize + other.bytes);
        self.bytes > 0 && other.bytes > 0 && start < other_end && other_start < end
    }
}

/// A readable operand. A raw view, never a slice: Python may hold the same memory.
#[derive(Debug)]
pub struct Src<'a, T> {
    ptr: *const T,
    len: usize,
    life: PhantomData<&'a T>,
}

/// A writable operand that several tasks share, each writing its own elements.
#[derive(Debug)]
pub struct Dst<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a T>,
}

impl<T> Clone for Src<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Src<'_, T> {}
impl<T> Clone for Dst<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Dst<'_, T> {}

impl<T: Copy> Src<'_, T> {
    /// Elements in the view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a view of no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of element `index`, of which `count` elements will be read; checked in debug builds.
    #[inline(always)]
    pub fn at(&self, index: usize, count: usize) -> *const T {
        debug_assert!(index + count <= self.len, "read of {index}+{count} in a view of {}", self.len);
        self.ptr.wrapping_add(index)
    }

    /// Element `index`.
    ///
    /// # Safety
    /// `index` lies inside the view (checked in debug builds) and nobody writes it during the call.
    #[inline(always)]
    pub unsafe fn get(&self, index: usize) -> T {
        // SAFETY: inside the view by the caller's word; unaligned because Python chooses some addresses.
        unsafe { self.at(index, 1).read_unaligned() }
    }
}

impl<T: Copy> Dst<'_, T> {
    /// Elements in the view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for a view of no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of element `index`, of which `count` elements will be written; checked in debug builds.
    #[inline(always)]
    pub fn at(&self, index: usize, count: usize) -> *mut T {
        debug_assert!(index + count <= self.len, "write of {index}+{count} in a view of {}", self.len);
        self.ptr.wrapping_add(index)
    }

    /// Writes element `index`.
    ///
    /// # Safety
    /// `index` lies inside the view (checked in debug builds) and belongs to the running task.
    #[inline(always)]
    pub unsafe fn set(&self, index: usize, value: T) {
        // SAFETY: inside the view and owned by this task, by the caller's word.
        unsafe { self.at(index, 1).write_unaligned(value) }
    }
}

/// Most operands of a call that [`Args::part`] divides.
pub const MAX_PARTED: usize = 4;

/// The operands of one kernel call, in the order its documentation lists them.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    slots: &'a [Slot],
}

impl<'a> Args<'a> {
    /// Operands for one call.
    ///
    /// # Safety
    /// Every slot's memory stays valid while the `Args` lives; slots that the kernel writes are not accessed by
    /// anyone else, but for other tasks of the same call.
    pub unsafe fn new(slots: &'a [Slot]) -> Self {
        Self { slots }
    }

    /// Number of operands.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// The operands from number `first` on.
    #[must_use]
    pub fn from(&self, first: usize) -> Self {
        Self { slots: &self.slots[first..] }
    }

    /// Part number `index` of `count` equal parts of every operand; `slots` holds them.
    pub fn part<'b>(&self, index: usize, count: usize, slots: &'b mut [Slot; MAX_PARTED]) -> Args<'b> {
        for (part, slot) in slots.iter_mut().zip(self.slots) {
            let bytes = slot.bytes / count;
            *part = Slot::new(slot.ptr.wrapping_add(index * bytes), bytes);
        }
        Args { slots: &slots[..self.slots.len()] }
    }

    /// Operand `index` to read.
    #[inline]
    pub fn src<T: Copy>(&self, index: usize) -> Src<'a, T> {
        let slot = self.slots[index];
        Src { ptr: slot.ptr.cast(), len: slot.bytes / size_of::<T>(), life: PhantomData }
    }

    /// Operand `index` to write.
    #[inline]
    pub fn dst<T: Copy>(&self, index: usize) -> Dst<'a, T> {
        let slot = self.slots[index];
        Dst { ptr: slot.ptr.cast(), len: slot.bytes / size_of::<T>(), life: PhantomData }
    }
}
