//! Weights in the order in which the product reads them.
//!
//! Per class of result pixels and per group: panels of `nr` result channels; in a panel, for every tap of the class in
//! segment order and every reduced channel, `nr` weights, zero beyond the last channel.

use super::Geometry;
use super::gather::{Axis, Lattice};
use crate::kernels::Kernel;
use crate::simd::Isa;
use crate::tensor::Args;

/// One dense sub-problem: a lattice of result pixels and where its weights start in the packed copy.
#[derive(Debug, Clone)]
pub struct Class {
    pub lattice: Lattice,
    pub packed_start: usize,
}

/// A convolution or its data gradient as matrix products over lattices.
#[derive(Debug, Clone)]
pub struct Problem {
    pub isa: Isa,
    pub geometry: Geometry,
    pub classes: Vec<Class>,
    /// Result channels of one group.
    pub channels: usize,
    /// Vectors per panel: one if a group's channels fit one vector.
    pub vectors: usize,
    backward: bool,
}

impl Problem {
    pub fn forward(isa: Isa, geometry: Geometry) -> Self {
        let class = Class { lattice: Lattice::forward(&geometry), packed_start: 0 };
        Self::new(isa, geometry, vec![class], false)
    }

    pub fn backward(isa: Isa, geometry: Geometry) -> Self {
        let [sh, sw] = geometry.window.stride;
        let mut classes = Vec::new();
        for y in 0..sh.min(geometry.ih) {
            for x in 0..sw.min(geometry.iw) {
                let (h, w) = (Axis::backward(&geometry, 0, y), Axis::backward(&geometry, 1, x));
                let lattice = Lattice::new(geometry.n, h, w, geometry.oc, geometry.groups);
                classes.push(Class { lattice, packed_start: 0 });
            }
        }
        Self::new(isa, geometry, classes, true)
    }

    fn new(isa: Isa, geometry: Geometry, classes: Vec<Class>, backward: bool) -> Self {
        let channels = if backward { geometry.group_ic() } else { geometry.group_oc() };
        let vectors = if channels <= isa.lanes() { 1 } else { 2 };
        let mut problem = Self { isa, geometry, classes, channels, vectors, backward };
        let mut start = 0;
        for index in 0..problem.classes.len() {
            problem.classes[index].packed_start = start;
            start += problem.panel_len(index) * problem.panels() * geometry.groups;
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

    fn packed_len(&self) -> usize {
        (0..self.classes.len()).map(|class| self.group_len(class) * self.geometry.groups).sum()
    }

    fn format(&self, direction: &str) -> String {
        let Geometry { ic, oc, groups, window, .. } = self.geometry;
        // Which classes exist depends on the input only if it is smaller than the stride.
        let classes = self.classes.len();
        format!("{direction} {} ic{ic}oc{oc}g{groups}c{classes}{}", self.isa.name(), window.describe())
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
        let Class { lattice, packed_start } = &self.classes[class];
        let (nr, oc) = (self.nr(), self.geometry.oc);
        let (ic, first) = (self.geometry.group_ic(), panel * nr);
        let valid = nr.min(self.channels - first);
        let mut at = packed_start + group * self.group_len(class) + panel * self.panel_len(class);
        for &m in &lattice.h.taps {
            for &n in &lattice.w.taps {
                let tap = (m * self.geometry.window.kernel[1] + n) * ic;
                for reduced in 0..lattice.group_channels {
                    for lane in 0..nr {
                        let channel = first + lane;
                        let source = if self.backward {
                            (tap + channel) * oc + group * self.geometry.group_oc() + reduced
                        } else {
                            (tap + reduced) * oc + group * self.channels + channel
                        };
                        // SAFETY: both inside their operands; this panel belongs to this task.
                        unsafe { packed.set(at + lane, if lane < valid { weights.get(source) } else { 0.0 }) };
                    }
                    at += nr;
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
