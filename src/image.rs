//! Images before they meet a network: resizing. Shapes are checked and memory is had here; the kernels compute.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::arena::{give_output, take_output};
use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::kernels::image::{Horizontal, Interpolation, Taps, Vertical};
use crate::parallel::{Attendance, region};
use crate::program::{InputView, OutputBuf};
use crate::tensor::{AlignedBuf, Args, DType, Slot, shape_text, volume};

/// The size of the results, and the part of them that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Height and width of the whole image.
    pub size: [usize; 2],
    /// Rows and columns that are computed.
    pub window: [Range<usize>; 2],
}

/// Memory between the passes, given back at the end.
struct Middle(Option<AlignedBuf>);

impl Drop for Middle {
    fn drop(&mut self) {
        if let Some(buffer) = self.0.take() {
            give_output(buffer);
        }
    }
}

/// Resizes images (n, h, w, c) of bytes, as Pillow does it since its version 13, to the window of a size: (n, rows,
/// columns, c).
///
/// A batch is shared by a team of threads; a single image stays on the calling thread, for where pictures are read one
/// by one, several threads read at once.
///
/// # Safety
/// The view's data is readable for the whole call.
pub unsafe fn resize(x: &InputView<'_>, target: &Target, interpolation: Interpolation) -> Result<OutputBuf> {
    let src = check(x)?;
    let [rows, columns] = &target.window;
    for (name, size, window) in [("height", target.size[0], rows), ("width", target.size[1], columns)] {
        if !(1..=Taps::MAX_SIZE).contains(&size) {
            return Err(Error::Value(format!("{name} expects 1 to {}, received {size}", Taps::MAX_SIZE)));
        }
        if window.start > window.end || window.end > size {
            return Err(Error::Value(format!("window expects a range inside of {name} {size}, received {window:?}")));
        }
    }
    let shape = [src[0], rows.len(), columns.len(), src[3]];
    let bytes = volume(&shape)?;
    // The memory for the results first: it is the largest, and the tables would be made in vain.
    let buffer = take_output(bytes)?;
    let output = OutputBuf { buffer, shape: shape.into(), dtype: DType::U8 };
    if bytes > 0 {
        // SAFETY: the caller's word.
        if let Err(error) = unsafe { fill(x.data, src, target, interpolation, &output) } {
            give_output(output.buffer);
            return Err(error);
        }
    }
    Ok(output)
}

fn check(x: &InputView<'_>) -> Result<[usize; 4]> {
    if x.dtype != DType::U8 {
        return Err(Error::Type(format!("x expects uint8, received {}", x.dtype.name())));
    }
    let Ok(shape) = <[usize; 4]>::try_from(x.shape) else {
        return Err(Error::Shape(format!("x expects 4 dimensions (N, H, W, C), received {}", shape_text(x.shape))));
    };
    let sizes = 1..=Taps::MAX_SIZE;
    if !(sizes.contains(&shape[1]) && sizes.contains(&shape[2])) || shape[3] == 0 {
        return Err(Error::Shape(format!(
            "x expects height and width from 1 to {} and at least 1 channel, received {}",
            Taps::MAX_SIZE,
            shape_text(&shape)
        )));
    }
    Ok(shape)
}

/// # Safety
/// `src` points to images of `shape`; the output has the window's size.
unsafe fn fill(
    src: *const u8,
    shape: [usize; 4],
    target: &Target,
    interpolation: Interpolation,
    output: &OutputBuf,
) -> Result<()> {
    let [n, ih, iw, c] = shape;
    let isa = crate::config::isa()?;
    let down = Taps::new(interpolation, ih, target.size[0], target.window[0].clone())?;
    let across = Taps::new(interpolation, iw, target.size[1], target.window[1].clone())?;
    let [oh, ow] = [down.len(), across.len()];
    let rows = down.span();
    // The order matters where the first pass has rounded, or cut off at 0 and 255: it is Pillow's.
    let vertical_first = ih > target.size[0] && ih - target.size[0] > 2 * iw.saturating_sub(target.size[1]);
    let middle_bytes = volume(&if vertical_first { [n, oh, iw, c] } else { [n, rows.len(), ow, c] })?;
    let middle = Middle(Some(take_output(middle_bytes)?));
    let (horizontal, vertical) = if vertical_first {
        (Horizontal::new(isa, across, n, [oh, iw, c], 0, oh), Vertical::new(isa, down, n, 0, ih, iw * c))
    } else {
        let vertical = Vertical::new(isa, down, n, rows.start, rows.len(), ow * c);
        (Horizontal::new(isa, across, n, [ih, iw, c], rows.start, rows.len()), vertical)
    };
    let passes: [&dyn Kernel; 2] = if vertical_first { [&vertical, &horizontal] } else { [&horizontal, &vertical] };
    let slots = [
        Slot::new(src.cast_mut(), volume(&shape)?),
        Slot::new(middle.0.as_ref().map_or(std::ptr::null_mut(), AlignedBuf::ptr), middle_bytes),
        Slot::new(output.buffer.ptr(), volume(&output.shape)?),
    ];
    let threads = if n > 1 { crate::config::threads()?.0 } else { 1 };
    let panicked = AtomicBool::new(false);
    region(threads, Attendance::All, &|member| {
        for (phase, (kernel, operands)) in passes.into_iter().zip(slots.windows(2)).enumerate() {
            let work = || {
                // SAFETY: all three live during the region; a pass writes memory that nobody else has.
                let args = unsafe { Args::new(operands) };
                for task in member.tasks(phase, kernel.tasks()) {
                    // SAFETY: a task of this kernel, which takes no scratch; the CPU has the level.
                    unsafe { kernel.run(task, &args, std::ptr::null_mut()) };
                }
            };
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                panicked.store(true, Ordering::Relaxed);
            }
            member.wait();
        }
    });
    if panicked.into_inner() {
        return Err(Error::Internal("resize panicked".into()));
    }
    Ok(())
}
