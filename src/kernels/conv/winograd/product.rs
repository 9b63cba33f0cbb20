//! Forward and data gradient: how the work is cut, and what a task runs of the [`stages`](super::stages).

use super::pack::{Panels, transform_weights};
use super::source::{Positions, spare_len, transform_source};
use super::stages::{Behind, Run};
use super::{Geometry, Scheme, Task, Tile};
use crate::kernels::conv::micro::tile_rows;
use crate::kernels::conv::moments::{self, Part};
use crate::kernels::conv::sums::Passed;
use crate::kernels::conv::{ByChannels, Epilogue};
use crate::kernels::streaming::{settle, streams};
use crate::kernels::{Kernel, share};
use crate::simd::Isa;
use crate::tensor::Args;
use std::ops::Range;

/// Bytes of positions that a block may take of the second-level cache.
const CACHE: usize = 640 << 10;
/// Tiles of a block: fewer leave the products too few rows, more gain nothing.
const BLOCK: [usize; 2] = [12, 60];
/// Up to so many tiles, or half as many as there are result channels, the work is shared out by panels: then reading all
/// positions for every panel takes less than reading all weights for every block, unless these are of few channels.
const FEW: usize = 128;
/// Bytes of all positions up to which every thread makes its own: it takes less time than reading what another one has
/// just written.
const OWN: usize = 1 << 20;
/// Source channels whose weights are transformed at a time where they are used: a multiple of what is summed at a time.
const DEPTH: usize = 64;
/// Tiles that one task transforms where it is.
const TILES: usize = 4;

/// How the work is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// A task takes a block of tiles through all panels.
    Blocks { blocks: usize },
    /// The tiles are transformed first, by every thread for itself if `own`, or into an operand; then a task takes a panel
    /// through all tiles. The weights are those of the layer if `raw`: each panel is transformed where it is used.
    Panels { raw: bool, own: bool },
}

/// A convolution, or a data gradient, by [`Task`]. Operands: source, weights, those of the epilogue
/// ([`Epilogue::operands`]), result, positions (if [`positions_len`](Self::positions_len) is not 0), partial statistics of
/// the result ([`with_moments`](Self::with_moments)) or the operands of [`Passed`]. The weights are packed unless
/// [`takes_raw`](Self::takes_raw); what is added may be the memory of the result.
#[derive(Debug)]
pub struct Product {
    pub(super) isa: Isa,
    pub(super) task: Task,
    pub(super) epilogue: Epilogue,
    pub(super) panels: Panels,
    cut: Cut,
    flops: u64,
    pub(super) pool: bool,
    moments: bool,
    passed: Option<Passed>,
}

impl Product {
    /// The convolution of this geometry; `packed` says that packed weights can be kept from call to call.
    pub fn forward(isa: Isa, geometry: &Geometry, epilogue: Epilogue, packed: bool) -> Self {
        Self::new(isa, Task::forward(geometry), epilogue, geometry.flops(), packed)
    }

    /// Its data gradient.
    pub fn backward_data(isa: Isa, geometry: &Geometry, packed: bool) -> Self {
        Self::new(isa, Task::backward_data(geometry), Epilogue::default(), geometry.flops(), packed)
    }

    fn new(isa: Isa, task: Task, epilogue: Epilogue, flops: u64, packed: bool) -> Self {
        let panels = Panels::new(isa, &task);
        let tiles = task.tiles();
        let cut = if tiles <= FEW.max(task.dc / 2) && task.space_to_depth.is_none() {
            Cut::Panels { raw: !packed, own: task.places(tiles, task.sc).floats() * size_of::<f32>() <= OWN }
        } else {
            let room = CACHE / (task.positions() * size_of::<f32>() * (task.sc + panels.nr));
            Cut::Blocks { blocks: tiles.div_ceil(room.clamp(BLOCK[0], BLOCK[1])).next_multiple_of(2) }
        };
        Self { isa, task, epilogue, panels, cut, flops, pool: false, moments: false, passed: None }
    }

    /// Whether [`pooled`](Self::pooled) is possible: of large tiles that hold whole windows, with nothing added, and no
    /// activation but relu.
    pub fn pools(geometry: &Geometry, epilogue: Epilogue) -> bool {
        let task = Task::forward(geometry);
        let whole = task.scheme == Scheme::F4 && task.dh.is_multiple_of(2) && task.dw.is_multiple_of(2);
        whole && !epilogue.add && epilogue.later().is_none()
    }

    /// The same with the largest of every 2×2 results as its result: maximum pooling.
    #[must_use]
    pub fn pooled(self) -> Self {
        debug_assert!(self.task.scheme == Scheme::F4 && !self.epilogue.add && self.epilogue.later().is_none());
        Self { pool: true, ..self }
    }

    /// Why [`with_moments`](Self::with_moments) is impossible or does not pay, if it is so: a rule in shape and level
    /// only.
    pub fn moments_refusal(&self) -> Option<String> {
        let Epilogue { norm, add, .. } = self.epilogue;
        let more = norm || add || self.epilogue.later().is_some();
        if more { Some("more than a bias and relu behind".to_owned()) } else { moments::refusal(&self.parts()) }
    }

    /// The same that also takes the partial statistics of its results, which the last operand holds as that of
    /// [`Moments`](crate::kernels::norm::Moments): per part a mean per channel, then the squared deviations.
    #[must_use]
    pub fn with_moments(self) -> Self {
        debug_assert!(!self.pool && self.moments_refusal().is_none());
        Self { moments: true, ..self }
    }

    /// Whether it takes them.
    pub fn takes_moments(&self) -> bool {
        self.moments
    }

    /// Why [`passing`](Self::passing) does not pay, if it is so: a rule in shape and level only.
    pub fn sums_refusal(&self) -> Option<String> {
        moments::refusal(&self.parts())
    }

    /// The same data gradient on the way into a normalization.
    #[must_use]
    pub fn passing(self, passed: Passed) -> Self {
        debug_assert!(self.task.turned && self.sums_refusal().is_none());
        Self { epilogue: passed.epilogue(), passed: Some(passed), ..self }
    }

    /// Pixels of every part of the statistics or sums: the tiles of a task.
    pub fn parts(&self) -> Vec<usize> {
        let parts = if let Cut::Blocks { blocks } = self.cut { blocks } else { 1 };
        let pixels = |tile| self.place(self.task.tile(tile)).1.iter().product::<usize>();
        (0..parts).map(|part| share(part, parts, self.task.tiles()).map(pixels).sum()).collect()
    }

    /// Whether a result is neither read before it is written nor soon after.
    fn writes_once(&self) -> bool {
        let Epilogue { add, .. } = self.epilogue;
        matches!(self.cut, Cut::Blocks { .. }) && self.passed.is_none() && self.epilogue.later().is_none() && !add
    }

    /// What is written along an axis for so many results, without a division.
    pub(super) fn written(&self, results: usize) -> usize {
        results >> u32::from(self.pool)
    }

    /// Floats of a line of what is written.
    pub(super) fn line(&self) -> usize {
        self.written(self.task.dw) * self.task.dc
    }

    /// Floats to the first thing that is written of a tile, and its rows and columns of results.
    pub(super) fn place(&self, Tile { image, y, x }: Tile) -> (usize, [usize; 2]) {
        let of = &self.task;
        let at = self.written(image * of.dh + y) * self.line() + self.written(x) * of.dc;
        (at, [of.dh - y, of.dw - x].map(|left| left.min(of.scheme.out)))
    }

    /// Whether the weights are wanted as the layer has them.
    pub fn takes_raw(&self) -> bool {
        matches!(self.cut, Cut::Panels { raw: true, .. })
    }

    /// Floats of the operand that holds positions.
    pub fn positions_len(&self) -> usize {
        match self.cut {
            Cut::Panels { own: false, .. } => self.all().floats(),
            _ => 0,
        }
    }

    /// Positions of all tiles.
    fn all(&self) -> Positions {
        self.task.places(self.task.tiles(), self.task.sc)
    }

    /// The tasks of the last phase, which multiply.
    fn multiplying(&self) -> Range<usize> {
        self.phase(self.phases() - 1)
    }

    /// Floats of the packed weights.
    pub fn packed_len(&self) -> usize {
        self.panels.floats()
    }

    /// Takes tiles through all stages and panels, `behind` which others follow; there is room for the positions of so many.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `spare` was zero before the first block.
    pub(super) unsafe fn block(
        &self,
        run: &mut Run,
        behind: Tile,
        (source, room): (*mut f32, usize),
        spare: *mut f32,
        packed: *const f32,
    ) {
        let of = &self.task;
        let places = of.places(room, of.sc);
        if of.space_to_depth.is_none() {
            let products = self.panels.count * of.positions();
            run.behind = Some(Behind::new(behind, run.count * of.scheme.step, products));
        }
        // SAFETY: the caller's word.
        unsafe {
            transform_source(self.isa, of, (run.first, run.count), run.src, spare, source, &places);
            for panel in 0..self.panels.count {
                let weights = packed.wrapping_add(self.panels.start(panel, 0));
                self.multiply(run, source, places, panel, weights);
            }
        }
    }

    pub(super) fn layout(&self) -> Layout {
        let (tiles, source, weights) = match self.cut {
            Cut::Blocks { blocks } => {
                let tiles = self.task.tiles().div_ceil(blocks);
                (tiles, self.task.places(tiles, self.task.sc).floats(), 0)
            }
            Cut::Panels { raw, own } => (
                self.task.tiles(),
                if own { self.all().floats() } else { 0 },
                if raw { self.panels.with_depth(DEPTH.min(self.task.sc)).panel_len() } else { 0 },
            ),
        };
        let spare = spare_len(&self.task);
        Layout { tiles, source, weights, sums: self.task.places(tiles, self.panels.nr), spare }
    }
}

/// Scratch of a task: positions of the source, a panel of weights, positions of the sums, what transforms want.
pub(super) struct Layout {
    pub(super) tiles: usize,
    pub(super) source: usize,
    weights: usize,
    pub(super) sums: Positions,
    pub(super) spare: usize,
}

impl Layout {
    fn floats(&self) -> usize {
        self.source + self.weights + self.sums.floats() + self.spare
    }
}

impl ByChannels for Product {
    fn owns_channels(&self) -> bool {
        matches!(self.cut, Cut::Panels { .. }) && !self.multiplying().is_empty() && !self.pool
    }

    fn channels_of(&self, task: usize) -> Range<usize> {
        let start = |panel: usize| (panel * self.panels.nr).min(self.task.dc);
        task.checked_sub(self.multiplying().start).map_or(0..0, |panel| start(panel)..start(panel + 1))
    }

    fn result(&self) -> usize {
        2 + self.epilogue.operands()
    }

    fn name_with(&self, behind: &str) -> String {
        let what = if self.task.turned { "conv_winograd_backward_data" } else { "conv_winograd" };
        let cut = if matches!(self.cut, Cut::Panels { .. }) { "_panels" } else { "" };
        let epilogue = self.passed.map_or_else(|| self.epilogue.name(), Passed::name);
        format!(
            "{what}{epilogue}{behind}_{}{cut}_{}x{}_{}",
            self.task.name(),
            tile_rows(self.isa, 2),
            self.panels.nr,
            self.isa.name()
        )
    }
}

impl Kernel for Product {
    fn name(&self) -> String {
        self.name_with(match (self.pool, self.moments) {
            (true, _) => "_max_pool",
            (_, true) => "_moments",
            _ => "",
        })
    }

    fn tasks(&self) -> usize {
        self.multiplying().end
    }

    fn phases(&self) -> usize {
        if self.positions_len() > 0 { 2 } else { 1 }
    }

    fn phase(&self, number: usize) -> Range<usize> {
        match (self.cut, number) {
            (Cut::Blocks { blocks }, _) => 0..blocks,
            (Cut::Panels { own: true, .. }, _) => 0..self.panels.count,
            (Cut::Panels { .. }, 0) => 0..self.task.tiles().div_ceil(TILES),
            (Cut::Panels { .. }, _) => {
                let start = self.task.tiles().div_ceil(TILES);
                start..start + self.panels.count
            }
        }
    }

    fn scratch(&self) -> usize {
        self.layout().floats() * size_of::<f32>()
    }

    fn flops(&self) -> u64 {
        self.flops
    }

    unsafe fn prepare(&self, args: &Args<'_>, scratch: *mut u8) {
        if !matches!(self.cut, Cut::Panels { own: true, .. }) {
            return;
        }
        let (of, layout, source) = (&self.task, self.layout(), scratch.cast::<f32>());
        let spare = source.wrapping_add(layout.floats() - layout.spare);
        let src = args.src::<f32>(0).at(0, of.n * of.image_len());
        // SAFETY: scratch is as large as `scratch()` says.
        unsafe {
            spare.write_bytes(0, layout.spare);
            transform_source(self.isa, of, (of.tile(0), of.tiles()), src, spare, source, &self.all());
        }
    }

    unsafe fn run(&self, task: usize, args: &Args<'_>, scratch: *mut u8) {
        let of = &self.task;
        let layout = self.layout();
        let source = scratch.cast::<f32>();
        let weights = source.wrapping_add(layout.source);
        let sums = weights.wrapping_add(layout.weights);
        let spare = sums.wrapping_add(layout.sums.floats());
        let src = args.src::<f32>(0).at(0, of.n * of.image_len());
        let (len, result) = (self.written(of.n * of.dh) * self.line(), self.result());
        let dst = args.dst::<f32>(result).at(0, len);
        // The tiles of this task.
        let transforms = task < self.multiplying().start;
        let tiles = match self.cut {
            Cut::Blocks { blocks } => share(task, blocks, of.tiles()),
            Cut::Panels { .. } if transforms => task * TILES..((task + 1) * TILES).min(of.tiles()),
            Cut::Panels { .. } => 0..of.tiles(),
        };
        let (count, first) = (tiles.len(), of.tile(tiles.start));
        let number = if let Cut::Blocks { .. } = self.cut { task } else { 0 };
        let finish = self.epilogue.finish(args, of.dc, len);
        let mut run = Run {
            part: self.moments.then(|| Part::new(self.isa, &args.dst(args.count() - 1), number, of.dc)),
            streams: self.writes_once() && streams(dst, len, of.dc),
            sums_part: self.passed.map(|passed| {
                let behind = result + 1 + usize::from(self.positions_len() > 0);
                passed.sums(self.isa, args, behind, len, of.dc).part(number)
            }),
            ..Run::new((first, count), (sums, layout.sums), finish, src, dst)
        };
        // SAFETY: scratch is as large as `scratch()` says; sources and results lie inside their operands; positions are
        // written in the first phase and read in the second.
        unsafe {
            match self.cut {
                Cut::Blocks { .. } => {
                    spare.write_bytes(0, layout.spare);
                    let packed = args.src::<f32>(1).at(0, self.panels.floats());
                    self.block(&mut run, of.tile(tiles.end), (source, layout.tiles), spare, packed);
                    if run.streams {
                        settle();
                    }
                }
                Cut::Panels { .. } if transforms => {
                    let places = self.all();
                    let positions = args.dst::<f32>(result + 1).at(0, places.floats());
                    spare.write_bytes(0, layout.spare);
                    let to = positions.wrapping_add(tiles.start * places.pitch);
                    transform_source(self.isa, of, (first, count), src, spare, to, &places);
                }
                Cut::Panels { raw, own } => {
                    let panel = task - self.multiplying().start;
                    let places = self.all();
                    let shared = || args.src::<f32>(result + 1).at(0, places.floats());
                    let positions = if own { source.cast_const() } else { shared() };
                    let given = args.src::<f32>(1);
                    if raw {
                        let given = given.at(0, of.weights_len());
                        let part = self.panels.with_depth(DEPTH.min(of.sc));
                        for first in (0..of.sc).step_by(DEPTH) {
                            let channels = first..of.sc.min(first + DEPTH);
                            transform_weights(self.isa, of, &part, panel, channels.clone(), given, weights);
                            let weights = (weights.cast_const(), part);
                            self.products(&mut run, positions, places, panel, weights, channels);
                        }
                        self.results(&run, panel);
                    } else {
                        let weights = given.at(self.panels.start(panel, 0), self.panels.panel_len());
                        self.multiply(&mut run, positions, places, panel, weights);
                    }
                }
            }
        }
    }
}
