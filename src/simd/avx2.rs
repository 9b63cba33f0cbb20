//! AVX2 with FMA: eight lanes.

#[allow(clippy::wildcard_imports)] // intrinsics carry their level in their names
use core::arch::x86_64::*;

use super::{Isa, Simd};

/// AVX2 vectors; see [`Simd`].
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

/// Sixteen ones and zeros; eight of them from `8 − n` on select the first `n` lanes.
const WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The mask of the first `n ≤ 8` lanes.
#[inline(always)]
unsafe fn head(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: `8 − n ..` has at least eight of the sixteen entries.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast()) }
}

/// Four floats of a row beside four of the row that is four times `step` further.
///
/// # Safety
/// Both are readable.
#[inline(always)]
unsafe fn half(row: *const f32, step: isize) -> __m256 {
    // SAFETY: the caller's word.
    unsafe {
        let (low, high) = (_mm_loadu_ps(row), _mm_loadu_ps(row.offset(4 * step)));
        _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(low), high)
    }
}

impl Simd for Avx2 {
    type V = __m256;
    type M = __m256;
    const LANES: usize = 8;
    const ISA: Isa = Isa::Avx2;

    // SAFETY (all bodies): the trait's contract gives the CPU features and the pointers' extents.
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn splat_i32(x: i32) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_castsi256_ps(_mm256_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_streaming(p: *mut f32, v: __m256) {
        // SAFETY: trait contract.
        unsafe { _mm256_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: __m256) {
        // SAFETY: trait contract.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> __m256 {
        // SAFETY: trait contract; masked lanes are not accessed.
        unsafe { _mm256_maskload_ps(p, head(n)) }
    }
    #[inline(always)]
    unsafe fn load_strided(p: *const f32, stride: usize) -> __m256 {
        // SAFETY: every lane is readable by the trait's contract.
        unsafe {
            let at = |lane: usize| p.add(lane * stride).read_unaligned();
            _mm256_setr_ps(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7))
        }
    }
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, v: __m256, n: usize) {
        // SAFETY: trait contract; masked lanes are not accessed.
        unsafe { _mm256_maskstore_ps(p, head(n), v) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> __m256 {
        // SAFETY: trait contract: eight readable bytes.
        unsafe { _mm256_castsi256_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: __m256) {
        // SAFETY: trait contract: eight writable bytes. Narrowed by saturation, which changes nothing below 256.
        unsafe {
            let v = _mm256_castps_si256(v);
            let words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
        }
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
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn pow2(n: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }
    #[inline(always)]
    unsafe fn split(a: __m256) -> (__m256, __m256) {
        // SAFETY: trait contract.
        unsafe {
            let (one, fraction) = (_mm256_set1_ps(1.0), _mm256_castsi256_ps(_mm256_set1_epi32(0x007F_FFFF)));
            let exponent = _mm256_cvtepi32_ps(_mm256_srli_epi32::<23>(_mm256_castps_si256(a)));
            (_mm256_or_ps(_mm256_and_ps(a, fraction), one), _mm256_sub_ps(exponent, _mm256_set1_ps(127.0)))
        }
    }
    #[inline(always)]
    unsafe fn sqrt(a: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    unsafe fn abs(a: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    unsafe fn with_sign(a: __m256, sign: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_or_ps(a, _mm256_and_ps(_mm256_set1_ps(-0.0), sign)) }
    }

    #[inline(always)]
    unsafe fn gt(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn eq(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn is_nan(a: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    unsafe fn eq_bits(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b))) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_or_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn and_not(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_andnot_ps(b, a) }
    }
    #[inline(always)]
    unsafe fn any(m: __m256) -> bool {
        // SAFETY: trait contract.
        unsafe { _mm256_movemask_ps(m) != 0 }
    }
    #[inline(always)]
    unsafe fn select(m: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_blendv_ps(b, a, m) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m256, b: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe { _mm256_xor_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn multiply(a: __m256, b: __m256) -> (__m256, __m256) {
        // SAFETY: trait contract. Products are taken of the even lanes, and of the odd ones moved down.
        unsafe {
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let even = _mm256_mul_epu32(a, b);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
            let low = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
            let high = _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd);
            (_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    unsafe fn fraction(a: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe {
            let whole = _mm256_cvtepi32_ps(_mm256_srli_epi32::<8>(_mm256_castps_si256(a)));
            _mm256_mul_ps(whole, _mm256_set1_ps(1.0 / 16_777_216.0))
        }
    }
    #[inline(always)]
    unsafe fn unzip(a: __m256, b: __m256) -> (__m256, __m256) {
        // SAFETY: trait contract.
        unsafe {
            // By quarters: a, b, a, b.
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            (
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(even)),
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(odd)),
            )
        }
    }
    #[inline(always)]
    unsafe fn transpose8(src: *const f32, src_step: isize, dst: *mut f32, dst_step: usize) {
        // SAFETY: trait contract: eight rows of eight floats on both sides.
        unsafe {
            for right in [0, 4] {
                let src = src.add(right);
                let (a, b) = (half(src, src_step), half(src.offset(src_step), src_step));
                let (c, d) = (half(src.offset(2 * src_step), src_step), half(src.offset(3 * src_step), src_step));
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let dst = dst.add(right * dst_step);
                _mm256_storeu_ps(dst, _mm256_shuffle_ps::<0x44>(ab, cd));
                _mm256_storeu_ps(dst.add(dst_step), _mm256_shuffle_ps::<0xEE>(ab, cd));
                _mm256_storeu_ps(dst.add(2 * dst_step), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
                _mm256_storeu_ps(dst.add(3 * dst_step), _mm256_shuffle_ps::<0xEE>(ab_high, cd_high));
            }
        }
    }
    #[inline(always)]
    unsafe fn swap<const W: usize>(v: __m256) -> __m256 {
        // SAFETY: trait contract.
        unsafe {
            match W {
                1 => _mm256_permute_ps::<0b10_11_00_01>(v),
                2 => _mm256_permute_ps::<0b01_00_11_10>(v),
                _ => _mm256_permute2f128_ps::<1>(v, v),
            }
        }
    }
    #[inline(always)]
    unsafe fn first(v: __m256) -> f32 {
        // SAFETY: trait contract.
        unsafe { _mm256_cvtss_f32(v) }
    }
}
