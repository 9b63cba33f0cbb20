//! Weights in the order in which the product reads them.
//!
//! Per class of result pixels and per group: panels of `nr` result channels; in a panel, for every tap of the class in
//! segment order and every reduced channel, `nr` weights, zero beyond the last channel.
//!
//! Where the result has fewer channels than a vector has lanes, neighbouring result pixels are *folded*: a vector holds
//! the channels of several, their kernel row covers what all of them read, and weights are zero where a pixel does not
//! reach.

use super::Geometry;
use super::gather::{Axis, Lattice, reads_rows};
use crate::kernels::Kernel;
use crate::kernels::panels::{Weights, fill};
use crate::simd::Isa;
use crate::tensor::Args;

/// One dense sub-problem: a lattice of result pixels and where its weights start in the packed copy.
#[derive(Debug, Clone)]
pub struct Class {
    pub lattice: Lattice,
    pub packed_start: usize,
    /// Distance of folded pixels in the source.
    pub fold_step: usize,
}

/// A convolution or its data gradient as matrix products over lattices.
#[derive(Debug, Clone)]
pub struct Problem {
    pub isa: Isa,
    pub geometry: Geometry,
    pub classes: Vec<Class>,
    /// Result channels of one group, of all folded pixels.
    pub channels: usize,
    /// Result pixels that lie side by side in a vector.
    pub fold: usize,
    /// Vectors per panel: one if a group's channels fit one vector.
    pub vectors: usize,
    backward: bool,
}

impl Problem {
    pub fn forward(isa: Isa, geometry: Geometry) -> Self {
        let axes = vec![[Axis::forward(&geometry, 0), Axis::forward(&geometry, 1)]];
        Self::new(isa, geometry, axes, false)
    }

    pub fn backward(isa: Isa, geometry: Geometry) -> Self {
        let [sh, sw] = geometry.window.stride;
        let mut axes = Vec::new();
        for y in 0..sh.min(geometry.ih) {
            for x in 0..sw.min(geometry.iw) {
                axes.push([Axis::backward(&geometry, 0, y), Axis::backward(&geometry, 1, x)]);
            }
        }
        Self::new(isa, geometry, axes, true)
    }

    fn new(isa: Isa, geometry: Geometry, axes: Vec<[Axis; 2]>, backward: bool) -> Self {
        let (channels, reduced) =
            if backward { (geometry.group_ic(), geometry.oc) } else { (geometry.group_oc(), geometry.ic) };
        let foldable = axes.len() == 1 && reads_rows(&axes[0][1], reduced / geometry.groups, geometry.groups);
        let fold = if foldable { axes[0][1].best_fold(channels, isa.lanes()) } else { 1 };
        let channels = channels * fold;
        let vectors = if channels <= isa.lanes() { 1 } else { 2 };
        let mut problem = Self { isa, geometry, classes: Vec::new(), channels, fold, vectors, backward };
        let mut start = 0;
        for (index, [h, w]) in axes.into_iter().enumerate() {
            let fold_step = w.src_step;
            let w = if fold > 1 { w.folded(fold) } else { w };
            let lattice = Lattice::new(geometry.n, h, w, reduced, geometry.groups);
            problem.classes.push(Class { lattice, packed_start: start, fold_step });
            start += problem.group_len(index) * geometry.groups;
        }
        problem
    }

    /// Result channels per panel.
    pub fn nr(&self) -> usize {
        self.vectors * self.isa.lanes()
    }

    /// Panels of one group.
    pub fn panels(&self) -> usize {
        self.channels.div_ceil(self.nr())
    }

    /// Packed floats of one panel of a class.
    pub fn panel_len(&self, class: usize) -> usize {
        self.classes[class].lattice.depth() * self.nr()
    }

    /// Packed floats of one class and group.
    pub fn group_len(&self, class: usize) -> usize {
        self.panel_len(class) * self.panels()
    }

    /// Packed floats of all classes and groups.
    pub fn packed_len(&self) -> usize {
        (0..self.classes.len()).map(|class| self.group_len(class) * self.geometry.groups).sum()
    }

    fn format(&self, direction: &str) -> String {
        let Geometry { ic, oc, groups, window, .. } = self.geometry;
        // Of the input's size only two things matter: how many pixels fold, and whether it is smaller than the stride.
        let (fold, classes) = (self.fold, self.classes.len());
        format!("{direction} {} ic{ic}oc{oc}g{groups}f{fold}c{classes}{}", self.isa.name(), window.describe())
    }

    /// Packs panel number `task`, counted over classes, groups and panels.
    ///
    /// # Safety
    /// Operands: the weight and a packed copy of `packed_len()` floats.
    unsafe fn pack(&self, task: usize, args: &Args<'_>) {
        let (weights, packed) = (args.src::<f32>(0), args.dst::<f32>(1));
        let per_class = self.geometry.groups * self.panels();
        let (class, rest) = (task / per_class, task % per_class);
        let (group, panel) = (rest / self.panels(), rest % self.panels());
        let Class { lattice, packed_start, fold_step } = &self.classes[class];
        let (nr, oc, ic) = (self.nr(), self.geometry.oc, self.geometry.group_ic());
        let (depth, single) = (lattice.group_channels, self.channels / self.fold);
        if depth == 0 {
            return;
        }
        let columns = lattice.w.taps.len() + (self.fold - 1) * fold_step;
        let start = packed_start + group * self.group_len(class) + panel * self.panel_len(class);
        for (row, &m) in lattice.h.taps.iter().enumerate() {
            for column in 0..columns {
                let at = start + (row * columns + column) * depth * nr;
                if self.fold == 1 {
                    let tap = (m * self.geometry.window.kernel[1] + lattice.w.taps[column]) * ic;
                    let (first, channels) = (panel * nr, nr.min(single - panel * nr));
                    let (from, len) = if self.backward {
                        ((tap + first) * oc + group * self.geometry.group_oc(), (channels - 1) * oc + depth)
                    } else {
                        (tap * oc + group * single + first, (depth - 1) * oc + channels)
                    };
                    let (from, to) = (weights.at(from, len), packed.at(at, depth * nr));
                    let of = Weights { from, pitch: oc, depth, channels, nr, to };
                    // SAFETY: both inside their operands; this panel belongs to this task.
                    unsafe { fill(self.isa, &of, self.backward) };
                    continue;
                }
                for lane in 0..nr {
                    let (pixel, channel) = ((panel * nr + lane) / single, (panel * nr + lane) % single);
                    let tap = column.checked_sub(pixel * fold_step).and_then(|tap| lattice.w.taps.get(tap));
                    let weight = tap.filter(|_| pixel < self.fold).map(|n| {
                        let tap = (m * self.geometry.window.kernel[1] + n) * ic;
                        if self.backward {
                            ((tap + channel) * oc + group * self.geometry.group_oc(), 1)
                        } else {
                            (tap * oc + group * single + channel, oc)
                        }
                    });
                    let to = packed.at(at, depth * nr).wrapping_add(lane);
                    // SAFETY: both inside their operands; this panel belongs to this task.
                    unsafe {
                        if let Some((first, pitch)) = weight {
                            let from = weights.at(first, (depth - 1) * pitch + 1);
                            for reduced in 0..depth {
                                *to.wrapping_add(reduced * nr) = from.wrapping_add(reduced * pitch).read_unaligned();
                            }
                        } else {
                            for reduced in 0..depth {
                                *to.wrapping_add(reduced * nr) = 0.0;
                            }
                        }
                    }
                }
            }
        }
    }
}

macro_rules! pack_kernel {
    ($(#[$meta:meta])* $name:ident, $problem:ident, $direction:literal) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name(Problem);

        impl $name {
            /// Packing for this convolution.
            pub fn new(isa: Isa, geometry: Geometry) -> Self {
                Self(Problem::$problem(isa, geometry))
            }

            /// Floats of the packed copy.
            pub fn packed_len(&self) -> usize {
                self.0.packed_len()
            }

            /// Equal for equal layouts of the packed copy.
            pub fn format(&self) -> String {
                self.0.format($direction)
            }
        }

        impl Kernel for $name {
            fn name(&self) -> String {
                concat!("pack_", $direction).to_owned()
            }

            fn tasks(&self) -> usize {
                self.0.classes.len() * self.0.geometry.groups * self.0.panels()
            }

            fn flops(&self) -> u64 {
                0
            }

            unsafe fn run(&self, task: usize, args: &Args<'_>, _scratch: *mut u8) {
                // SAFETY: the caller's word.
                unsafe { self.0.pack(task, args) }
            }
        }
    };
}

pack_kernel! {
    /// Packs weights for [`Forward`](super::Forward). Operands: weights, packed.
    PackForward, forward, "forward"
}
pack_kernel! {
    /// Packs weights for [`BackwardData`](super::BackwardData). Operands: weights, packed.
    PackBackwardData, backward, "backward_data"
}
