//! Convolution whose result only a maximum pooling reads: lines of it are pooled while they are in cache.

use std::ops::Range;

use super::calls::{Operands, Results, Taken};
use super::indirect::Indirect;
use super::pack::Problem;
use super::winograd::Product;
use super::{ByChannels, Epilogue, Geometry};
use crate::kernels::pool::{MaxLines, PoolGeometry};
use crate::kernels::{Kernel, share, tasks_for};
use crate::simd::Isa;
use crate::tensor::{Args, Slot};

/// Bytes of lines that a task holds, and most of them where windows need more: they share the second-level cache with the
/// weights and a band of the source.
const ROOM: [usize; 2] = [256 << 10, 512 << 10];
/// Tasks that the pictures of a batch are cut into, where these are fewer.
const PARTS: usize = 16;
/// With fewer tasks than that, work that is worth them stays in separate steps, which cut it by channels, too.
const FEW: usize = 8;

/// Convolution and maximum pooling. Operands: input, packed weights (as [`Forward`](super::Forward) or
/// [`Product`] has them), those of the epilogue, which adds no tensor, pooled output, rows of results from the upper parts
/// of windows (if [`seams_len`](Self::seams_len) is not 0).
///
/// A task computes a stretch of an image's lines, some at a time, behind those that windows still wait for, and pools what is
/// complete. Where a window reaches into the next task's lines, the part above is pooled to a place of its own, and taken
/// into the result in a second phase: no line is computed twice.
#[derive(Debug)]
pub struct Pooled {
    inner: Inner,
    geometry: Geometry,
    epilogue: Epilogue,
    pool: MaxLines,
    /// The lines of each row of windows.
    windows: Vec<Range<usize>>,
    /// Lines that are computed together: stretches begin with the first of them.
    step: usize,
    /// Stretches that an image is cut into.
    parts: usize,
    /// Lines that a task has room for.
    room: usize,
    /// Windows that reach into another stretch.
    seams: Vec<usize>,
}

/// What computes lines.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one per step
enum Inner {
    Direct(Indirect),
    Tiles(Product),
}

impl Pooled {
    /// Direct convolution of this geometry with the pooling of its result; `None` where separate steps are better.
    pub fn new(isa: Isa, geometry: Geometry, pooling: PoolGeometry, epilogue: Epilogue) -> Option<Self> {
        let problem = Problem::forward(isa, geometry);
        if !Indirect::stays(&problem) {
            return None;
        }
        let inner = |room| Inner::Direct(Indirect::by_lines(problem, [geometry.oh, geometry.ow], geometry.oc, room));
        Self::with(isa, (geometry, epilogue), pooling, 1, inner)
    }

    /// The same by transformed tiles.
    pub fn by_tiles(isa: Isa, geometry: Geometry, pooling: PoolGeometry, epilogue: Epilogue) -> Option<Self> {
        let product = Product::forward(isa, &geometry, epilogue, true);
        let step = product.lines_at_a_time()?;
        Self::with(isa, (geometry, epilogue), pooling, step, |_| Inner::Tiles(product))
    }

    /// By what computes `step` lines at a time, made for the lines that there is room for.
    fn with(
        isa: Isa,
        (geometry, epilogue): (Geometry, Epilogue),
        pooling: PoolGeometry,
        step: usize,
        inner: impl FnOnce(usize) -> Inner,
    ) -> Option<Self> {
        let pool = MaxLines::new(isa, pooling)?;
        let windows = pool.windows();
        let (lines, longest) = (windows.last()?.end, windows.iter().map(Range::len).max()?);
        let work = usize::try_from(geometry.flops() / 2).unwrap_or(usize::MAX);
        if epilogue.add || work == 0 {
            return None;
        }
        let line = geometry.ow * geometry.oc * size_of::<f32>();
        let room = (ROOM[0] / line).max(2 * longest).max(longest + step);
        // No stretch is shorter than a window, so that windows reach into one neighbour at most.
        let wanted = PARTS.min(tasks_for(work)).div_ceil(geometry.n).min(lines / longest).max(1);
        let holds = |parts: usize| (0..parts).all(|part| stretch(part, parts, lines, step).len() >= longest);
        let parts = (1..=wanted).rev().find(|&parts| holds(parts)).unwrap_or(1);
        if room.saturating_mul(line) > ROOM[1] || geometry.n * parts < FEW.min(tasks_for(work)) {
            return None;
        }
        let room = room.min(lines.div_ceil(step).div_ceil(parts) * step);
        let mut this =
            Self { inner: inner(room), geometry, epilogue, pool, windows, step, parts, room, seams: Vec::new() };
        let crosses = |window: &Range<usize>| {
            (1..parts)
                .map(|part| stretch(part, parts, lines, step).start)
                .any(|line| window.start < line && line < window.end)
        };
        this.seams = (0..this.windows.len()).filter(|&row| crosses(&this.windows[row])).collect();
        Some(this)
    }

    /// Floats of the operand for the upper parts of windows.
    pub fn seams_len(&self) -> usize {
        self.geometry.n * self.seams.len() * self.pool.row_len()
    }

    /// Floats of a line of the convolution's results.
    fn line(&self) -> usize {
        self.geometry.ow * self.geometry.oc
    }

    /// Lines that some window reads.
    fn lines(&self) -> usize {
        self.windows.last().map_or(0, |window| window.end)
    }

    /// Tasks of the first phase.
    fn stretches(&self) -> usize {
        self.geometry.n * self.parts
    }

    /// Bytes of the lines in scratch; the last tiles may reach beyond them.
    fn held(&self) -> usize {
        (((self.room + self.step - 1) * self.line() + MaxLines::OVERRUN) * size_of::<f32>()).next_multiple_of(64)
    }

    /// Takes the upper parts of a row of windows into its results.
    ///
    /// # Safety
    /// As for [`Kernel::run`]; `task` counts images and seams.
    unsafe fn join(&self, task: usize, args: &Args<'_>) {
        let (image, seam) = (task / self.seams.len(), task % self.seams.len());
        let (result, len) = (2 + self.epilogue.operands(), self.pool.row_len());
        let above = args.src(result + 1).at(task * len, len);
        let below = args.dst(result).at((image * self.windows.len() + self.seams[seam]) * len, len);
        // SAFETY: the row belongs to this task; both parts were written in the phase before.
        unsafe { self.pool.join(above, below) };
    }
}

/// One of `parts` stretches of lines, `step` of which are computed together.
fn stretch(part: usize, parts: usize, lines: usize, step: usize) -> Range<usize> {
    let own = share(part, parts, lines.div_ceil(step));
    own.start * step..lines.min(own.end * step)
}

impl Kernel for Pooled {
    fn name(&self) -> String {
        match &self.inner {
            Inner::Direct(inner) => inner.name(&format!("conv_direct{}_max_pool", self.epilogue.name())),
            Inner::Tiles(inner) => inner.name_with("_max_pool"),
        }
    }

    fn tasks(&self) -> usize {
        self.stretches() + self.geometry.n * self.seams.len()
    }

    fn phases(&self) -> usize {
        if self.seams.is_empty() { 1 } else { 2 }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        if number == 0 { 0..self.stretches() } else { self.stretches()..self.tasks() }
    }

    fn scratch(&self) -> usize {
        self.held()
            + match &self.inner {
                Inner::Direct(inner) => inner.scratch(),
                Inner::Tiles(inner) => inner.scratch(),
            }
    }

    fn flops(&self) -> u64 {
        self.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        if task >= self.stretches() {
            // SAFETY: the caller's word.
            return unsafe { self.join(task - self.stretches(), args) };
        }
        let (image, part) = (task / self.parts, task % self.parts);
        let (line, row, rows) = (self.line(), self.pool.row_len(), self.windows.len());
        let own = stretch(part, self.parts, self.lines(), self.step);
        // Windows that end in this stretch, and those that begin in it and end in the next.
        let whole = [own.start, own.end].map(|border| self.windows.partition_point(|window| window.end <= border));
        let begun = self.windows.partition_point(|window| window.start < own.end);
        let (result, geometry) = (2 + self.epilogue.operands(), &self.geometry);
        let finish = self.epilogue.finish(args, geometry.oc, geometry.n * rows * row);
        let held = [Slot::new(scratch, self.held())];
        let (held_lines, own_scratch) = (scratch.cast::<f32>(), scratch.wrapping_add(self.held()));
        let (mut first, mut done, mut next) = (own.start, own.start, whole[0]);
        while done < own.end {
            // As far as there is room, to where a window ends.
            let most = first + self.room;
            let windows = self.windows.partition_point(|window| window.end <= most);
            let complete = self.windows[..windows].last().map_or(0, |window| window.end);
            let end = match most {
                _ if most >= own.end => own.end,
                _ if complete > done && self.step == 1 => complete,
                _ => most / self.step * self.step,
            };
            let before = (image * geometry.oh + first) * line;
            // SAFETY: the lines from `first` on have room for those to `end`; what lies behind is the convolution's scratch.
            // Rows of results belong to the stretch in which their windows end, seams to the one before.
            unsafe {
                let plane = held_lines.wrapping_sub(first * line);
                match &self.inner {
                    Inner::Direct(inner) => {
                        let operands = Operands {
                            src: args.src(0),
                            copy: None,
                            packed: args.src(1),
                            finish,
                            activation: self.epilogue.later(),
                            results: Results { view: Args::new(&held).dst(0), before },
                            taken: Taken::Nothing,
                        };
                        inner.lines(image, done..end, &operands, own_scratch);
                    }
                    Inner::Tiles(inner) => {
                        let operands = [args.src(0).at(0, geometry.src_len()), args.src(1).at(0, inner.packed_len())];
                        let dst = plane.wrapping_sub(image * geometry.oh * line);
                        inner.lines(image, done..end, operands, (finish, dst), own_scratch.cast());
                    }
                }
                let plane = plane.cast_const();
                done = end;
                while next < whole[1] && self.windows[next].end <= done {
                    let window = self.windows[next].start.max(own.start)..self.windows[next].end;
                    let start = image * rows;
                    self.pool.row(&window, plane, args.dst(result), (start + next) * row, (start + whole[1]) * row);
                    next += 1;
                }
                if done < own.end {
                    let kept = self.windows[next].start.clamp(first, done);
                    std::ptr::copy(held_lines.add((kept - first) * line), held_lines, (done - kept) * line);
                    first = kept;
                } else {
                    for seam in whole[1]..begun {
                        let number = image * self.seams.len() + self.seams.partition_point(|&row| row < seam);
                        let window = self.windows[seam].start..own.end;
                        self.pool.row(&window, plane, args.dst(result + 1), number * row, (number + 1) * row);
                    }
                }
            }
        }
    }
}
