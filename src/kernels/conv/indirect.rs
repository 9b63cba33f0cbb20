//! Forward and data gradient: walks over result pixels and runs tiles.

use std::ops::Range;

use super::epilogue::Finish;
use super::gather::{Frame, Lattice, Walk};
use super::micro::{Ahead, MAX_ROWS, ROW_PANELS, Tile, tile, tile_rows};
use super::pack::Problem;
use super::tables::{Reading, Tables};
use super::{Epilogue, Geometry};
use crate::function::UnaryKind;
use crate::kernels::{Kernel, elementwise, share, tasks_for};
use crate::simd::Isa;
use crate::tensor::{ALIGN, Args, Dst, Src};

/// Multiply-adds above which a task is cut further all the same: some milliseconds, after which the caller can look for
/// an interrupt.
const LONG_WORK: usize = 1 << 28;
/// Weights up to so many bytes stay in the cache while tiles pass; larger ones pass while tiles stay.
const RESIDENT: usize = 512 << 10;
/// Bytes of weights that such a task reads for all its pixels.
const PANELS: usize = 128 << 10;
/// Units of work up to which large weights are shared out over the tasks.
const FEW_UNITS: usize = 8;

/// How one class is cut.
#[derive(Debug)]
struct Cut {
    tasks: usize,
    row_tasks: usize,
    panel_tasks: usize,
    reading: Reading,
    frame: Frame,
    /// Whether the weights of a task stay in cache.
    resident: bool,
    /// Whether neighbouring tasks share panels rather than rows.
    panels_first: bool,
}

/// Lanes of the widest vector: folded channels fit one.
const MAX_LANES: usize = 16;

/// The common part of [`Forward`] and [`BackwardData`].
#[derive(Debug)]
struct Indirect {
    problem: Problem,
    cuts: Vec<Cut>,
    /// Class and number of every task.
    order: Vec<(usize, usize)>,
    mr: usize,
    dst_size: [usize; 2],
    dst_channels: usize,
    copy_once: bool,
}

impl Indirect {
    /// `copy_once` says that there is an operand for copies of units.
    fn new(problem: Problem, dst_size: [usize; 2], dst_channels: usize, copy_once: bool) -> Self {
        let mr = tile_rows(problem.isa, problem.vectors);
        let cuts: Vec<Cut> = (0..problem.classes.len())
            .map(|class| {
                let lattice = &problem.classes[class].lattice;
                let rows = if problem.channels == 0 { 0 } else { lattice.rows() };
                let work = rows.saturating_mul(problem.channels).saturating_mul(lattice.depth().max(1));
                let wanted = tasks_for(work).max(work / LONG_WORK);
                let reading = Reading::new(lattice, mr, wanted);
                let units = if rows == 0 { 0 } else { reading.units(lattice) };
                let weights = problem.group_len(class) * size_of::<f32>();
                // Fewer pixels than channels and large weights: every thread reads its own weights once.
                let few = rows <= problem.channels && (copy_once || !reading.copies());
                let panels_first = weights > RESIDENT && (units <= FEW_UNITS || few);
                let (row_tasks, panel_tasks) = if panels_first {
                    let panel_tasks = wanted.min(problem.panels()).min(weights.div_ceil(PANELS));
                    (if units <= FEW_UNITS { 1 } else { wanted.div_ceil(panel_tasks).min(units) }, panel_tasks)
                } else {
                    let row_tasks = wanted.min(units);
                    (row_tasks, wanted.div_ceil(row_tasks.max(1)).min(problem.panels()))
                };
                let reading = if panels_first { Reading::new(lattice, mr, row_tasks) } else { reading };
                let resident = weights / panel_tasks.max(1) <= RESIDENT;
                let frame = reading.frame(lattice);
                let tasks = row_tasks * panel_tasks * problem.geometry.groups;
                Cut { tasks, row_tasks, panel_tasks, reading, frame, resident, panels_first }
            })
            .collect();
        let order = interleaved(&cuts);
        Self { problem, cuts, order, mr, dst_size, dst_channels, copy_once }
    }

    fn scratch(&self) -> usize {
        let classes = self.cuts.iter().zip(&self.problem.classes);
        classes.map(|(cut, class)| Tables::bytes(&class.lattice, &cut.reading, self.mr)).max().unwrap_or(0)
    }

    /// Floats of one unit's copy, if units are copied once for all panels before the tiles run.
    fn shared(&self) -> Option<usize> {
        let ([cut], [class]) = (&self.cuts[..], &self.problem.classes[..]) else { return None };
        let copied = cut.panels_first && cut.panel_tasks > 1 && cut.reading.copies();
        let one_group = self.problem.geometry.groups == 1;
        (self.copy_once && copied && one_group)
            .then(|| cut.reading.head_len(&class.lattice).next_multiple_of(ALIGN / size_of::<f32>()))
    }

    /// Units that are copied beforehand.
    fn copies(&self) -> usize {
        self.shared().map_or(0, |_| self.cuts[0].reading.units(&self.problem.classes[0].lattice))
    }

    /// Copies a unit to its place in `copy`.
    ///
    /// # Safety
    /// `src` is the source, `copy` has room for [`copies`](Self::copies) units.
    unsafe fn copy(&self, unit: usize, src: Src<'_, f32>, copy: Dst<'_, f32>) {
        let (reading, lattice) = (&self.cuts[0].reading, &self.problem.classes[0].lattice);
        let len = self.shared().unwrap_or_default();
        // SAFETY: the caller's word; a unit is one task's.
        unsafe {
            reading.copy(lattice, unit, reading.rows(lattice, unit), src.at(0, 0), copy.at(unit * len, len));
        }
    }

    /// # Safety
    /// `src`, `packed`, `finish` and `dst` are the operands of this geometry, `copy` is filled if units are
    /// [`shared`](Self::shared); scratch as large as stated.
    unsafe fn run(
        &self,
        task: usize,
        (src, copy): (Src<'_, f32>, Option<Src<'_, f32>>),
        packed: Src<'_, f32>,
        finish: Finish,
        dst: Dst<'_, f32>,
        activation: Option<UnaryKind>,
        scratch: *mut u8,
    ) {
        let (class, task) = self.order[task];
        let (problem, cut) = (&self.problem, &self.cuts[class]);
        let lattice = &problem.classes[class].lattice;
        let per_group = cut.row_tasks * cut.panel_tasks;
        let (group, rest) = (task / per_group, task % per_group);
        let (row_task, panel_task) = if cut.panels_first {
            (rest % cut.row_tasks, rest / cut.row_tasks)
        } else {
            (rest / cut.panel_tasks, rest % cut.panel_tasks)
        };
        let units = share(row_task, cut.row_tasks, cut.reading.units(lattice));
        let panels = share(panel_task, cut.panel_tasks, problem.panels());
        let weights = problem.classes[class].packed_start + group * problem.group_len(class);
        let length = problem.panel_len(class);
        let single = problem.channels / problem.fold;
        let mut finish = finish.at(group * single);
        let mut repeated = [[0.0f32; MAX_LANES]; 5];
        if problem.fold > 1 {
            let [bias, norm @ ..] = &mut repeated;
            finish.bias = repeat(finish.bias, single, bias);
            for (from, repeated) in finish.norm.iter_mut().zip(norm) {
                *from = repeat(*from, single, repeated);
            }
        }
        let call = PanelCall { problem, weights: packed.at(weights, length * problem.panels()), length, finish };
        // SAFETY: scratch is as large as `scratch()` says; sources and results stay inside their views.
        unsafe {
            let tables = Tables::new(lattice, &cut.reading, &cut.frame, self.mr, scratch);
            let source = src.at(0, 0).wrapping_add(group * lattice.group_channels);
            for unit in units {
                let rows = cut.reading.rows(lattice, unit);
                let tiles = rows.len().div_ceil(self.mr);
                let frame = match (copy, self.shared()) {
                    (Some(copy), Some(len)) => {
                        cut.reading.opened(lattice, unit, &rows, source, copy.at(unit * len, len))
                    }
                    _ => tables.open(unit, rows.clone(), source),
                };
                for slot in 0..tiles {
                    let part = share(slot, tiles, rows.len());
                    let rows = rows.start + part.start..rows.start + part.end;
                    let result =
                        |walk| dst.at(self.pixel(lattice, walk) * self.dst_channels + group * single, problem.channels);
                    tables.fill(slot, rows, &frame, result, lattice.w.dst_step * self.dst_channels);
                }
                let next = if cut.panels_first && cut.resident {
                    // All pixels pass by the task's weights: the next task's come during that, a part per unit.
                    let more = panels.len().min(problem.panels() - panels.end) * length;
                    let part = share(unit, cut.reading.units(lattice), more);
                    (call.weights.wrapping_add(panels.end * length + part.start), part.len())
                } else {
                    source_behind(lattice, source, rows.clone())
                };
                let next = Next::new(next, tiles * panels.len(), lattice.depth());
                let mut done = 0;
                let mut run = |slot: usize, panel: usize, count: usize| {
                    let rows = share(slot, tiles, rows.len()).len();
                    call.run(panel..panel + count, &tables, slot, rows, next.pieces(done, count));
                    done += count;
                };
                if rows.len() == 1 {
                    let mut panel = panels.start;
                    while panel < panels.end {
                        let fits = |count: &&usize| panel + **count <= panels.end;
                        let count = ROW_PANELS.iter().find(fits).map_or(1, |&count| count);
                        run(0, panel, count);
                        panel += count;
                    }
                } else if cut.resident {
                    (0..tiles).for_each(|slot| panels.clone().for_each(|panel| run(slot, panel, 1)));
                } else {
                    panels.clone().for_each(|panel| (0..tiles).for_each(|slot| run(slot, panel, 1)));
                }
                self.activate(activation, rows, &panels, group * single, dst);
            }
        }
    }

    fn pixel(&self, lattice: &Lattice, at: Walk) -> usize {
        let y = lattice.h.dst_start + at.y * lattice.h.dst_step;
        let x = lattice.w.dst_start + at.x * lattice.w.dst_step;
        (at.image * self.dst_size[0] + y) * self.dst_size[1] + x
    }

    /// Applies an activation to finished rows, while they are in cache.
    ///
    /// # Safety
    /// The rows' results are inside `dst` and belong to this task; result pixels follow each other (forward).
    unsafe fn activate(
        &self,
        activation: Option<UnaryKind>,
        rows: Range<usize>,
        panels: &Range<usize>,
        first_channel: usize,
        dst: Dst<'_, f32>,
    ) {
        let Some(kind) = activation else { return };
        let (isa, nr) = (self.problem.isa, self.problem.nr());
        let (from, to) = (panels.start * nr, (panels.end * nr).min(self.problem.channels));
        // SAFETY: the caller's word.
        unsafe {
            let row_channels = self.dst_channels * self.problem.fold;
            if to - from == row_channels {
                let count = rows.len() * row_channels;
                let values = dst.at(rows.start * row_channels, count);
                elementwise::activate(isa, kind, values, values, count);
                return;
            }
            for row in rows {
                let at = dst.at(row * row_channels + first_channel + from, to - from);
                elementwise::activate(isa, kind, at, at, to - from);
            }
        }
    }

    fn name(&self, what: &str) -> String {
        let fold = if self.problem.fold > 1 { format!("_fold{}", self.problem.fold) } else { String::new() };
        format!("{what}{fold}_{}x{}_{}", self.mr, self.problem.nr(), self.problem.isa.name())
    }
}

/// The order of tasks in which any stretch of them has its share of each class: threads take stretches, and classes
/// differ in taps.
fn interleaved(cuts: &[Cut]) -> Vec<(usize, usize)> {
    let mut order: Vec<(usize, usize)> =
        cuts.iter().enumerate().flat_map(|(class, cut)| (0..cut.tasks).map(move |task| (class, task))).collect();
    // The middle of a task as a part of its class, in units that are whole numbers for every class.
    order.sort_by_key(|&(class, task)| ((2 * task + 1) << 32) / cuts[class].tasks);
    order
}

/// The `count` numbers of one pixel, if there are any, once per folded pixel.
fn repeat(numbers: *const f32, count: usize, repeated: &mut [f32; MAX_LANES]) -> *const f32 {
    if numbers.is_null() {
        return numbers;
    }
    for (i, value) in repeated.iter_mut().enumerate() {
        // SAFETY: `i % count` is one of the `count` numbers.
        *value = unsafe { numbers.wrapping_add(i % count).read_unaligned() };
    }
    repeated.as_ptr()
}

/// The source under the result pixels behind these, as many: where it starts, and its floats.
fn source_behind(lattice: &Lattice, source: *const f32, rows: Range<usize>) -> (*const f32, usize) {
    let axes = [&lattice.h, &lattice.w];
    // Where pixels are left out, or groups of channels, it is not a stretch of memory.
    if axes.iter().any(|axis| axis.offsets.len() < axis.src_step) || lattice.group_channels < lattice.src_channels {
        return (source, 0);
    }
    let len = lattice.images * lattice.h.src_size * lattice.w.src_size * lattice.src_channels;
    let until = |row: usize| len * row.min(lattice.rows()) / lattice.rows().max(1);
    let start = until(rows.end);
    (source.wrapping_add(start), until(rows.end + rows.len()) - start)
}

/// Memory that is read after a unit, which its calls ask for in equal pieces.
struct Next {
    from: *const f32,
    piece: usize,
    step: usize,
}

impl Next {
    fn new((from, floats): (*const f32, usize), calls: usize, depth: usize) -> Self {
        let piece = floats / calls.max(1);
        Self { from, piece, step: piece.div_ceil(depth.max(1)) }
    }

    /// What `count` calls from number `call` on, which are made as one, ask for.
    fn pieces(&self, call: usize, count: usize) -> Ahead {
        Ahead { from: self.from.wrapping_add(call * self.piece), step: self.step * count }
    }
}

/// What the tiles of one task have in common.
struct PanelCall<'a> {
    problem: &'a Problem,
    weights: *const f32,
    length: usize,
    finish: Finish,
}

impl PanelCall<'_> {
    /// # Safety
    /// The tables of `slot` stand for `rows` rows, one row if there are several panels; weights and
    /// epilogue are those of the group.
    unsafe fn run(&self, panels: Range<usize>, tables: &Tables<'_>, slot: usize, rows: usize, ahead: Ahead) {
        debug_assert!(rows <= MAX_ROWS && (panels.len() == 1 || rows == 1));
        let nr = self.problem.nr();
        let (panel, channel) = (panels.start, panels.start * nr);
        let channels = (panels.len() * nr).min(self.problem.channels - channel);
        let vectors = match panels.len() {
            1 => channels.div_ceil(self.problem.isa.lanes()),
            count => count * self.problem.vectors,
        };
        let call = Tile {
            table: tables.table(slot),
            table_pitch: if tables.per_segment() { rows } else { 0 },
            deltas: tables.deltas(),
            // SAFETY: the caller filled the tables.
            segments: unsafe { tables.segments(slot) },
            len: tables.segment_len(),
            panel: self.weights.wrapping_add(panel * self.length),
            pitch: nr,
            next_panel: self.length,
            results: tables.results(slot),
            channel,
            channels,
            finish: &self.finish,
            ahead,
        };
        // SAFETY: the caller's word.
        unsafe {
            let nan = tile(self.problem.isa, rows, vectors, &call);
            if nan && self.problem.fold > 1 {
                self.repair(&call, rows);
            }
        }
    }

    /// Sums again, each over its own window alone, the results of a folded tile that are NaN: a NaN or infinity that
    /// only a pixel's neighbours reach met a zero weight.
    ///
    /// # Safety
    /// As for the tile that ran; what is added has memory of its own.
    unsafe fn repair(&self, call: &Tile<'_>, rows: usize) {
        let Problem { isa, fold, channels, .. } = *self.problem;
        let single = channels / fold;
        let class = &self.problem.classes[0];
        let (depth, taps) = (class.lattice.group_channels, class.lattice.w.taps.len());
        for (row, lane) in (0..rows).flat_map(|row| (0..channels).map(move |lane| (row, lane))) {
            // SAFETY: the addresses the tile itself went through.
            unsafe {
                let result = (*call.results.add(row)).wrapping_add(lane);
                if !result.read().is_nan() {
                    continue;
                }
                let first = lane / single * class.fold_step * depth;
                let mut sum = 0.0f32;
                for segment in call.segments.0..call.segments.1 {
                    let source = *call.table.wrapping_add(segment * call.table_pitch).add(row);
                    let source = source.wrapping_offset(*call.deltas.add(segment));
                    for k in first..first + taps * depth {
                        let weight = *call.panel.wrapping_add((segment * call.len + k) * call.pitch + lane);
                        let value = *source.wrapping_add(k);
                        sum = if isa == Isa::Portable { sum + value * weight } else { value.mul_add(weight, sum) };
                    }
                }
                result.write(call.finish.one(isa, sum, lane, result));
            }
        }
    }
}

/// Convolution. Operands: input, packed weights, those of the epilogue ([`Epilogue::operands`]), output, a copy of the input
/// (if [`Forward::copy_len`] is not 0); what is added may be the memory of the output if [`Forward::adds_in_place`].
#[derive(Debug)]
pub struct Forward {
    inner: Indirect,
    epilogue: Epilogue,
}

impl Forward {
    /// A convolution of this geometry.
    pub fn new(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        Self::with(isa, geometry, epilogue, false)
    }

    /// The same with an operand for a copy of the input, if it wants one.
    pub fn copying_once(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        Self::with(isa, geometry, epilogue, true)
    }

    fn with(isa: Isa, geometry: Geometry, epilogue: Epilogue, copy_once: bool) -> Self {
        let problem = Problem::forward(isa, geometry);
        Self { inner: Indirect::new(problem, [geometry.oh, geometry.ow], geometry.oc, copy_once), epilogue }
    }

    /// Whether every result is written once, so that it may replace what is added to it: folded pixels may be summed
    /// again.
    pub fn adds_in_place(&self) -> bool {
        self.inner.problem.fold == 1
    }

    /// Floats of the operand that holds a copy of the input: with few pixels and many channels it is made once, in a phase
    /// of its own.
    pub fn copy_len(&self) -> usize {
        self.inner.shared().map_or(0, |len| len * self.inner.copies())
    }
}

impl Kernel for Forward {
    fn name(&self) -> String {
        self.inner.name(&format!("conv_direct{}", self.epilogue.name()))
    }

    fn tasks(&self) -> usize {
        self.inner.copies() + self.inner.order.len()
    }

    fn phases(&self) -> usize {
        if self.inner.copies() > 0 { 2 } else { 1 }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        match (self.inner.copies(), number) {
            (0, _) => 0..self.tasks(),
            (copies, 0) => 0..copies,
            (copies, _) => copies..self.tasks(),
        }
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.problem.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let geometry = &self.inner.problem.geometry;
        let (result, copies) = (2 + self.epilogue.operands(), self.inner.copies());
        if task < copies {
            // SAFETY: the caller's word.
            return unsafe { self.inner.copy(task, args.src(0), args.dst(result + 1)) };
        }
        let finish = self.epilogue.finish(args, geometry.oc, geometry.dst_len());
        let source = (args.src(0), (copies > 0).then(|| args.src(result + 1)));
        // SAFETY: the caller's word; copies were made in the phase before.
        unsafe {
            let (packed, dst) = (args.src(1), args.dst(result));
            self.inner.run(task - copies, source, packed, finish, dst, self.epilogue.later(), scratch);
        }
    }
}

/// Data gradient. Operands: gradient by the output, packed weights, gradient by the input (every element is written).
#[derive(Debug)]
pub struct BackwardData(Indirect);

impl BackwardData {
    /// The data gradient of this convolution.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        Self(Indirect::new(Problem::backward(isa, geometry), [geometry.ih, geometry.iw], geometry.ic, false))
    }
}

impl Kernel for BackwardData {
    fn name(&self) -> String {
        self.0.name("conv_backward_data")
    }

    fn tasks(&self) -> usize {
        self.0.order.len()
    }

    fn scratch(&self) -> usize {
        self.0.scratch()
    }

    fn flops(&self) -> u64 {
        self.0.problem.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word.
        unsafe { self.0.run(task, (args.src(0), None), args.src(1), Finish::NONE, args.dst(2), None, scratch) }
    }
}
