//! Forward and data gradient: walks over result pixels, builds pointer tables, runs tiles.

use super::gather::Lattice;
use super::micro::{MAX_ROWS, Tile, tile, tile_rows};
use super::pack::Problem;
use super::{Activation, Epilogue, Geometry};
use crate::kernels::Kernel;
use crate::kernels::elementwise::{UnaryKind, apply};
use crate::simd::Isa;
use crate::tensor::{Args, Dst, Src};

/// Tasks a big problem is cut into: enough for tens of threads, few enough to cost nothing.
const TASKS: usize = 32;
/// Multiply-adds below which a task is not worth being cut further.
const TASK_WORK: usize = 1 << 17;
/// Weights up to so many bytes stay in the cache while tiles pass; larger ones pass while tiles stay.
const RESIDENT: usize = 512 << 10;
/// Tiles that stay while large weights pass.
const BLOCK: usize = 8;

/// How one class is cut: rows and panels per task.
#[derive(Debug, Clone, Copy)]
struct Cut {
    first_task: usize,
    row_tasks: usize,
    panel_tasks: usize,
    /// Tiles of all result pixels.
    tiles: usize,
}

/// The common part of [`Forward`] and [`BackwardData`].
#[derive(Debug)]
struct Indirect {
    problem: Problem,
    cuts: Vec<Cut>,
    tasks: usize,
    mr: usize,
    /// Tiles whose pointer tables stand at the same time.
    block: usize,
    dst_size: [usize; 2],
    dst_channels: usize,
}

impl Indirect {
    fn new(problem: Problem, dst_size: [usize; 2], dst_channels: usize) -> Self {
        let mr = tile_rows(problem.isa, problem.vectors);
        let mut tasks = 0;
        let mut resident = true;
        let cuts = (0..problem.classes.len())
            .map(|class| {
                let lattice = &problem.classes[class].lattice;
                let rows = if problem.channels == 0 { 0 } else { lattice.rows() };
                let tiles = rows.div_ceil(mr);
                let work = rows * problem.channels * lattice.depth().max(1);
                let wanted = (work / TASK_WORK).clamp(1, TASKS);
                resident &= problem.group_len(class) * 4 <= RESIDENT;
                // Few pixels and large weights: every task reads its own weights once.
                let by_panels = tiles <= 4 * BLOCK && problem.group_len(class) * 4 > RESIDENT;
                let row_tasks = if by_panels { 1 } else { wanted.min(tiles) };
                let panel_tasks = wanted.div_ceil(row_tasks.max(1)).min(problem.panels());
                let cut = Cut { first_task: tasks, row_tasks, panel_tasks, tiles };
                tasks += if tiles == 0 { 0 } else { row_tasks * panel_tasks * problem.geometry.groups };
                cut
            })
            .collect();
        let block = if resident { 1 } else { BLOCK };
        Self { problem, cuts, tasks, mr, block, dst_size, dst_channels }
    }

    fn scratch(&self) -> usize {
        let lattices = self.problem.classes.iter().map(|class| &class.lattice);
        let floats = lattices.map(|lattice| Scratch::floats(lattice, self.mr, self.block)).max().unwrap_or(0);
        floats * 4
    }

    /// # Safety
    /// `src`, `packed`, `bias` and `dst` are the operands of this geometry; scratch as large as stated.
    unsafe fn run(
        &self,
        task: usize,
        src: Src<'_, f32>,
        packed: Src<'_, f32>,
        bias: Option<Src<'_, f32>>,
        dst: Dst<'_, f32>,
        activation: Activation,
        scratch: *mut u8,
    ) {
        let class = self.cuts.partition_point(|cut| cut.first_task <= task) - 1;
        let (problem, cut) = (&self.problem, self.cuts[class]);
        let lattice = &problem.classes[class].lattice;
        let per_group = cut.row_tasks * cut.panel_tasks;
        let (group, rest) = ((task - cut.first_task) / per_group, (task - cut.first_task) % per_group);
        let (row_task, panel_task) = (rest / cut.panel_tasks, rest % cut.panel_tasks);
        let tiles = row_task * cut.tiles / cut.row_tasks..(row_task + 1) * cut.tiles / cut.row_tasks;
        let panels = panel_task * problem.panels() / cut.panel_tasks..(panel_task + 1) * problem.panels() / cut.panel_tasks;
        let (nr, lanes) = (problem.nr(), problem.isa.lanes());
        let first_channel = group * problem.channels;
        // SAFETY: scratch is as large as `scratch()` says; sources and results stay inside their views.
        unsafe {
            let scratch = Scratch::new(lattice, self.mr, scratch.cast());
            let source = src.at(0, 0).wrapping_add(group * lattice.group_channels);
            let weights = problem.classes[class].packed_start + group * problem.group_len(class);
            let mut start = tiles.start;
            while start < tiles.end {
                let end = (start + self.block).min(tiles.end);
                for index in start..end {
                    scratch.fill(lattice, index - start, self.rows(lattice, cut, index), source, |walk| {
                        dst.at(self.pixel(lattice, walk) * self.dst_channels + first_channel, problem.channels)
                    });
                }
                for panel in panels.clone() {
                    let channel = panel * nr;
                    let channels = nr.min(problem.channels - channel);
                    let vectors = if channels <= lanes { 1 } else { 2 };
                    let length = problem.panel_len(class);
                    let panel = packed.at(weights + panel * length, length);
                    let bias = bias.map_or(std::ptr::null(), |bias| bias.at(first_channel + channel, channels));
                    for slot in 0..end - start {
                        let rows = self.rows(lattice, cut, start + slot).len();
                        let results: [*mut f32; MAX_ROWS] = std::array::from_fn(|i| {
                            (*scratch.results(slot).add(i.min(rows - 1))).wrapping_add(channel)
                        });
                        let call = Tile {
                            table: scratch.table(slot),
                            numbers: scratch.numbers(slot),
                            segments: scratch.count(slot),
                            len: lattice.segment_len(),
                            panel,
                            pitch: nr,
                            results: results.as_ptr(),
                            channels,
                            bias,
                            relu: activation == Activation::Relu,
                        };
                        tile(problem.isa, rows, vectors, &call);
                    }
                }
                self.activate(activation, lattice, cut, start..end, &panels, first_channel, dst);
                start = end;
            }
        }
    }

    /// Result pixels of a tile: all tiles of a class differ by at most one row.
    fn rows(&self, lattice: &Lattice, cut: Cut, tile: usize) -> std::ops::Range<usize> {
        let rows = lattice.rows();
        tile * rows / cut.tiles..(tile + 1) * rows / cut.tiles
    }

    fn pixel(&self, lattice: &Lattice, at: super::gather::Walk) -> usize {
        let y = lattice.h.dst_start + at.y * lattice.h.dst_step;
        let x = lattice.w.dst_start + at.x * lattice.w.dst_step;
        (at.image * self.dst_size[0] + y) * self.dst_size[1] + x
    }

    /// Applies tanh or sigmoid to finished tiles, while they are in cache.
    ///
    /// # Safety
    /// The tiles' results are inside `dst` and belong to this task; result pixels follow each other (forward).
    unsafe fn activate(
        &self,
        activation: Activation,
        lattice: &Lattice,
        cut: Cut,
        tiles: std::ops::Range<usize>,
        panels: &std::ops::Range<usize>,
        first_channel: usize,
        dst: Dst<'_, f32>,
    ) {
        let kind = match activation {
            Activation::None | Activation::Relu => return,
            Activation::Tanh => UnaryKind::Tanh,
            Activation::Sigmoid => UnaryKind::Sigmoid,
        };
        let rows = self.rows(lattice, cut, tiles.start).start..self.rows(lattice, cut, tiles.end - 1).end;
        let nr = self.problem.nr();
        let (from, to) = (panels.start * nr, (panels.end * nr).min(self.problem.channels));
        // SAFETY: the caller's word.
        unsafe {
            if to - from == self.dst_channels {
                let count = rows.len() * self.dst_channels;
                apply(self.problem.isa, kind, dst.at(rows.start * self.dst_channels, count), count);
                return;
            }
            for row in rows {
                let at = dst.at(row * self.dst_channels + first_channel + from, to - from);
                apply(self.problem.isa, kind, at, to - from);
            }
        }
    }

    fn name(&self, what: &str) -> String {
        format!("{what}_{}x{}_{}", self.mr, self.problem.nr(), self.problem.isa.name())
    }
}

/// One task's scratch: zeros, then per tile of the block its results, counts, segment numbers, pointers and patches.
#[derive(Clone, Copy)]
struct Scratch {
    base: *mut f32,
    zeros: usize,
    mr: usize,
    segments: usize,
    patch: usize,
    tile: usize,
}

/// Floats a pointer takes.
const POINTER: usize = size_of::<*const f32>() / size_of::<f32>();

impl Scratch {
    /// # Safety
    /// `base` has room for [`Scratch::floats`] floats on a 64-byte boundary.
    unsafe fn new(lattice: &Lattice, mr: usize, base: *mut f32) -> Self {
        let (zeros, tile) = Self::sizes(lattice, mr);
        // SAFETY: the zeros come first.
        unsafe { std::ptr::write_bytes(base, 0, zeros) };
        Self { base, zeros, mr, segments: lattice.segments(), patch: lattice.patch_len(), tile }
    }

    /// Floats of the zeros and of one tile.
    fn sizes(lattice: &Lattice, mr: usize) -> (usize, usize) {
        let segments = lattice.segments();
        let pointers = (mr + segments * mr) * POINTER;
        let numbers = 1 + segments;
        let patches = mr * segments * lattice.patch_len();
        (lattice.segment_len().next_multiple_of(16), (pointers + numbers + patches).next_multiple_of(16))
    }

    fn floats(lattice: &Lattice, mr: usize, block: usize) -> usize {
        let (zeros, tile) = Self::sizes(lattice, mr);
        zeros + block * tile
    }

    fn results(&self, slot: usize) -> *mut *mut f32 {
        self.base.wrapping_add(self.zeros + slot * self.tile).cast()
    }

    fn table(&self, slot: usize) -> *mut *const f32 {
        self.results(slot).wrapping_add(self.mr).cast()
    }

    fn numbers(&self, slot: usize) -> *mut u32 {
        self.table(slot).wrapping_add(self.segments * self.mr).cast()
    }

    /// The number of segments in the table, kept behind the segment numbers.
    fn count_at(&self, slot: usize) -> *mut u32 {
        self.numbers(slot).wrapping_add(self.segments)
    }

    unsafe fn count(&self, slot: usize) -> usize {
        // SAFETY: written by `fill`.
        unsafe { *self.count_at(slot) as usize }
    }

    /// Writes the tables of a tile. Segments that are padding for all its rows are left out.
    ///
    /// # Safety
    /// `source` is the lattice's source at the group's first channel; `rows` has 1 to `mr` result pixels.
    unsafe fn fill(
        &self,
        lattice: &Lattice,
        slot: usize,
        rows: std::ops::Range<usize>,
        source: *const f32,
        result: impl Fn(super::gather::Walk) -> *mut f32,
    ) {
        let zeros = self.base.cast_const();
        let patches = self.count_at(slot).wrapping_add(1).cast::<f32>();
        let (results, table, numbers) = (self.results(slot), self.table(slot), self.numbers(slot));
        let mut walks = [lattice.walk(rows.start); MAX_ROWS];
        let mut walk = walks[0];
        // SAFETY: tables hold `mr` rows and all segments; the rest is the caller's word.
        unsafe {
            for (i, place) in walks.iter_mut().enumerate().take(rows.len()) {
                *place = walk;
                *results.add(i) = result(walk);
                walk.step(lattice);
            }
            let mut kept = 0;
            for number in 0..self.segments {
                let (r, c) = lattice.position(number);
                let pointers = table.add(kept * rows.len());
                let mut used = false;
                for (i, &at) in walks.iter().enumerate().take(rows.len()) {
                    let patch = patches.wrapping_add((number * self.mr + i) * self.patch);
                    let pointer = lattice.segment(at, r, c, source, zeros, patch);
                    used |= pointer != zeros;
                    *pointers.add(i) = pointer;
                }
                if used {
                    *numbers.add(kept) = number as u32;
                    kept += 1;
                }
            }
            *self.count_at(slot) = kept as u32;
        }
    }
}

/// Convolution. Operands: input, packed weights, bias (if the epilogue has one), output.
#[derive(Debug)]
pub struct Forward {
    inner: Indirect,
    epilogue: Epilogue,
}

impl Forward {
    /// A convolution of this geometry.
    pub fn new(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        let inner = Indirect::new(Problem::forward(isa, geometry), [geometry.oh, geometry.ow], geometry.oc);
        Self { inner, epilogue }
    }
}

impl Kernel for Forward {
    fn name(&self) -> String {
        self.inner.name("conv_direct")
    }

    fn tasks(&self) -> usize {
        self.inner.tasks
    }

    fn scratch(&self) -> usize {
        self.inner.scratch()
    }

    fn flops(&self) -> u64 {
        self.inner.problem.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let bias = self.epilogue.bias.then(|| args.src::<f32>(2));
        let dst = args.dst::<f32>(2 + usize::from(self.epilogue.bias));
        // SAFETY: the caller's word.
        unsafe { self.inner.run(task, args.src(0), args.src(1), bias, dst, self.epilogue.activation, scratch) }
    }
}

/// Data gradient. Operands: gradient by the output, packed weights, gradient by the input (every element is written).
#[derive(Debug)]
pub struct BackwardData(Indirect);

impl BackwardData {
    /// The data gradient of this convolution.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        Self(Indirect::new(Problem::backward(isa, geometry), [geometry.ih, geometry.iw], geometry.ic))
    }
}

impl Kernel for BackwardData {
    fn name(&self) -> String {
        self.0.name("conv_backward_data")
    }

    fn tasks(&self) -> usize {
        self.0.tasks
    }

    fn scratch(&self) -> usize {
        self.0.scratch()
    }

    fn flops(&self) -> u64 {
        self.0.problem.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        // SAFETY: the caller's word.
        unsafe { self.0.run(task, args.src(0), args.src(1), None, args.dst(2), Activation::None, scratch) }
    }
}
