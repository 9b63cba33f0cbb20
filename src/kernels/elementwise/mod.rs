//! Kernels that treat every element by itself, and the rule that cuts such work into tasks.

mod normalize;

pub use normalize::Normalize;

use std::ops::Range;

use super::Kernel;
use crate::function::UnaryKind;
use crate::simd::{Isa, Simd, dispatch::multiversion, math};
use crate::tensor::Args;

/// `count` items in consecutive chunks of one size, the last possibly shorter: a pure function of the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunks {
    count: usize,
    size: usize,
}

impl Chunks {
    /// Fewest and most elements of a chunk: below, a task costs more to hand out than to run; above, cores wait.
    const LEAST: usize = 4 << 10;
    const MOST: usize = 16 << 10;

    /// Sixteen chunks if they then hold between 4 Ki and 16 Ki elements, `weight` per item; at least one item each.
    pub fn new(count: usize, weight: usize) -> Self {
        let weight = weight.max(1);
        let (least, most) = ((Self::LEAST / weight).max(1), (Self::MOST / weight).max(1));
        let size = count.div_ceil(16).clamp(least, most);
        // Single elements: chunks start on cache lines if the tensor does.
        Self { count, size: if weight == 1 { size.next_multiple_of(64) } else { size } }
    }

    /// Number of chunks; zero for no items.
    pub fn tasks(&self) -> usize {
        self.count.div_ceil(self.size)
    }

    /// The items of chunk `task`.
    pub fn range(&self, task: usize) -> Range<usize> {
        let start = task * self.size;
        start..(start + self.size).min(self.count)
    }
}

/// The first `n ≤ LANES` lanes from memory, the others zero; a plain load if those are all.
///
/// # Safety
/// `n` readable floats at `p`; the CPU has the level's features.
#[inline(always)]
pub(crate) unsafe fn load_first<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller's word.
    unsafe { if n == S::LANES { S::load(p) } else { S::load_partial(p, n) } }
}

/// The first `n ≤ LANES` lanes to memory; a plain store if those are all.
///
/// # Safety
/// `n` writable floats at `p`; the CPU has the level's features.
#[inline(always)]
pub(crate) unsafe fn store_first<S: Simd>(p: *mut f32, v: S::V, n: usize) {
    // SAFETY: the caller's word.
    unsafe { if n == S::LANES { S::store(p, v) } else { S::store_partial(p, v, n) } }
}

/// A function of one element.
trait Map: 'static {
    /// # Safety
    /// The CPU has the level's features.
    unsafe fn map<S: Simd>(x: S::V) -> S::V;
}

/// A function of two elements.
trait Zip: 'static {
    /// # Safety
    /// The CPU has the level's features.
    unsafe fn zip<S: Simd>(a: S::V, b: S::V) -> S::V;
}

struct Relu;
struct Tanh;
struct Sigmoid;
struct Sum;

impl Map for Relu {
    #[inline(always)]
    unsafe fn map<S: Simd>(x: S::V) -> S::V {
        // SAFETY: trait contract. A NaN, as second operand, is the result.
        unsafe { S::max(S::splat(0.0), x) }
    }
}
impl Map for Tanh {
    #[inline(always)]
    unsafe fn map<S: Simd>(x: S::V) -> S::V {
        // SAFETY: trait contract.
        unsafe { math::tanh::<S>(x) }
    }
}
impl Map for Sigmoid {
    #[inline(always)]
    unsafe fn map<S: Simd>(x: S::V) -> S::V {
        // SAFETY: trait contract.
        unsafe { math::sigmoid::<S>(x) }
    }
}
// As pairs: the gradient of the result and the result give the gradient of the operand.
impl Zip for Relu {
    #[inline(always)]
    unsafe fn zip<S: Simd>(diff_dst: S::V, dst: S::V) -> S::V {
        // SAFETY: trait contract.
        unsafe { S::select(S::gt(dst, S::splat(0.0)), diff_dst, S::splat(0.0)) }
    }
}
impl Zip for Tanh {
    #[inline(always)]
    unsafe fn zip<S: Simd>(diff_dst: S::V, dst: S::V) -> S::V {
        // SAFETY: trait contract. (1 − y)(1 + y) keeps its precision where 1 − y² cancels.
        unsafe { S::mul(diff_dst, S::mul(S::sub(S::splat(1.0), dst), S::add(S::splat(1.0), dst))) }
    }
}
impl Zip for Sigmoid {
    #[inline(always)]
    unsafe fn zip<S: Simd>(diff_dst: S::V, dst: S::V) -> S::V {
        // SAFETY: trait contract.
        unsafe { S::mul(diff_dst, S::mul(dst, S::sub(S::splat(1.0), dst))) }
    }
}
impl Zip for Sum {
    #[inline(always)]
    unsafe fn zip<S: Simd>(a: S::V, b: S::V) -> S::V {
        // SAFETY: trait contract.
        unsafe { S::add(a, b) }
    }
}

/// # Safety
/// `n` elements at both addresses, which are equal or do not overlap.
#[inline(always)]
unsafe fn map_body<S: Simd, F: Map>(src: *const f32, dst: *mut f32, n: usize) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(dst.add(i), F::map::<S>(S::load(src.add(i))));
            i += S::LANES;
        }
        if i < n {
            S::store_partial(dst.add(i), F::map::<S>(S::load_partial(src.add(i), n - i)), n - i);
        }
    }
}

/// # Safety
/// `n` elements at all addresses; `dst` equals an operand or overlaps none.
#[inline(always)]
unsafe fn zip_body<S: Simd, F: Zip>(a: *const f32, b: *const f32, dst: *mut f32, n: usize) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(dst.add(i), F::zip::<S>(S::load(a.add(i)), S::load(b.add(i))));
            i += S::LANES;
        }
        if i < n {
            let rest = n - i;
            let value = F::zip::<S>(S::load_partial(a.add(i), rest), S::load_partial(b.add(i), rest));
            S::store_partial(dst.add(i), value, rest);
        }
    }
}

/// # Safety
/// `n` elements at both addresses, which are equal or do not overlap.
#[inline(always)]
unsafe fn scale_body<S: Simd>(x: *const f32, factor: f32, dst: *mut f32, n: usize) {
    // SAFETY: every access lies within `n` elements.
    unsafe {
        let factor = S::splat(factor);
        let mut i = 0;
        while i + S::LANES <= n {
            S::store(dst.add(i), S::mul(S::load(x.add(i)), factor));
            i += S::LANES;
        }
        if i < n {
            S::store_partial(dst.add(i), S::mul(S::load_partial(x.add(i), n - i), factor), n - i);
        }
    }
}

multiversion! { fn relu(src: *const f32, dst: *mut f32, n: usize) = map_body, [Relu]; }
multiversion! { fn tanh(src: *const f32, dst: *mut f32, n: usize) = map_body, [Tanh]; }
multiversion! { fn sigmoid(src: *const f32, dst: *mut f32, n: usize) = map_body, [Sigmoid]; }
multiversion! { fn relu_backward(diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, n: usize) = zip_body, [Relu]; }
multiversion! { fn tanh_backward(diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, n: usize) = zip_body, [Tanh]; }
multiversion! { fn sigmoid_backward(diff_dst: *const f32, dst: *const f32, diff_src: *mut f32, n: usize) = zip_body, [Sigmoid]; }
multiversion! { fn add(a: *const f32, b: *const f32, dst: *mut f32, n: usize) = zip_body, [Sum]; }
multiversion! { fn scale(x: *const f32, factor: f32, dst: *mut f32, n: usize) = scale_body; }

/// Rough operations per element.
fn cost(kind: UnaryKind) -> u64 {
    match kind {
        UnaryKind::Tanh | UnaryKind::Sigmoid => 30,
        _ => 1,
    }
}

/// An activation. Operands: `src`, `dst` (`len` floats each; may be the same memory).
#[derive(Debug, Clone)]
pub struct Unary {
    isa: Isa,
    kind: UnaryKind,
    chunks: Chunks,
}

impl Unary {
    /// `kind` over `len` elements.
    pub fn new(isa: Isa, kind: UnaryKind, len: usize) -> Self {
        Self { isa, kind, chunks: Chunks::new(len, 1) }
    }
}

impl Kernel for Unary {
    fn name(&self) -> String {
        format!("{}_{}", self.kind.name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        cost(self.kind) * self.chunks.count as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let src = args.src::<f32>(0).at(range.start, range.len());
        let dst = args.dst::<f32>(1).at(range.start, range.len());
        // SAFETY: the operands hold the chunk, which belongs to this task.
        unsafe { activate(self.isa, self.kind, src, dst, range.len()) };
    }
}

/// Applies an activation to `n` floats.
///
/// # Safety
/// `src` is readable and `dst` writable for `n` floats, which are this task's own; they are the same memory or do not
/// meet. The CPU has `isa`.
pub unsafe fn activate(isa: Isa, kind: UnaryKind, src: *const f32, dst: *mut f32, n: usize) {
    let function = match kind {
        UnaryKind::Relu => relu,
        UnaryKind::Tanh => tanh,
        UnaryKind::Sigmoid => sigmoid,
        _ => unreachable!("lowering refuses the others"),
    };
    // SAFETY: the caller's word; each vector is read before it is written.
    unsafe { function(isa, src, dst, n) };
}

/// Gradient of an activation from its result. Operands: `diff_dst`, `dst` (the result), `diff_src` (`len` floats each;
/// `diff_src` may be the memory of either).
#[derive(Debug, Clone)]
pub struct UnaryBackward {
    isa: Isa,
    kind: UnaryKind,
    chunks: Chunks,
}

impl UnaryBackward {
    /// Gradient of `kind` over `len` elements.
    pub fn new(isa: Isa, kind: UnaryKind, len: usize) -> Self {
        Self { isa, kind, chunks: Chunks::new(len, 1) }
    }
}

impl Kernel for UnaryBackward {
    fn name(&self) -> String {
        format!("{}_backward_{}", self.kind.name(), self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        4 * self.chunks.count as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let diff_dst = args.src::<f32>(0).at(range.start, range.len());
        let dst = args.src::<f32>(1).at(range.start, range.len());
        let diff_src = args.dst::<f32>(2).at(range.start, range.len());
        let function = match self.kind {
            UnaryKind::Relu => relu_backward,
            UnaryKind::Tanh => tanh_backward,
            UnaryKind::Sigmoid => sigmoid_backward,
            _ => unreachable!("lowering refuses the others"),
        };
        // SAFETY: the operands hold the chunk, which belongs to this task.
        unsafe { function(self.isa, diff_dst, dst, diff_src, range.len()) };
    }
}

/// Sum of two tensors. Operands: `a`, `b`, `dst` (`len` floats each; `dst` may be the memory of either).
#[derive(Debug, Clone)]
pub struct Add {
    isa: Isa,
    chunks: Chunks,
}

impl Add {
    /// Sum of `len` elements.
    pub fn new(isa: Isa, len: usize) -> Self {
        Self { isa, chunks: Chunks::new(len, 1) }
    }
}

impl Kernel for Add {
    fn name(&self) -> String {
        format!("add_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.chunks.count as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let a = args.src::<f32>(0).at(range.start, range.len());
        let b = args.src::<f32>(1).at(range.start, range.len());
        let dst = args.dst::<f32>(2).at(range.start, range.len());
        // SAFETY: the operands hold the chunk, which belongs to this task.
        unsafe { add(self.isa, a, b, dst, range.len()) };
    }
}

/// A tensor times a number known only at run time. Operands: `x` (`len` floats), `factor` (one float), `dst` (`len`
/// floats; may be the memory of `x`).
#[derive(Debug, Clone)]
pub struct Scale {
    isa: Isa,
    chunks: Chunks,
}

impl Scale {
    /// Product of `len` elements and one number.
    pub fn new(isa: Isa, len: usize) -> Self {
        Self { isa, chunks: Chunks::new(len, 1) }
    }
}

impl Kernel for Scale {
    fn name(&self) -> String {
        format!("scale_{}", self.isa.name())
    }

    fn tasks(&self) -> usize {
        self.chunks.tasks()
    }

    fn flops(&self) -> u64 {
        self.chunks.count as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let range = self.chunks.range(task);
        let x = args.src::<f32>(0).at(range.start, range.len());
        let dst = args.dst::<f32>(2).at(range.start, range.len());
        // SAFETY: the operands hold the chunk, which belongs to this task, and one factor that nobody writes.
        unsafe { scale(self.isa, x, args.src::<f32>(1).get(0), dst, range.len()) };
    }
}
