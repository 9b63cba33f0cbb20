//! Forward and data gradient: lines of result pixels, every pixel gathers its taps.

use std::ops::Range;

use super::positions::{Positions, Units, pieces, split};
use super::tile::{Tile, tile, tile_pixels};
use crate::function::UnaryKind;
use crate::kernels::Kernel;
use crate::kernels::conv::epilogue::Finish;
use crate::kernels::conv::gather::Axis;
use crate::kernels::conv::{Epilogue, Geometry};
use crate::kernels::elementwise;
use crate::simd::Isa;
use crate::tensor::{Args, Dst, Src};

/// The common part of [`Forward`] and [`BackwardData`].
#[derive(Debug)]
struct Direct {
    isa: Isa,
    geometry: Geometry,
    channels: usize,
    /// Height and width of source and result.
    src_size: [usize; 2],
    dst_size: [usize; 2],
    /// Classes of result lines, by residue.
    h: Vec<Positions>,
    /// Classes of result columns, by residue.
    w: Vec<Positions>,
    units: Units,
    tasks: usize,
    /// Floats ahead that memory is asked for, or 0.
    ahead: usize,
}

/// Source and result together beyond so many bytes come from memory, not from a cache.
const FAR: usize = 16 << 20;
/// Then what so many floats further on will need is asked for in time.
const AHEAD: usize = 2048;

impl Direct {
    fn new(isa: Isa, geometry: Geometry, axes: [Vec<Axis>; 2], src_size: [usize; 2], dst_size: [usize; 2]) -> Self {
        let (channels, kernel_width) = (geometry.oc, geometry.window.kernel[1]);
        let positions = |axes: Vec<Axis>, pitch: usize, weight_pitch: usize| -> Vec<Positions> {
            axes.into_iter().map(|axis| Positions::new(axis, pitch * channels, weight_pitch * channels)).collect()
        };
        let [h, w] = axes;
        let (h, w) = (positions(h, src_size[1], kernel_width), positions(w, 1, 1));
        let work = (channels * geometry.taps()).div_ceil(h.len().max(1) * w.len().max(1));
        let units = Units::new(geometry.n * dst_size[0], dst_size[1], work);
        let tasks = units.tasks(work);
        let pixels = geometry.n * (src_size[0] * src_size[1] + dst_size[0] * dst_size[1]);
        let ahead = if pixels.saturating_mul(channels * size_of::<f32>()) > FAR { AHEAD } else { 0 };
        Self { isa, geometry, channels, src_size, dst_size, h, w, units, tasks, ahead }
    }

    /// # Safety
    /// `src`, `weights`, `finish` and `dst` are the operands of this geometry.
    unsafe fn run(
        &self,
        task: usize,
        src: Src<'_, f32>,
        weights: Src<'_, f32>,
        finish: Finish,
        dst: Dst<'_, f32>,
        activation: Option<UnaryKind>,
    ) {
        let channels = self.channels;
        let common = Tile {
            src: std::ptr::null(),
            src_pitch: 0,
            dense: false,
            ahead: self.ahead,
            rows: &[],
            columns: &[],
            weights: weights.at(0, self.geometry.taps() * channels),
            finish,
            dst: std::ptr::null_mut(),
            dst_pitch: 0,
            channels,
        };
        for unit in task * self.units.count() / self.tasks..(task + 1) * self.units.count() / self.tasks {
            let (line, columns) = self.units.get(unit);
            let (image, y) = (line / self.dst_size[0], line % self.dst_size[0]);
            let h = &self.h[y % self.h.len()];
            let i = y / h.result_step();
            let rows = &h.taps()[h.reached(i)];
            let src_line = (image * self.src_size[0] + i * h.source_step()) * self.src_size[1];
            let dst_line = line * self.dst_size[1];
            for w in &self.w {
                let run = |positions: Range<usize>, taps: Range<usize>| {
                    let columns = &w.taps()[taps];
                    let place = (src_line + positions.start * w.source_step()) * channels;
                    let pitch = w.result_step() * channels;
                    let span = (positions.len() - 1) * pitch + channels;
                    let call = Tile {
                        src: src.at(0, 0).wrapping_add(place),
                        src_pitch: w.source_step() * channels,
                        rows,
                        columns,
                        dense: w.is_dense(),
                        dst: dst.at((dst_line + w.result(positions.start)) * channels, span),
                        dst_pitch: pitch,
                        ..common
                    };
                    debug_assert!(self.reads_inside(&call, place, positions.len(), src.len()));
                    // SAFETY: rows and columns are those that these pixels reach; the results are this unit's.
                    unsafe { tile(self.isa, positions.len(), &call) };
                };
                let [before, inside, after] = split(&w.among(&columns), &w.inside());
                before.for_each(|x| run(x..x + 1, w.reached(x)));
                for piece in pieces(inside.len(), tile_pixels(self.isa)) {
                    run(inside.start + piece.start..inside.start + piece.end, 0..w.taps().len());
                }
                after.for_each(|x| run(x..x + 1, w.reached(x)));
            }
            if let Some(kind) = activation {
                let count = columns.len() * channels;
                let values = dst.at((dst_line + columns.start) * channels, count);
                // SAFETY: this unit's results, just written.
                unsafe { elementwise::activate(self.isa, kind, values, values, count) };
            }
        }
    }

    /// Whether the first and the last tap of a tile whose first pixel's place is float `place` lie inside the source.
    fn reads_inside(&self, tile: &Tile<'_>, place: usize, pixels: usize, len: usize) -> bool {
        let ([top, .., bottom] | [top @ bottom]) = tile.rows else { return true };
        let ([left, .., right] | [left @ right]) = tile.columns else { return true };
        let first = place as isize + top.source + left.source;
        let last = (place + (pixels - 1) * tile.src_pitch + self.channels) as isize + bottom.source + right.source;
        first >= 0 && last <= len as isize
    }

    fn name(&self, what: &str) -> String {
        format!("{what}_{}x{}_{}", tile_pixels(self.isa), self.isa.lanes(), self.isa.name())
    }
}

/// Depthwise convolution. Operands: input, weights, those of the epilogue ([`Epilogue::operands`]), output; input and
/// output have as many channels; what is added may be the memory of the output if [`Forward::adds_in_place`].
#[derive(Debug)]
pub struct Forward {
    inner: Direct,
    epilogue: Epilogue,
}

impl Forward {
    /// A convolution of this geometry on a source of its output channels.
    pub fn new(isa: Isa, geometry: Geometry, epilogue: Epilogue) -> Self {
        let axes = [0, 1].map(|axis| vec![Axis::forward(&geometry, axis)]);
        let (src, dst) = ([geometry.ih, geometry.iw], [geometry.oh, geometry.ow]);
        Self { inner: Direct::new(isa, geometry, axes, src, dst), epilogue }
    }

    /// Whether every result is written once, so that it may replace what is added to it: a last vector that is not full
    /// starts earlier and computes some channels a second time.
    pub fn adds_in_place(&self) -> bool {
        let (channels, lanes) = (self.inner.channels, self.inner.isa.lanes());
        channels < lanes || channels.is_multiple_of(lanes)
    }
}

impl Kernel for Forward {
    fn name(&self) -> String {
        self.inner.name(&format!("conv_depthwise{}", self.epilogue.name()))
    }

    fn tasks(&self) -> usize {
        self.inner.tasks
    }

    fn flops(&self) -> u64 {
        self.inner.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        let geometry = &self.inner.geometry;
        let finish = self.epilogue.finish(args, geometry.oc, geometry.dst_len());
        let dst = args.dst::<f32>(2 + self.epilogue.operands());
        // SAFETY: the caller's word.
        unsafe { self.inner.run(task, args.src(0), args.src(1), finish, dst, self.epilogue.later()) }
    }
}

/// Data gradient. Operands: gradient by the output, weights, gradient by the input (every element is written), of as many
/// channels.
#[derive(Debug)]
pub struct BackwardData(Direct);

impl BackwardData {
    /// The data gradient of this convolution by a source of its output channels.
    pub fn new(isa: Isa, geometry: Geometry) -> Self {
        let (src, dst) = ([geometry.oh, geometry.ow], [geometry.ih, geometry.iw]);
        let axes = [0, 1].map(|axis| {
            let residues = 0..geometry.window.stride[axis].min(dst[axis]);
            residues.map(|residue| Axis::backward(&geometry, axis, residue)).collect()
        });
        Self(Direct::new(isa, geometry, axes, src, dst))
    }
}

impl Kernel for BackwardData {
    fn name(&self) -> String {
        self.0.name("conv_depthwise_backward_data")
    }

    fn tasks(&self) -> usize {
        self.0.tasks
    }

    fn flops(&self) -> u64 {
        self.0.geometry.flops()
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
        // SAFETY: the caller's word.
        unsafe { self.0.run(task, args.src(0), args.src(1), Finish::NONE, args.dst(2), None) }
    }
}
