//! From one generic body to one function per instruction-set level.

/// Defines a function that runs a generic body for the level given as its first argument.
///
/// ```ignore
/// multiversion! {
///     /// Docs.
///     pub fn scale(src: *const f32, dst: *mut f32, n: usize) = scale_body;
/// }
/// // scale(isa, src, dst, n) calls scale_body::<Portable | Avx2 | Avx512>(src, dst, n)
/// ```
/// The body is `#[inline(always)] unsafe fn body<S: Simd>(…)`; const parameters of the body follow the level:
/// `= body, [3, 4]` calls `body::<S, 3, 4>`. It is compiled once inside a shell with each level's target features.
#[macro_export]
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident $(, [$($param:tt),*])?;) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// The CPU has `isa`; the pointers are as the body demands.
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name(isa: $crate::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this shell has the features; the rest is the caller's word.
                unsafe { $body::<$crate::simd::Avx2 $($(, $param)*)?>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: as above.
                unsafe { $body::<$crate::simd::Avx512 $($(, $param)*)?>($($arg),*) }
            }
            // SAFETY: the caller vouches for the level and the pointers.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx512 => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::simd::Isa::Avx2 => avx2($($arg),*),
                    _ => $body::<$crate::simd::Portable $($(, $param)*)?>($($arg),*),
                }
            }
        }
    };
}
pub use crate::multiversion;
