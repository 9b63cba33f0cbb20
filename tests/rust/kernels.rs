//! Every small kernel against naive references in double precision, on every level that this CPU has.
#![allow(clippy::float_cmp)] // exact results are compared as such

#[path = "kernels/axis_map.rs"]
mod axis_map;
#[path = "kernels/conv_moments.rs"]
mod conv_moments;
#[path = "kernels/conv_shapes.rs"]
mod conv_shapes;
#[path = "kernels/conv_sums.rs"]
mod conv_sums;
#[path = "kernels/copies.rs"]
mod copies;
#[path = "kernels/cross_entropy.rs"]
mod cross_entropy;
#[path = "kernels/depthwise.rs"]
mod depthwise;
#[path = "kernels/dropout.rs"]
mod dropout;
#[path = "kernels/elementwise.rs"]
mod elementwise;
#[path = "kernels/epilogue.rs"]
mod epilogue;
#[path = "kernels/image.rs"]
mod image;
#[path = "kernels/linear.rs"]
mod linear;
#[path = "naive.rs"]
mod naive;
#[path = "kernels/norm.rs"]
mod norm;
#[path = "kernels/norm_gate.rs"]
mod norm_gate;
#[path = "kernels/pool.rs"]
mod pool;
#[path = "kernels/pooled.rs"]
mod pooled;
#[path = "kernels/reduce.rs"]
mod reduce;
#[path = "kernels/softmax.rs"]
mod softmax;
#[path = "kernels/spread.rs"]
mod spread;
#[path = "kernels/strided.rs"]
mod strided;
#[path = "kernels/strips.rs"]
mod strips;
#[path = "kernels/unary.rs"]
mod unary;
#[path = "kernels/update.rs"]
mod update;
#[path = "kernels/winograd.rs"]
mod winograd;

use cnnrs::kernels::Kernel;
use cnnrs::tensor::{AlignedBuf, Args, Slot};

/// Bytes before and after every operand. Not a multiple of 8: operands lie as unaligned as Python's may.
const GUARD: usize = 68;
const GUARD_BYTE: u8 = 0xA5;

/// Memory of one operand between guards.
#[derive(Clone, PartialEq)]
pub struct Operand {
    bytes: Vec<u8>,
}

impl Operand {
    fn raw(bytes: usize, fill: u8) -> Self {
        let mut memory = vec![GUARD_BYTE; bytes + 2 * GUARD];
        memory[GUARD..GUARD + bytes].fill(fill);
        Self { bytes: memory }
    }

    /// The elements of `values`.
    pub fn of<T: Copy>(values: &[T]) -> Self {
        let size = size_of_val(values);
        let mut operand = Self::raw(size, 0);
        // SAFETY: both are `size` bytes and plain numbers.
        unsafe { operand.bytes.as_mut_ptr().add(GUARD).copy_from(values.as_ptr().cast(), size) };
        operand
    }

    /// `len` elements that the kernel has to write: NaN as floats.
    pub fn poison<T>(len: usize) -> Self {
        Self::raw(len * size_of::<T>(), 0xFF)
    }

    /// The elements.
    pub fn get<T: Copy>(&self) -> Vec<T> {
        let count = self.data().len() / size_of::<T>();
        // SAFETY: that many elements, of types that any bytes make.
        (0..count).map(|i| unsafe { self.data().as_ptr().cast::<T>().add(i).read_unaligned() }).collect()
    }

    fn data(&self) -> &[u8] {
        &self.bytes[GUARD..self.bytes.len() - GUARD]
    }

    fn data_mut(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - GUARD;
        &mut self.bytes[GUARD..end]
    }

    fn guards_hold(&self) -> bool {
        let (front, back) = (&self.bytes[..GUARD], &self.bytes[self.bytes.len() - GUARD..]);
        front.iter().chain(back).all(|&byte| byte == GUARD_BYTE)
    }
}

/// Memory that ends where a page ends that nobody may touch: reading or writing past the end stops the test.
struct Fenced {
    base: *mut libc::c_void,
    mapped: usize,
    start: *mut u8,
    bytes: usize,
}

impl Fenced {
    /// A multiple of every page size in use.
    const PAGE: usize = 64 << 10;

    fn new(data: &[u8]) -> Self {
        let mapped = data.len().next_multiple_of(Self::PAGE) + Self::PAGE;
        // SAFETY: a fresh private mapping, the last page of which is closed; the data fit before it.
        unsafe {
            let (open, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            let base = libc::mmap(std::ptr::null_mut(), mapped, open, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let fence = base.cast::<u8>().add(mapped - Self::PAGE);
            assert_eq!(libc::mprotect(fence.cast(), Self::PAGE, libc::PROT_NONE), 0);
            let start = fence.sub(data.len());
            start.copy_from(data.as_ptr(), data.len());
            Self { base, mapped, start, bytes: data.len() }
        }
    }

    fn contents(&self) -> &[u8] {
        // SAFETY: written in `new` and by the kernel, which has returned.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size.
        unsafe { libc::munmap(self.base, self.mapped) };
    }
}

fn run_tasks(kernel: &dyn Kernel, slots: &[Slot], map: &[usize], backwards: bool) {
    let slots: Vec<Slot> = map.iter().map(|&i| slots[i]).collect();
    let scratch = AlignedBuf::new(kernel.scratch()).unwrap();
    let phase = |number| -> Vec<usize> {
        let tasks = kernel.phase(number);
        if backwards { tasks.rev().collect() } else { tasks.collect() }
    };
    for task in (0..kernel.phases()).flat_map(phase) {
        // SAFETY: the scratch is that long; the operands outlive the call; tasks run one after the other.
        unsafe {
            scratch.ptr().write_bytes(0xFF, scratch.bytes());
            kernel.prepare(&Args::new(&slots), scratch.ptr());
            kernel.run(task, &Args::new(&slots), scratch.ptr());
        }
    }
    // SAFETY: behind all tasks.
    unsafe { kernel.tail(&Args::new(&slots)) };
}

/// Runs a kernel on operands `operands[map[0]]`, `operands[map[1]]`, …, twice: its tasks forwards on unaligned memory
/// between guards, and backwards within each phase on fenced memory, each with poisoned scratch. Both must give the same bits.
pub fn run_mapped(kernel: &dyn Kernel, operands: &[Operand], map: &[usize]) -> Vec<Operand> {
    let mut guarded = operands.to_vec();
    let slots: Vec<Slot> =
        guarded.iter_mut().map(|one| Slot::new(one.data_mut().as_mut_ptr(), one.data().len())).collect();
    run_tasks(kernel, &slots, map, false);

    let fenced: Vec<Fenced> = operands.iter().map(|one| Fenced::new(one.data())).collect();
    let slots: Vec<Slot> = fenced.iter().map(|one| Slot::new(one.start, one.bytes)).collect();
    run_tasks(kernel, &slots, map, true);

    for (one, other) in guarded.iter().zip(&fenced) {
        assert!(one.data() == other.contents(), "{}: the order of the tasks matters", kernel.name());
        assert!(one.guards_hold(), "{}: wrote outside its operands", kernel.name());
    }
    guarded
}

/// [`run_mapped`] with every operand in its place.
pub fn run(kernel: &dyn Kernel, operands: &[Operand]) -> Vec<Operand> {
    run_mapped(kernel, operands, &(0..operands.len()).collect::<Vec<_>>())
}

/// Reproducible numbers in −2..2, some of them equal.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| next() * 4.0 - 2.0).collect()
}

/// Reproducible whole numbers in −4..=4: sums of a few thousand are exact, ties are common.
pub fn integers(seed: u64, len: usize) -> Vec<f32> {
    values(seed, len).into_iter().map(|x| (x * 2.0).round()).collect()
}

/// Equal as numbers up to `tolerance`, NaN equal to NaN.
pub fn assert_close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&x, &y)) in got.iter().zip(want).enumerate() {
        let fine = (x.is_nan() && y.is_nan()) || f64::from(x) == y || (f64::from(x) - y).abs() <= tolerance;
        assert!(fine, "{what}: element {i} is {x}, expected {y}");
    }
}
