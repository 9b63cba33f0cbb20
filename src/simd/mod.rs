//! The SIMD layer: instruction-set levels, their detection, and the small vector trait that every kernel body is
//! written over. One file per level implements the trait with the same functions in the same order.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod dispatch;
pub mod float_mode;
pub mod math;
mod portable;
pub mod tanh;

pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub use {avx2::Avx2, avx512::Avx512};

/// Instruction-set levels, ordered: a later one includes the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// The baseline of the build; lanes are an array that the compiler vectorises.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl Isa {
    /// All levels, lowest first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// The name users write in `CNNRS_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Float lanes of one vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable | Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }

    /// The highest level this CPU has.
    pub fn detect() -> Self {
        // The standard library asks the CPU once and remembers.
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx2 && avx512 {
                return Self::Avx512;
            }
            if avx2 {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// The levels this CPU has, lowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|&isa| isa <= Self::detect()).collect()
    }
}

/// A vector of `LANES` floats and what kernels do with it.
///
/// # Safety
/// Every function needs a CPU with the level's features; pointers must be valid for the lanes named. All bodies are
/// `inline(always)` so that they become instructions of the `target_feature` shell they are used in
/// ([`dispatch::multiversion!`]); calling one elsewhere is slow but not wrong.
#[allow(clippy::missing_safety_doc, missing_docs)] // stated once, for the whole trait, above; names say the rest
pub trait Simd: Copy + 'static {
    /// `LANES` floats, or as many 32-bit patterns.
    type V: Copy;
    /// One truth value per lane.
    type M: Copy;
    /// Floats per vector.
    const LANES: usize;
    /// The level.
    const ISA: Isa;

    unsafe fn splat(x: f32) -> Self::V;
    /// The 32-bit pattern `x` in every lane; moved, never computed with.
    unsafe fn splat_i32(x: i32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// The same past the caches, to an address that is a multiple of the vector. Others see it after a fence only
    /// (`kernels/streaming.rs`).
    unsafe fn store_streaming(p: *mut f32, v: Self::V);
    /// The first `n ≤ LANES` lanes from memory, the others zero; reads nothing beyond them.
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::V;
    /// Lanes from memory, `stride` floats apart.
    unsafe fn load_strided(p: *const f32, stride: usize) -> Self::V;
    /// The first `n ≤ LANES` lanes to memory; writes nothing beyond them.
    unsafe fn store_partial(p: *mut f32, v: Self::V, n: usize);
    /// `LANES` bytes as 32-bit patterns.
    unsafe fn load_bytes(p: *const u8) -> Self::V;
    /// 32-bit patterns below 256 as `LANES` bytes.
    unsafe fn store_bytes(p: *mut u8, v: Self::V);
    /// The first `n ≤ LANES` lanes from bytes, the others zero; reads nothing beyond them.
    #[inline(always)]
    unsafe fn load_bytes_partial(p: *const u8, n: usize) -> Self::V {
        debug_assert!(Self::LANES == 8);
        // SAFETY: the trait's contract, for eight lanes.
        unsafe { Self::load_bytes(first_bytes(p, n).to_le_bytes().as_ptr()) }
    }
    /// The first `n ≤ LANES` lanes, patterns below 256, to bytes; writes nothing beyond them.
    #[inline(always)]
    unsafe fn store_bytes_partial(p: *mut u8, v: Self::V, n: usize) {
        debug_assert!(Self::LANES == 8);
        let mut lanes = [0; 8];
        // SAFETY: the trait's contract, for eight lanes.
        unsafe {
            Self::store_bytes(lanes.as_mut_ptr(), v);
            store_first_bytes(p, u64::from_le_bytes(lanes), n);
        }
    }
    /// Asks for the cache line of `p`, which may be any address; does nothing on the portable level.
    unsafe fn prefetch(p: *const f32);
    /// As `prefetch`, but only into the second-level cache, of which more lines can be on their way at a time.
    unsafe fn prefetch_far(p: *const f32);

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, rounded once where the level has fused multiply-add, twice on the portable one.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`, hence `b` if either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`, hence `b` if either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^n` for integer-valued lanes in −126..=127.
    unsafe fn pow2(n: Self::V) -> Self::V;
    /// Mantissa in 1..2 and exponent of lanes that are positive and normal; other lanes hold anything.
    unsafe fn split(a: Self::V) -> (Self::V, Self::V);
    /// Square root, correctly rounded; NaN below zero.
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// Clears the sign bit.
    unsafe fn abs(a: Self::V) -> Self::V;
    /// `a` with the sign bit of `sign`; `a` must not be negative.
    unsafe fn with_sign(a: Self::V, sign: Self::V) -> Self::V;

    /// `a > b`, false if either is NaN.
    unsafe fn gt(a: Self::V, b: Self::V) -> Self::M;
    /// `a == b`, false if either is NaN; zeros of both signs are equal.
    unsafe fn eq(a: Self::V, b: Self::V) -> Self::M;
    /// Lanes that are NaN.
    unsafe fn is_nan(a: Self::V) -> Self::M;
    /// Lanes whose 32-bit patterns are equal.
    unsafe fn eq_bits(a: Self::V, b: Self::V) -> Self::M;
    unsafe fn or(a: Self::M, b: Self::M) -> Self::M;
    /// `a` and not `b`.
    unsafe fn and_not(a: Self::M, b: Self::M) -> Self::M;
    /// True if any lane is.
    unsafe fn any(m: Self::M) -> bool;
    /// `m ? a : b`, as patterns.
    unsafe fn select(m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// Lane `i` becomes lane `i xor W`, for `W` a power of two below `LANES`.
    unsafe fn swap<const W: usize>(v: Self::V) -> Self::V;
    /// Lane 0.
    unsafe fn first(v: Self::V) -> f32;

    /// Exclusive or of the 32-bit patterns.
    unsafe fn xor(a: Self::V, b: Self::V) -> Self::V;
    /// Low and high halves of the products of the patterns as unsigned integers.
    unsafe fn multiply(a: Self::V, b: Self::V) -> (Self::V, Self::V);
    /// The upper 24 bits of the patterns as fractions of 2²⁴, which is exact.
    unsafe fn fraction(a: Self::V) -> Self::V;

    /// The lanes with even and those with odd numbers, of `a` and then of `b`.
    unsafe fn unzip(a: Self::V, b: Self::V) -> (Self::V, Self::V);

    /// A square of eight rows of eight floats, `src_step` apart, to its transpose with rows `dst_step` apart.
    unsafe fn transpose8(src: *const f32, src_step: isize, dst: *mut f32, dst_step: usize);

    /// The number of `table` that five bits of each lane's pattern, from bit `FROM` on, point at.
    #[inline(always)]
    unsafe fn lookup<const FROM: u32>(table: &[f32; 32], v: Self::V) -> Self::V {
        let mut lanes = [0.0f32; 16];
        // SAFETY: 16 floats hold any level's vector.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            for lane in &mut lanes {
                *lane = table[(lane.to_bits() >> FROM & 31) as usize];
            }
            Self::load(lanes.as_ptr())
        }
    }

    /// Sum of all lanes by halving: lane i with lane i + LANES/2, and so on down to one.
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: 16 floats hold any level's vector.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        let mut width = Self::LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// Largest lane; NaN lanes are ignored unless they come to lie on the right side of each comparison.
    #[inline(always)]
    unsafe fn max_lane(v: Self::V) -> f32 {
        let mut lanes = [0.0f32; 16];
        // SAFETY: 16 floats hold any level's vector.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        lanes[..Self::LANES].iter().fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best })
    }
}

/// The first `n ≤ 8` bytes, the lowest first, and zeros: two reads that may share some.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn first_bytes(p: *const u8, n: usize) -> u64 {
    // SAFETY: each read ends at byte `n` or before.
    unsafe {
        match n {
            0 => 0,
            1 => u64::from(p.read()),
            2 | 3 => {
                let (low, high) = (p.cast::<u16>().read_unaligned(), p.add(n - 2).cast::<u16>().read_unaligned());
                u64::from(u16::from_le(low)) | u64::from(u16::from_le(high)) << (8 * (n - 2))
            }
            _ => {
                let (low, high) = (p.cast::<u32>().read_unaligned(), p.add(n - 4).cast::<u32>().read_unaligned());
                u64::from(u32::from_le(low)) | u64::from(u32::from_le(high)) << (8 * (n - 4))
            }
        }
    }
}

/// The lowest `n ≤ 8` bytes to memory: two writes that may share some.
///
/// # Safety
/// They are writable.
#[inline(always)]
unsafe fn store_first_bytes(p: *mut u8, bytes: u64, n: usize) {
    // SAFETY: each write ends at byte `n` or before.
    unsafe {
        match n {
            0 => {}
            1 => p.write(bytes as u8),
            2 | 3 => {
                p.cast::<u16>().write_unaligned((bytes as u16).to_le());
                p.add(n - 2).cast::<u16>().write_unaligned(((bytes >> (8 * (n - 2))) as u16).to_le());
            }
            _ => {
                p.cast::<u32>().write_unaligned((bytes as u32).to_le());
                p.add(n - 4).cast::<u32>().write_unaligned(((bytes >> (8 * (n - 4))) as u32).to_le());
            }
        }
    }
}
