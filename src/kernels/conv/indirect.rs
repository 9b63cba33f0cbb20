//! Forward and data gradient: walks over result pixels and runs tiles.

use std::iter::successors;
use std::ops::Range;

use super::calls::{Next, Operands, PanelCall, Results, Taken};
use super::cut::{Copies, Cut, RESIDENT, copied, interleaved};
use super::gather::{Lattice, Walk};
use super::micro::{ROW_PANELS, tile_rows};
use super::pack::Problem;
use super::tables::{Opened, Reading, Tables};
use super::{moments, sums};
use crate::function::UnaryKind;
use crate::kernels::{elementwise, share};
use crate::tensor::{Dst, Src};

/// Lanes of the widest vector: folded channels fit one.
const MAX_LANES: usize = 16;

/// What the units of one task have in common.
struct Part<'a> {
    lattice: &'a Lattice,
    tables: Tables<'a>,
    resident: bool,
    call: PanelCall<'a>,
    panels: Range<usize>,
    /// The source at the group's first channel, and the group's first result channel.
    source: *const f32,
    channel: usize,
    results: Results<'a>,
    activation: Option<UnaryKind>,
    /// What results pass on their way to a normalization.
    sums: Option<sums::Part>,
}

/// The common part of [`Forward`](super::Forward) and [`BackwardData`](super::BackwardData).
#[derive(Debug)]
pub struct Indirect {
    pub problem: Problem,
    cuts: Vec<Cut>,
    /// Class and number of every task.
    pub order: Vec<(usize, usize)>,
    mr: usize,
    dst_size: [usize; 2],
    dst_channels: usize,
    /// Whether units are copied once for all panels before the tiles run.
    copies: Option<Copies>,
}

impl Indirect {
    /// `copy_once` says that there is an operand for copies of units.
    pub fn new(problem: Problem, dst_size: [usize; 2], dst_channels: usize, copy_once: bool) -> Self {
        let mr = tile_rows(problem.isa, problem.vectors);
        let classes = 0..problem.classes.len();
        let cuts: Vec<Cut> = classes.map(|class| Cut::new(&problem, class, mr, copy_once)).collect();
        let order = interleaved(&cuts);
        let copies = if copy_once { copied(&problem, &cuts) } else { None };
        Self { problem, cuts, order, mr, dst_size, dst_channels, copies }
    }

    /// A convolution that runs by [`lines`](Self::lines), about so many at a time.
    pub fn by_lines(problem: Problem, dst_size: [usize; 2], dst_channels: usize, lines: usize) -> Self {
        let lattice = &problem.classes[0].lattice;
        let mr = tile_rows(problem.isa, problem.vectors);
        let one = Cut::whole(lattice, Reading::new(lattice, mr, (lattice.images * lattice.h.count).div_ceil(lines)));
        Self { problem, cuts: vec![one], order: Vec::new(), mr, dst_size, dst_channels, copies: None }
    }

    /// Whether the weights of all groups stay in cache.
    pub fn stays(problem: &Problem) -> bool {
        problem.packed_len() * size_of::<f32>() <= RESIDENT
    }

    pub fn scratch(&self) -> usize {
        let classes = self.cuts.iter().zip(&self.problem.classes);
        classes.map(|(cut, class)| Tables::bytes(&class.lattice, &cut.reading, self.mr)).max().unwrap_or(0)
    }

    /// What is copied beforehand, if anything is.
    pub fn copies(&self) -> Option<Copies> {
        self.copies
    }

    /// Copies a unit to its place in `copy`.
    ///
    /// # Safety
    /// `src` is the source, `copy` has room for [`copies`](Self::copies), which there are.
    pub unsafe fn copy(&self, unit: usize, src: Src<'_, f32>, copy: Dst<'_, f32>) {
        let (reading, lattice) = (&self.cuts[0].reading, &self.problem.classes[0].lattice);
        let len = self.copies.map_or(0, |copies| copies.len);
        // SAFETY: the caller's word; a unit is one task's.
        unsafe {
            reading.copy(lattice, reading.rows(lattice, unit), src.at(0, 0), copy.at(unit * len, len));
        }
    }

    /// # Safety
    /// The operands are those of this geometry; scratch as large as stated.
    pub unsafe fn run(&self, task: usize, operands: &Operands<'_>, scratch: *mut u8) {
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
        let count = cut.reading.units(lattice);
        let panels = share(panel_task, cut.panel_tasks, problem.panels());
        let mut repeated = [[0.0f32; MAX_LANES]; 5];
        // SAFETY: scratch is as large as `scratch()` says; sources and results stay inside their views.
        unsafe {
            let mut of = self.part(class, group, panels, operands, &mut repeated, scratch);
            if let Taken::Sums(sums) = &operands.taken {
                let before: usize = self.cuts[..class].iter().map(|cut| cut.row_tasks).sum();
                of.sums = Some(sums.part(before + row_task));
            }
            let units = share(row_task, cut.row_tasks, count);
            let start = cut.reading.rows(lattice, units.start).start;
            for unit in units {
                let rows = cut.reading.rows(lattice, unit);
                let opened = match (operands.copy, self.copies) {
                    (Some(copy), Some(Copies { len, .. })) => {
                        cut.reading.opened(lattice, &rows, of.source, copy.at(unit * len, len))
                    }
                    _ => of.tables.open(rows.clone(), of.source),
                };
                let next = if cut.panels_first && (cut.resident || of.panels.len() == 1) {
                    // All pixels pass by the task's weights: the next task's come during that, a part per unit.
                    let PanelCall { weights, length, .. } = of.call;
                    let more = of.panels.len().min(problem.panels() - of.panels.end) * length;
                    let part = share(unit, count, more);
                    (weights.wrapping_add(of.panels.end * length + part.start), part.len())
                } else {
                    source_behind(lattice, of.source, rows.clone())
                };
                self.unit(&of, rows.clone(), &opened, next);
                if let Taken::Moments(partials) = &operands.taken {
                    let part = moments::Part::new(problem.isa, partials, row_task, self.dst_channels);
                    let channels = self.channels(&of);
                    let at = of.results.at(rows.start * self.dst_channels + channels.start, channels.len());
                    part.add(at, self.dst_channels, rows.len(), channels, rows.start - start);
                }
                self.add_to_sums(&mut of, rows);
            }
        }
    }

    /// Runs result lines of an image, all their channels, in one task; the results begin anywhere before them.
    ///
    /// # Safety
    /// As [`run`](Self::run), but that the results need only hold these lines; the convolution has one lattice.
    pub unsafe fn lines(&self, image: usize, lines: Range<usize>, operands: &Operands<'_>, scratch: *mut u8) {
        let (problem, reading) = (&self.problem, &self.cuts[0].reading);
        let lattice = &problem.classes[0].lattice;
        let [start, end] = [lines.start, lines.end].map(|line| (image * lattice.h.count + line) * lattice.w.count);
        let most = reading.most_rows(lattice);
        for group in 0..problem.geometry.groups {
            let mut repeated = [[0.0f32; MAX_LANES]; 5];
            // SAFETY: the caller's word; the stretches are no larger than a unit.
            unsafe {
                let of = self.part(0, group, 0..problem.panels(), operands, &mut repeated, scratch);
                for first in (start..end).step_by(most) {
                    let rows = first..end.min(first + most);
                    let opened = of.tables.open(rows.clone(), of.source);
                    self.unit(&of, rows.clone(), &opened, source_behind(lattice, of.source, rows));
                }
            }
        }
    }

    /// What the units of a task have in common: panels of a group. `repeated` is room for the epilogue's numbers.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn part<'a>(
        &'a self,
        class: usize,
        group: usize,
        panels: Range<usize>,
        operands: &Operands<'a>,
        repeated: &mut [[f32; MAX_LANES]; 5],
        scratch: *mut u8,
    ) -> Part<'a> {
        let (problem, cut) = (&self.problem, &self.cuts[class]);
        let lattice = &problem.classes[class].lattice;
        let weights = problem.classes[class].packed_start + group * problem.group_len(class);
        let length = problem.panel_len(class);
        let single = problem.channels / problem.fold;
        let mut finish = operands.finish.at(group * single);
        if problem.fold > 1 {
            let [bias, norm @ ..] = repeated;
            finish.bias = repeat(finish.bias, single, bias);
            for (from, repeated) in finish.norm.iter_mut().zip(norm) {
                *from = repeat(*from, single, repeated);
            }
        }
        let weights = operands.packed.at(weights, length * problem.panels());
        // SAFETY: scratch is as large as `scratch()` says.
        let tables = unsafe { Tables::new(lattice, &cut.reading, &cut.frame, self.mr, scratch) };
        Part {
            lattice,
            tables,
            resident: cut.resident,
            call: PanelCall { problem, weights, length, finish },
            panels,
            source: operands.src.at(0, 0).wrapping_add(group * lattice.group_channels),
            channel: group * single,
            results: operands.results,
            activation: operands.activation,
            sums: None,
        }
    }

    /// Runs the tiles of a unit's rows, which ask for what is read `next`: where it starts, and its floats.
    ///
    /// # Safety
    /// As [`run`](Self::run); `opened` is the view of these rows, at most a unit's.
    unsafe fn unit(&self, of: &Part<'_>, rows: Range<usize>, opened: &Opened, next: (*const f32, usize)) {
        let Part { lattice, tables, call, panels, .. } = of;
        let tiles = rows.len().div_ceil(self.mr);
        let next = Next::new(next, tiles * panels.len(), lattice.depth());
        let first = |walk| self.pixel(lattice, walk) * self.dst_channels + of.channel;
        let result = |walk| of.results.at(first(walk), self.problem.channels);
        // What is added crowds the way to memory enough.
        let asks = of.sums.as_ref().filter(|_| call.finish.added.is_null());
        let pitch = lattice.w.dst_step * self.dst_channels;
        // The first tiles have a row more than the others, if they do not divide them.
        let (each, more) = (rows.len() / tiles, rows.len() % tiles);
        let mut done = 0;
        let mut run = |panels: Range<usize>, slots: Range<usize>| {
            let count = each + usize::from(slots.start < more);
            if let Some(sums) = asks {
                let nr = self.problem.nr();
                let channels = (panels.len() * nr).min(self.problem.channels - panels.start * nr);
                let start = rows.start + slots.start * each + slots.start.min(more);
                let index = first(lattice.walk(start)) + panels.start * nr;
                sums.ask(index, [1, count], [0, pitch], channels);
            }
            let tiles = panels.len() * slots.len();
            // SAFETY: the caller's word; the tables are filled.
            unsafe {
                if rows.len() == 1 {
                    call.run_row(panels, tables, next.pieces(done, tiles));
                } else {
                    call.run(panels, tables, slots, count, next.pieces(done, 1));
                }
            }
            done += tiles;
        };
        // SAFETY: the caller's word.
        unsafe { tables.fill([each, more, tiles], rows.start, opened, result, pitch) };
        if rows.len() == 1 {
            let mut panel = panels.start;
            while panel < panels.end {
                let fits = |count: &&usize| panel + **count <= panels.end;
                let count = ROW_PANELS.iter().find(fits).map_or(1, |&count| count);
                run(panel..panel + count, 0..1);
                panel += count;
            }
        } else {
            // A call runs all slots of one size; tiles that ask do so one by one.
            let end = |slot: usize| {
                if asks.is_some() {
                    slot + 1
                } else if slot < more {
                    more
                } else {
                    tiles
                }
            };
            let stretches = || successors(Some(0..end(0)), |last| (last.end < tiles).then(|| last.end..end(last.end)));
            if of.resident {
                let wide = if asks.is_some() { 1 } else { panels.len() };
                for slots in stretches() {
                    panels.clone().step_by(wide).for_each(|panel| run(panel..panel + wide, slots.clone()));
                }
            } else {
                for panel in panels.clone() {
                    stretches().for_each(|slots| run(panel..panel + 1, slots));
                }
            }
        }
        // SAFETY: the caller's word.
        unsafe { self.activate(of, rows) };
    }

    /// Result pixels of every range of them that tasks share, class by class.
    pub fn parts(&self) -> Vec<usize> {
        let mut parts = Vec::new();
        for (cut, class) in self.cuts.iter().zip(&self.problem.classes) {
            let (reading, lattice) = (&cut.reading, &class.lattice);
            let units = reading.units(lattice);
            let start = |unit| if unit < units { reading.rows(lattice, unit).start } else { lattice.rows() };
            let part = |number| share(number, cut.row_tasks, units);
            parts.extend((0..cut.row_tasks).map(|number| start(part(number).end) - start(part(number).start)));
        }
        parts
    }

    /// Whether every task makes all pixels of its channels.
    pub fn owns_channels(&self) -> bool {
        let whole = matches!(self.cuts.as_slice(), [cut] if cut.row_tasks == 1);
        whole && self.problem.fold == 1 && !self.order.is_empty()
    }

    /// Result channels of a task that [owns](Self::owns_channels) them.
    pub fn channels_of(&self, task: usize) -> Range<usize> {
        let (Cut { panel_tasks, .. }, Problem { channels, .. }) = (&self.cuts[0], &self.problem);
        let (_, task) = self.order[task];
        let (group, panel_task) = (task / panel_tasks, task % panel_tasks);
        let panels = share(panel_task, *panel_tasks, self.problem.panels());
        let [start, end] = [panels.start, panels.end].map(|panel| (panel * self.problem.nr()).min(*channels));
        group * channels + start..group * channels + end
    }

    /// Result channels of a part; pixels are not folded.
    fn channels(&self, of: &Part<'_>) -> Range<usize> {
        let nr = self.problem.nr();
        of.channel + of.panels.start * nr..of.channel + (of.panels.end * nr).min(self.problem.channels)
    }

    /// Takes finished rows into the sums of their part, if there are some.
    ///
    /// # Safety
    /// The rows' results and the sums of these channels belong to this task; pixels are not folded.
    unsafe fn add_to_sums(&self, of: &mut Part<'_>, rows: Range<usize>) {
        let (lattice, channels) = (of.lattice, self.channels(of));
        let Some(part) = &mut of.sums else { return };
        let pitch = lattice.w.dst_step * self.dst_channels;
        // Pixels of a whole lattice follow each other, those of a class within its lines.
        let whole = self.problem.classes.len() == 1;
        let mut start = rows.start;
        while start < rows.end {
            let line = (start / lattice.w.count + 1) * lattice.w.count;
            let end = if whole { rows.end } else { rows.end.min(line) };
            let index = self.pixel(lattice, lattice.walk(start)) * self.dst_channels + channels.start;
            let at = of.results.at(index, channels.len());
            // SAFETY: the caller's word.
            unsafe { part.add((at, index), [1, end - start], [0, pitch], channels.clone()) };
            start = end;
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
    /// The rows' results belong to this task; result pixels follow each other (forward).
    unsafe fn activate(&self, of: &Part<'_>, rows: Range<usize>) {
        let Some(kind) = of.activation else { return };
        let (isa, nr) = (self.problem.isa, self.problem.nr());
        let (from, to) = (of.panels.start * nr, (of.panels.end * nr).min(self.problem.channels));
        // SAFETY: the caller's word.
        unsafe {
            let row_channels = self.dst_channels * self.problem.fold;
            if to - from == row_channels {
                let count = rows.len() * row_channels;
                let values = of.results.at(rows.start * row_channels, count);
                elementwise::activate(isa, kind, values, values, count);
                return;
            }
            for row in rows {
                let at = of.results.at(row * row_channels + of.channel + from, to - from);
                elementwise::activate(isa, kind, at, at, to - from);
            }
        }
    }

    pub fn name(&self, what: &str) -> String {
        let fold = if self.problem.fold > 1 { format!("_fold{}", self.problem.fold) } else { String::new() };
        format!("{what}{fold}_{}x{}_{}", self.mr, self.problem.nr(), self.problem.isa.name())
    }
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
