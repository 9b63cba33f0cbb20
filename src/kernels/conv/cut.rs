//! How the work of direct convolution is cut into tasks: by pixels, by panels of weights, and in which order.

use super::gather::{Frame, Lattice};
use super::pack::Problem;
use super::tables::Reading;
use crate::kernels::tasks_for;
use crate::tensor::ALIGN;

/// Multiply-adds above which a task is cut further all the same: some milliseconds, after which the caller can look for
/// an interrupt.
const LONG_WORK: usize = 1 << 28;
/// Weights up to so many bytes stay in the cache while tiles pass; larger ones pass while tiles stay.
pub const RESIDENT: usize = 512 << 10;
/// Bytes of weights that such a task reads for all its pixels.
const PANELS: usize = 128 << 10;
/// Units of work up to which large weights are shared out over the tasks.
const FEW_UNITS: usize = 8;

/// How one class is cut.
#[derive(Debug)]
pub struct Cut {
    pub tasks: usize,
    pub row_tasks: usize,
    pub panel_tasks: usize,
    pub reading: Reading,
    pub frame: Frame,
    /// Whether the weights of a task stay in cache.
    pub resident: bool,
    /// Whether neighbouring tasks share panels rather than rows.
    pub panels_first: bool,
}

impl Cut {
    /// For a class of result pixels, tiles of `mr`; `copy_once` says that there is an operand for copies of units.
    pub fn new(problem: &Problem, class: usize, mr: usize, copy_once: bool) -> Self {
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
        Self { tasks, row_tasks, panel_tasks, reading, frame, resident, panels_first }
    }

    /// In one piece, whose weights stay in cache.
    pub fn whole(lattice: &Lattice, reading: Reading) -> Self {
        let frame = reading.frame(lattice);
        Self { tasks: 1, row_tasks: 1, panel_tasks: 1, reading, frame, resident: true, panels_first: false }
    }
}

/// Copies of all units, and floats of each.
#[derive(Debug, Clone, Copy)]
pub struct Copies {
    pub units: usize,
    pub len: usize,
}

/// What a convolution with one lattice copies of its source: once, if many panels would copy it again.
pub fn copied(problem: &Problem, cuts: &[Cut]) -> Option<Copies> {
    let ([cut], [class], 1) = (cuts, &problem.classes[..], problem.geometry.groups) else { return None };
    let len = cut.reading.head_len(&class.lattice).next_multiple_of(ALIGN / size_of::<f32>());
    let copied = cut.panels_first && cut.panel_tasks > 1 && cut.reading.copies();
    copied.then(|| Copies { units: cut.reading.units(&class.lattice), len })
}

/// The order of tasks in which any stretch of them has its share of each class: threads take stretches, and classes
/// differ in taps.
pub fn interleaved(cuts: &[Cut]) -> Vec<(usize, usize)> {
    let mut order: Vec<(usize, usize)> =
        cuts.iter().enumerate().flat_map(|(class, cut)| (0..cut.tasks).map(move |task| (class, task))).collect();
    // The middle of a task as a part of its class, in units that are whole numbers for every class.
    order.sort_by_key(|&(class, task)| ((2 * task + 1) << 32) / cuts[class].tasks);
    order
}
