//! `tanh` by a table of polynomials, for levels that look numbers up in registers.
//!
//! The intervals are quarters of the octaves from 1/32 to 8; the first goes on to 0 and the last to where `tanh` is 1. In
//! each, `tanh a = tanh c + r·(p₁ + r·(p₂ + …))` with `r = a − c`: of the centres that the interval offers, `c` is the one
//! whose `tanh` is closest to a float, and the polynomial is the one of least relative error (least squares at Chebyshev's
//! points in double precision). In the first interval `c` is 0, `p₁` is 1 and the even coefficients are 0.

use super::Simd;

/// The numbers of all intervals: that of `a` stands where the five bits of its pattern from bit 21 on say, the lowest
/// of the exponent and the two highest of the mantissa.
#[repr(align(64))]
struct Table([f32; 32]);

const fn table(bits: [u32; 32]) -> Table {
    let mut numbers = [0.0; 32];
    let mut i = 0;
    while i < 32 {
        numbers[i] = f32::from_bits(bits[i]);
        i += 1;
    }
    Table(numbers)
}

/// The centres `c`.
static CENTRES: Table = table([
    0x400f_f913,
    0x402f_f82f,
    0x404f_f5cc,
    0x4070_0b93,
    0x4090_0269,
    0x40af_f45f,
    0x40cf_f794,
    0x4102_5aae,
    0x0000_0000,
    0x3d2f_ff18,
    0x3d4f_f680,
    0x3d6f_ffa4,
    0x3d90_0619,
    0x3daf_f99a,
    0x3dcf_fef3,
    0x3df0_021a,
    0x3e0f_f907,
    0x3e30_0350,
    0x3e50_0b92,
    0x3e70_0b9c,
    0x3e8f_fb29,
    0x3eb0_0034,
    0x3ecf_f7d5,
    0x3ef0_0b3f,
    0x3f0f_f9d1,
    0x3f2f_fe3e,
    0x3f4f_f7c5,
    0x3f6f_fcad,
    0x3f90_0aae,
    0x3faf_f78f,
    0x3fd0_0924,
    0x3fef_f4c0,
]);

/// Their `tanh`.
static VALUES: Table = table([
    0x3f7a_5eb7,
    0x3f7d_ea03,
    0x3f7f_3afe,
    0x3f7f_b7a6,
    0x3f7f_efd6,
    0x3f7f_fdce,
    0x3f7f_ffb4,
    0x3f7f_fffd,
    0x0000_0000,
    0x3d2f_e363,
    0x3d4f_c8cd,
    0x3d6f_b96d,
    0x3d8f_c970,
    0x3daf_8b0f,
    0x3dcf_48a1,
    0x3dee_ea5c,
    0x3e0f_0812,
    0x3e2e_4cbb,
    0x3e4d_3aa9,
    0x3e6b_be2d,
    0x3e8c_4d53,
    0x3ea9_6191,
    0x3ec5_3cfc,
    0x3edf_e04e,
    0x3f02_7fa4,
    0x3f18_aace,
    0x3f2b_bff9,
    0x3f3b_ea94,
    0x3f4f_35b9,
    0x3f61_3882,
    0x3f6c_e61e,
    0x3f74_3a4a,
]);

/// The coefficients `p₅` to `p₁`.
static COEFFICIENTS: [Table; 5] = [
    table([
        0x3b82_5977,
        0x3afa_ff58,
        0x3a49_f50c,
        0x3999_78b4,
        0x388f_4358,
        0x371b_9df7,
        0x35a8_97d2,
        0x336e_efef,
        0x3e08_6abf,
        0x3f29_985d,
        0x3da7_57d8,
        0x3c2d_d285,
        0x3dfe_a32d,
        0x3de4_0bcd,
        0x3dde_f9f9,
        0x3ddd_4d7a,
        0x3de6_8679,
        0x3dd1_4c8a,
        0x3db9_8077,
        0x3da2_1493,
        0x3d72_98e9,
        0x3d03_490c,
        0x3bc5_ad01,
        0xbc8b_cb88,
        0xbd31_8074,
        0xbd7c_0a54,
        0xbd80_5fcc,
        0xbd59_7229,
        0xbd03_9c15,
        0xbc1c_570a,
        0x3ab5_c408,
        0x3b96_c016,
    ]),
    table([
        0xbc4b_1144,
        0xbba8_d4a3,
        0xbb01_c927,
        0xba41_869a,
        0xb934_3ddf,
        0xb7c4_310d,
        0xb654_4df3,
        0xb42e_d820,
        0x0000_0000,
        0x3d24_485a,
        0x3d03_a636,
        0x3d10_06b4,
        0x3d3c_e085,
        0x3d63_1846,
        0x3d85_4528,
        0x3d98_b2f9,
        0x3db5_91dc,
        0x3dd7_d1ce,
        0x3df6_b247,
        0x3e09_0305,
        0x3e19_6f3e,
        0x3e27_fff4,
        0x3e2e_0332,
        0x3e2c_1d5b,
        0x3e1c_f650,
        0x3df4_a46d,
        0x3da3_b54f,
        0x3d31_a541,
        0x3b6d_34cd,
        0xbcac_d9d0,
        0xbccd_d47e,
        0xbcaa_ddec,
    ]),
    table([
        0x3cde_12f2,
        0x3c2c_f369,
        0x3b81_f48d,
        0x3ac0_2d4f,
        0x39ac_149e,
        0x383b_24e6,
        0x36ca_78fc,
        0x3468_09ce,
        0xbeaa_aaa9,
        0xbea9_6a30,
        0xbea8_e9ad,
        0xbea8_5549,
        0xbea7_505f,
        0xbea5_ada0,
        0xbea3_ba05,
        0xbea1_787b,
        0xbe9d_8aea,
        0xbe97_514c,
        0xbe90_124c,
        0xbe87_ec6a,
        0xbe74_954e,
        0xbe4c_2c03,
        0xbe21_441d,
        0xbdeb_7186,
        0xbd5e_c324,
        0x3c6b_7edb,
        0x3d83_8162,
        0x3dc2_15c3,
        0x3de3_4a35,
        0x3dcb_f7b7,
        0x3d99_e0f3,
        0x3d54_4c17,
    ]),
    table([
        0xbd2e_4185,
        0xbc83_dcbc,
        0xbbc4_1b54,
        0xbb10_73f2,
        0xba01_1abf,
        0xb88c_5164,
        0xb717_cf37,
        0xb49a_f552,
        0x0000_0000,
        0xbd2f_9097,
        0xbd4f_3fe3,
        0xbd6e_e725,
        0xbd8f_13fe,
        0xbdae_40de,
        0xbdcd_2902,
        0xbdeb_a9f9,
        0xbe0c_3daf,
        0xbe29_3fef,
        0xbe44_fc4b,
        0xbe5f_3f9c,
        0xbe81_c440,
        0xbe96_d7eb,
        0xbea7_f7ae,
        0xbeb5_127e,
        0xbec1_2cf0,
        0xbec4_beb8,
        0xbebc_e39e,
        0xbead_52f5,
        0xbe8e_e9df,
        0xbe4b_9b7f,
        0xbe08_21d8,
        0xbdaf_904d,
    ]),
    table([
        0x3d32_2df8,
        0x3c84_f406,
        0x3bc4_b634,
        0x3b10_9f92,
        0x3a01_4cae,
        0x388c_8001,
        0x3718_00a1,
        0x34b4_bcf3,
        0x3f80_0000,
        0x3f7f_8727,
        0x3f7f_575a,
        0x3f7f_1f84,
        0x3f7e_bcf5,
        0x3f7e_1e82,
        0x3f7d_60a6,
        0x3f7c_841e,
        0x3f7b_0160,
        0x3f78_953a,
        0x3f75_b790,
        0x3f72_6e95,
        0x3f6c_c6d5,
        0x3f63_fb82,
        0x3f5a_0245,
        0x3f4f_0ddd,
        0x3f3d_7a1e,
        0x3f24_f4b9,
        0x3f0c_c5f9,
        0x3eec_1eea,
        0x3eb0_9027,
        0x3e67_6e7c,
        0x3e13_1ba7,
        0x3db8_06ad,
    ]),
];

/// A number of the first interval, and one of the last.
const ENDS: [f32; 2] = [1.0 / 32.0, 7.5];

/// `tanh x` within 1 ulp, odd to the bit, monotonic; ±0 stay, ±1 from ±9.02 on.
///
/// # Safety
/// The CPU has the level's features.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // iterators would not inherit the features of the caller's shell
pub unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's contract is the trait's.
    unsafe {
        // A NaN as second operand passes through `min`, and through the sum whatever it finds in the tables.
        let a = S::min(S::splat(9.25), S::abs(x));
        let interval = S::min(S::splat(ENDS[1]), S::max(S::splat(ENDS[0]), a));
        let r = S::sub(a, S::lookup::<21>(&CENTRES.0, interval));
        let mut sum = S::lookup::<21>(&COEFFICIENTS[0].0, interval);
        for i in 1..5 {
            sum = S::fma(sum, r, S::lookup::<21>(&COEFFICIENTS[i].0, interval));
        }
        S::with_sign(S::fma(sum, r, S::lookup::<21>(&VALUES.0, interval)), x)
    }
}
