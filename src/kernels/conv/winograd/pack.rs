//! Weights into positions, in the order in which the products read them.

use super::transform::{IN, SMALL, Transform, Weights, WeightsStrided, square};
use super::{Geometry, Kind, Task};
use crate::kernels::Kernel;
use crate::simd::{Isa, Simd, dispatch::multiversion};
use crate::tensor::Args;
use std::ops::Range;

/// Source channels of one task.
const CHUNK: usize = 32;

/// The packed copy: panels of `nr` result channels; in a panel, for every position, a row of `nr` numbers per source
/// channel, zero beyond the last result channel.
#[derive(Debug, Clone, Copy)]
pub struct Panels {
    pub nr: usize,
    pub count: usize,
    depth: usize,
    positions: usize,
}

impl Panels {
    pub fn new(isa: Isa, task: &Task) -> Self {
        let nr = 2 * isa.lanes();
        Self { nr, count: task.dc.div_ceil(nr), depth: task.sc, positions: task.weights() }
    }

    /// The same for some source channels only.
    pub fn with_depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    /// Floats from one position to the next: planes do not start at the same place of the cache.
    fn plane(&self) -> usize {
        self.depth * self.nr + 16
    }

    /// Where the rows of a position start.
    pub fn start(&self, panel: usize, position: usize) -> usize {
        (panel * self.positions + position) * self.plane()
    }

    /// Floats of a panel.
    pub fn panel_len(&self) -> usize {
        self.positions * self.plane()
    }

    pub fn floats(&self) -> usize {
        self.count * self.panel_len()
    }
}

/// Transforms weights for [`Product`](super::Product). Operands: weights, packed.
#[derive(Debug)]
pub struct Pack {
    isa: Isa,
    task: Task,
    panels: Panels,
}

impl Pack {
    /// Packing for the convolution of this geometry.
    pub fn forward(isa: Isa, geometry: &Geometry) -> Self {
        Self::new(isa, Task::forward(geometry))
    }

    /// Packing for its data gradient.
    pub fn backward_data(isa: Isa, geometry: &Geometry) -> Self {
        Self::new(isa, Task::backward_data(geometry))
    }

    fn new(isa: Isa, task: Task) -> Self {
        Self { isa, task, panels: Panels::new(isa, &task) }
    }

    /// Floats of the packed copy.
    pub fn packed_len(&self) -> usize {
        self.panels.floats()
    }

    /// Equal for equal layouts of the packed copy.
    pub fn format(&self) -> String {
        let Task { sc, dc, turned, .. } = self.task;
        let direction = if turned { "backward_data" } else { "forward" };
        let kernel = self.task.kernel();
        format!("winograd_{direction} {} {} k{kernel} {sc}to{dc}", self.task.name(), self.isa.name())
    }

    fn chunks(&self) -> usize {
        self.task.sc.div_ceil(CHUNK)
    }
}

impl Kernel for Pack {
    fn name(&self) -> String {
        if self.task.turned { "pack_winograd_backward_data".into() } else { "pack_winograd".into() }
    }

    fn tasks(&self) -> usize {
        self.panels.count * self.chunks()
    }

    fn flops(&self) -> u64 {
        (self.task.sc * self.task.dc * (self.task.scheme.kernel + self.task.scheme.weights) * 22) as u64
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let (panel, chunk) = (task / self.chunks(), task % self.chunks());
        let channels = chunk * CHUNK..((chunk + 1) * CHUNK).min(self.task.sc);
        let weights = args.src::<f32>(0).at(0, self.task.weights_len());
        let packed = args.dst::<f32>(1).at(self.panels.start(panel, 0), self.panels.panel_len());
        let packed = packed.wrapping_add(channels.start * self.panels.nr);
        // SAFETY: both inside their operands; the rows belong to this task.
        unsafe { transform_weights(self.isa, &self.task, &self.panels, panel, channels, weights, packed) };
    }
}

/// Transforms the weights of some source channels of a panel to `packed`, where the rows of the first of these start.
///
/// # Safety
/// `weights` are all weights of `task`; the rows are writable.
pub unsafe fn transform_weights(
    isa: Isa,
    task: &Task,
    panels: &Panels,
    panel: usize,
    channels: Range<usize>,
    weights: *const f32,
    packed: *mut f32,
) {
    let Task { sc, dc, turned, .. } = *task;
    // Floats from a tap, a source channel and a result channel to the next.
    let (tap, step, lane) = if turned { (dc * sc, 1, sc) } else { (sc * dc, dc, 1) };
    let first = panel * panels.nr;
    let weights = weights.wrapping_add(first * lane);
    let lanes = panels.nr.min(dc - first);
    let packed = packed.wrapping_sub(channels.start * panels.nr);
    let columns = Columns { task, weights, tap, step, lane, turned, lanes, packed, plane: panels.plane() };
    let transform = match task.scheme.kind {
        Kind::F4 => transform_3,
        Kind::F2 => transform_small,
        Kind::F2K5 => transform_5,
        Kind::F3K4 => transform_4,
        Kind::Strided | Kind::StridedBack => transform_strided,
    };
    // SAFETY: the caller's word.
    unsafe { transform(isa, &columns, channels.start, channels.end) };
}

/// What a task reads and writes: one panel.
struct Columns<'a> {
    task: &'a Task,
    weights: *const f32,
    tap: usize,
    step: usize,
    lane: usize,
    turned: bool,
    lanes: usize,
    packed: *mut f32,
    plane: usize,
}

/// Source channels from those whose weights are transformed to those whose weights are asked for.
const AHEAD: usize = 8;
/// Source channels whose weights are transposed at a time.
const SQUARE: usize = 8;

/// # Safety
/// Weights and positions are those of source channels `from` to `to` of a panel.
#[inline(always)]
unsafe fn transform_body<S: Simd, T: Transform<TAPS, SIDE>, const TAPS: usize, const SIDE: usize>(
    columns: &Columns<'_>,
    from: usize,
    to: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        let nr = 2 * S::LANES;
        let mut c = from;
        if columns.task.space_to_depth.is_some() {
            return scattered::<S, T, TAPS, SIDE>(columns, from, to);
        }
        if columns.lane == 1 {
            while c < to {
                let at = columns.weights.wrapping_add(c * columns.step);
                for number in 0..TAPS * TAPS {
                    let ahead = at.wrapping_add(AHEAD * columns.step + number * columns.tap);
                    S::prefetch(ahead);
                    S::prefetch(ahead.wrapping_add(16));
                }
                channel::<S, T, TAPS, SIDE>(columns, c, at, columns.tap);
                c += 1;
            }
            return;
        }
        // Neighbours in memory are source channels: squares are transposed first.
        let mut rows = Transposed([[[0.0; SQUARE * 32]; TAPS]; TAPS]);
        let rows = rows.0.as_flattened_mut().as_flattened_mut().as_mut_ptr();
        let tap = SQUARE * nr;
        while c < to {
            let count = SQUARE.min(to - c);
            for number in 0..TAPS * TAPS {
                let at = columns.weights.wrapping_add(number * columns.tap + c);
                let to = rows.wrapping_add(number * tap);
                if count == SQUARE && columns.lanes == nr {
                    let mut lane = 0;
                    while lane < nr {
                        let at = at.wrapping_add(lane * columns.lane);
                        S::transpose8(at, columns.lane as isize, to.wrapping_add(lane), nr);
                        lane += 8;
                    }
                } else {
                    for i in 0..count {
                        for lane in 0..columns.lanes {
                            *to.add(i * nr + lane) = at.wrapping_add(lane * columns.lane + i).read_unaligned();
                        }
                    }
                }
            }
            for i in 0..count {
                channel::<S, T, TAPS, SIDE>(columns, c + i, rows.wrapping_add(i * nr), tap);
            }
            c += count;
        }
    }
}

/// The same of taps that lie apart and may be missing.
///
/// # Safety
/// As [`transform_body`].
#[inline(always)]
unsafe fn scattered<S: Simd, T: Transform<TAPS, SIDE>, const TAPS: usize, const SIDE: usize>(
    columns: &Columns<'_>,
    from: usize,
    to: usize,
) {
    let mut rows = Transposed([[[0.0; SQUARE * 32]; TAPS]; TAPS]);
    for c in from..to {
        let taps = columns.task.taps_of(c);
        for (y, row) in rows.0.iter_mut().enumerate() {
            for (x, row) in row.iter_mut().enumerate() {
                let row = &mut row[..columns.lanes];
                if y < taps.count[0] && x < taps.count[1] {
                    let at = columns.weights.wrapping_add(taps.first + y * taps.step[0] + x * taps.step[1]);
                    // SAFETY: the tap's weights have the panel's lanes.
                    row.copy_from_slice(unsafe { std::slice::from_raw_parts(at, columns.lanes) });
                } else {
                    row.fill(0.0);
                }
            }
        }
        // SAFETY: the caller's word.
        unsafe { channel::<S, T, TAPS, SIDE>(columns, c, rows.0.as_flattened().as_flattened().as_ptr(), SQUARE * 32) };
    }
}

/// Weights by tap, source channel and result channel.
#[repr(align(64))]
struct Transposed<const TAPS: usize>([[[f32; SQUARE * 32]; TAPS]; TAPS]);

/// Transforms the weights of one source channel: `tap` floats from one tap to the next.
///
/// # Safety
/// `weights` are readable for every tap and the panel's result channels.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // closures would not inherit the shell's target features
unsafe fn channel<S: Simd, T: Transform<TAPS, SIDE>, const TAPS: usize, const SIDE: usize>(
    columns: &Columns<'_>,
    c: usize,
    weights: *const f32,
    tap: usize,
) {
    // SAFETY: the caller's word.
    unsafe {
        for v in 0..2 {
            let lanes = columns.lanes.saturating_sub(v * S::LANES).min(S::LANES);
            let mut taps = [[S::splat(0.0); TAPS]; TAPS];
            for y in 0..TAPS {
                for x in 0..TAPS {
                    let number = if columns.turned { TAPS * TAPS - 1 - (y * TAPS + x) } else { y * TAPS + x };
                    taps[y][x] = S::load_partial(weights.wrapping_add(number * tap + v * S::LANES), lanes);
                }
            }
            let taps = square::<S, T, TAPS, SIDE>(taps);
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let at = (y * SIDE + x) * columns.plane + c * 2 * S::LANES + v * S::LANES;
                    let to = columns.packed.wrapping_add(at);
                    S::store(to, taps[y][x]);
                    // The next source channel's line is wanted before it is written.
                    S::prefetch(to.wrapping_add(2 * S::LANES));
                }
            }
        }
    }
}

multiversion! {
    fn transform_3(columns: &Columns<'_>, from: usize, to: usize) = transform_body, [Weights, 3, IN];
}
multiversion! {
    fn transform_small(columns: &Columns<'_>, from: usize, to: usize) = transform_body, [Weights, 3, SMALL];
}
multiversion! {
    fn transform_strided(columns: &Columns<'_>, from: usize, to: usize) = transform_body, [WeightsStrided, 3, 4];
}
multiversion! {
    fn transform_4(columns: &Columns<'_>, from: usize, to: usize) = transform_body, [Weights, 4, IN];
}
multiversion! {
    fn transform_5(columns: &Columns<'_>, from: usize, to: usize) = transform_body, [Weights, 5, IN];
}
