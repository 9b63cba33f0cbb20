//! Copies between strided tensors: transposed, sliced, bordered, put side by side.

mod axes;
mod rows;
mod tiles;

pub use axes::Axis;
pub(crate) use rows::copy;

use super::Kernel;
use crate::simd::Isa;
use crate::tensor::Args;

/// Elements of a box of the destination, in the source's order, and a fill value where the source has none. Operands:
/// `src`, `dst` (floats; different memory).
///
/// Values move without changing a bit. Every element of the box belongs to one task, which copies or fills it.
#[derive(Debug, Clone)]
pub struct StridedCopy {
    isa: Isa,
    form: Form,
    elements: usize,
    /// Floats before the element that the axes start from, and the stretch that is read around it.
    src_first: usize,
    read: Option<(usize, usize)>,
    /// Floats before the box in the destination, and the stretch from its first to its last element.
    dst_first: usize,
    written: usize,
}

#[derive(Debug, Clone)]
enum Form {
    Rows(rows::Rows),
    Tiles(tiles::Tiles),
}

impl StridedCopy {
    /// The box whose axes, outermost first, start at float `src_first` of the source and `dst_first` of the
    /// destination; different elements of the box are different floats.
    pub fn new(isa: Isa, axes: &[Axis], src_first: usize, dst_first: usize, fill: f32) -> Self {
        let elements = axes.iter().map(|axis| axis.size).product();
        let collapsed = if elements == 0 { vec![Axis::dense(0, 1, 1)] } else { axes::collapse(axes) };
        let read = axes::extent(&collapsed).filter(|_| elements > 0).map(|(low, high)| {
            let start = src_first.checked_add_signed(low).expect("a copy reads inside its source");
            (start, (high - low) as usize + 1)
        });
        let written = collapsed.iter().map(|axis| axis.dst_stride * axis.size.saturating_sub(1)).sum::<usize>() + 1;
        let form = match tiles::Tiles::new(&collapsed) {
            Some(tiles) => Form::Tiles(tiles),
            None => Form::Rows(rows::Rows::new(&collapsed, fill)),
        };
        Self { isa, form, elements, src_first, read, dst_first, written: if elements == 0 { 0 } else { written } }
    }
}

impl Kernel for StridedCopy {
    fn name(&self) -> String {
        match self.form {
            Form::Rows(_) => "strided_copy_rows".to_owned(),
            Form::Tiles(_) => format!("strided_copy_tiles_{}", self.isa.name()),
        }
    }

    fn tasks(&self) -> usize {
        match &self.form {
            Form::Rows(rows) => rows.tasks(),
            Form::Tiles(tiles) => tiles.tasks(),
        }
    }

    fn flops(&self) -> u64 {
        self.elements as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let src = match self.read {
            Some((start, count)) => {
                args.src::<f32>(0).at(start, count).wrapping_sub(start).wrapping_add(self.src_first)
            }
            None => std::ptr::null(),
        };
        let dst = args.dst::<f32>(1).at(self.dst_first, self.written);
        // SAFETY: the operands hold the stretches that the axes span; the task's elements are its own.
        unsafe {
            match &self.form {
                Form::Rows(rows) => rows.run(task, src, dst),
                Form::Tiles(tiles) => tiles.run(self.isa, task, src, dst),
            }
        }
    }
}

/// Where element number `index` of some axes begins, as floats from both sides' first elements; the source's place is
/// `None` if the element is filled.
fn place(axes: &[Axis], mut index: usize) -> (Option<isize>, usize) {
    let (mut src, mut dst) = (Some(0), 0);
    for axis in axes.iter().rev() {
        let at = index % axis.size;
        index /= axis.size;
        dst += at * axis.dst_stride;
        src = src.zip(axis.source(at)).map(|(src, at)| src + at as isize * axis.src_stride);
    }
    (src, dst)
}
