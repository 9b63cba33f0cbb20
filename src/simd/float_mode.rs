//! Flush-to-zero for the length of a kernel section.

/// While it lives, denormal results and operands count as zero on this thread (FTZ and DAZ on x86-64); the previous
/// mode comes back on drop, so that callers never notice. On other machines it does nothing.
#[derive(Debug)]
pub struct FlushDenormals {
    #[cfg(target_arch = "x86_64")]
    saved: u32,
}

impl FlushDenormals {
    /// Switches the mode on.
    #[allow(clippy::new_without_default)] // a guard, not a value
    pub fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let saved = mxcsr::read();
            mxcsr::write(saved | mxcsr::FTZ | mxcsr::DAZ);
            Self { saved }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self {}
    }

    /// Runs `body`, which is not ours, in the previous mode.
    pub fn lifted<T>(&self, body: impl FnOnce() -> T) -> T {
        #[cfg(target_arch = "x86_64")]
        {
            struct Again(u32);
            impl Drop for Again {
                fn drop(&mut self) {
                    mxcsr::write(self.0);
                }
            }
            let _again = Again(mxcsr::read());
            mxcsr::write(self.saved);
            body()
        }
        #[cfg(not(target_arch = "x86_64"))]
        body()
    }
}

impl Drop for FlushDenormals {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        mxcsr::write(self.saved);
    }
}

#[cfg(target_arch = "x86_64")]
mod mxcsr {
    use core::arch::asm;

    pub const FTZ: u32 = 1 << 15;
    pub const DAZ: u32 = 1 << 6;

    pub fn read() -> u32 {
        let mut value = 0u32;
        // SAFETY: stores the SSE control register, part of the x86-64 baseline, to a local.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        value
    }

    pub fn write(value: u32) {
        // SAFETY: loads a control word made from one that was read; only FTZ and DAZ differ.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags, readonly)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn denormals_vanish_only_while_the_guard_lives() {
        let tiny = f32::from_bits(1);
        let double = || black_box(black_box(tiny) + black_box(tiny));
        assert!(double() > 0.0);
        if cfg!(target_arch = "x86_64") {
            let guard = FlushDenormals::new();
            assert_eq!(double().to_bits(), 0);
            assert_ne!(guard.lifted(double).to_bits(), 0);
            assert_eq!(double().to_bits(), 0);
            drop(guard);
        }
        assert!(double() > 0.0);
    }
}
