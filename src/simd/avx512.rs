//! AVX-512 (F, BW, VL, DQ): sixteen lanes, masks in registers of their own.

#[allow(clippy::wildcard_imports)] // intrinsics carry their level in their names
use core::arch::x86_64::*;

use super::{Isa, Simd};

/// AVX-512 vectors; see [`Simd`].
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

/// The mask of the first `n ≤ 16` lanes.
#[inline(always)]
fn head(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

impl Simd for Avx512 {
    type V = __m512;
    type M = __mmask16;
    const LANES: usize = 16;
    const ISA: Isa = Isa::Avx512;

    // SAFETY (all bodies): the trait's contract gives the CPU features and the pointers' extents.
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_streaming(p: *mut f32, v: __m512) {
        // SAFETY: trait contract.
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m512) {
        // SAFETY: trait contract.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> __m512 {
        // SAFETY: trait contract; masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(head(n), p) }
    }
    #[inline(always)]
    unsafe fn load_strided(p: *const f32, stride: usize) -> __m512 {
        // SAFETY: every lane is readable by the trait's contract.
        unsafe {
            let at = |lane: usize| p.add(lane * stride).read_unaligned();
            let low = _mm256_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
            let high = _mm256_setr_ps(at(8), at(9), at(10), at(11), at(12), at(13), at(14), at(15));
            _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
        }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: __m512, n: usize) {
        // SAFETY: trait contract; masked lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(p, head(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m512) {
        // SAFETY: trait contract.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(_mm512_castps_si512(v))) }
    }
    #[inline(always)]
    unsafe fn load_bytes_partial(p: *const u8, n: usize) -> __m512 {
        // SAFETY: trait contract; masked lanes are not accessed.
        unsafe { _mm512_castsi512_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(head(n), p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bytes_partial(p: *mut u8, v: __m512, n: usize) {
        // SAFETY: trait contract; masked lanes are not accessed.
        unsafe { _mm512_mask_cvtepi32_storeu_epi8(p.cast(), head(n), _mm512_castps_si512(v)) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        // SAFETY: trait contract; a hint, which no address makes fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    unsafe fn split(a: __m512) -> (__m512, __m512) {
        // SAFETY: trait contract.
        unsafe { (_mm512_getmant_ps::<_MM_MANT_NORM_1_2, _MM_MANT_SIGN_ZERO>(a), _mm512_getexp_ps(a)) }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_andnot_ps(_mm512_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn with_sign(a: __m512, sign: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_or_ps(a, _mm512_and_ps(_mm512_set1_ps(-0.0), sign)) }
    }

    #[inline(always)]
    unsafe fn gt(a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: trait contract.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn eq(a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: trait contract.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn is_nan(a: __m512) -> __mmask16 {
        // SAFETY: trait contract.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    unsafe fn eq_bits(a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: trait contract.
        unsafe { _mm512_cmpeq_epi32_mask(_mm512_castps_si512(a), _mm512_castps_si512(b)) }
    }
    #[inline(always)]
    unsafe fn or(a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }
    #[inline(always)]
    unsafe fn and_not(a: __mmask16, b: __mmask16) -> __mmask16 {
        a & !b
    }
    #[inline(always)]
    unsafe fn any(m: __mmask16) -> bool {
        m != 0
    }
    #[inline(always)]
    unsafe fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m512, b: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe { _mm512_xor_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn multiply(a: __m512, b: __m512) -> (__m512, __m512) {
        // SAFETY: trait contract. Products are taken of the even lanes, and of the odd ones moved down.
        unsafe {
            let (a, b) = (_mm512_castps_si512(a), _mm512_castps_si512(b));
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64::<32>(odd));
            let high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd);
            (_mm512_castsi512_ps(low), _mm512_castsi512_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn fraction(a: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe {
            let whole = _mm512_cvtepi32_ps(_mm512_srli_epi32::<8>(_mm512_castps_si512(a)));
            _mm512_mul_ps(whole, _mm512_set1_ps(1.0 / 16_777_216.0))
        }
    }
    #[inline(always)]
    unsafe fn unzip(a: __m512, b: __m512) -> (__m512, __m512) {
        // SAFETY: trait contract.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const f32, src_step: isize, dst: *mut f32, dst_step: usize) {
        // SAFETY: trait contract; this level includes the one below.
        unsafe { super::Avx2::transpose8(src, src_step, dst, dst_step) }
    }
    #[inline(always)]
    unsafe fn swap<const W: usize>(v: __m512) -> __m512 {
        // SAFETY: trait contract.
        unsafe {
            match W {
                1 => _mm512_permute_ps::<0b10_11_00_01>(v),
                2 => _mm512_permute_ps::<0b01_00_11_10>(v),
                4 => _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v),
                _ => _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v),
            }
        }
    }
    #[inline(always)]
    unsafe fn first(v: __m512) -> f32 {
        // SAFETY: trait contract.
        unsafe { _mm512_cvtss_f32(v) }
    }
    #[inline(always)]
    unsafe fn lookup<const FROM: u32>(table: &[f32; 32], v: __m512) -> __m512 {
        // SAFETY: trait contract; the table is two vectors. The permutation reads the five lowest bits.
        unsafe {
            let index = _mm512_srli_epi32::<FROM>(_mm512_castps_si512(v));
            let (low, high) = (_mm512_loadu_ps(table.as_ptr()), _mm512_loadu_ps(table.as_ptr().add(16)));
            _mm512_permutex2var_ps(low, index, high)
        }
    }
}
