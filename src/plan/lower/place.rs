//! The end of lowering: outputs get their memory, operands are reused in place, the arena is laid out.

use super::{DraftStep, Lowering};
use crate::graph::ValueId;
use crate::kernels::copy::Copy;
use crate::plan::memory::{Lifetime, place};
use crate::plan::{Buffer, Place, Plan, Step};
use crate::tensor::shape_text;

impl Lowering<'_> {
    /// Gives outputs their memory, reuses operands in place, and lays out the arena.
    pub(super) fn finish(mut self, outputs: &[ValueId]) -> Plan {
        for (index, &id) in outputs.iter().enumerate() {
            let buffer = self.buffer(id);
            if self.drafts[buffer].place.is_none() {
                self.drafts[buffer].place = Some(Place::Output(index));
                continue;
            }
            let bytes = self.drafts[buffer].bytes;
            let result = self.draft(Some(Place::Output(index)), bytes);
            let step = Step {
                kernel: Box::new(Copy::new(bytes)),
                operands: vec![buffer, result],
                op: "copy",
                name: String::new(),
                shape: shape_text(self.shape(id)),
                effect: false,
                results: Vec::new(),
                refused: Vec::new(),
            };
            let at = self.steps.iter().position(|draft| draft.step.effect).unwrap_or(self.steps.len());
            self.steps.insert(at, DraftStep { step, in_place: Vec::new() });
        }
        self.reuse_in_place();
        let lives = self.lives();
        let arena: Vec<usize> = (0..self.drafts.len()).filter(|&b| self.drafts[b].place.is_none()).collect();
        let lifetimes: Vec<Lifetime> = arena
            .iter()
            .map(|&b| {
                let (first, last) = lives[b].unwrap_or((0, 0));
                Lifetime { bytes: if lives[b].is_some() { self.drafts[b].bytes } else { 0 }, first, last }
            })
            .collect();
        let (offsets, arena_bytes) = place(&lifetimes);
        for (&buffer, offset) in arena.iter().zip(offsets) {
            self.drafts[buffer].place = Some(Place::Arena(offset));
        }
        let buffers: Vec<Buffer> = self
            .drafts
            .iter()
            .map(|draft| Buffer { place: draft.place.expect("every buffer was placed"), bytes: draft.bytes })
            .collect();
        let made = |&(_, buffer): &(usize, usize)| matches!(buffers[buffer].place, Place::Arena(_) | Place::Output(_));
        let first_touch = lives.iter().enumerate().filter_map(|(buffer, life)| Some(((*life)?.0, buffer)));
        let mut births: Vec<(usize, usize)> = first_touch.filter(made).collect();
        births.sort_unstable();
        let steps: Vec<Step> = self.steps.into_iter().map(|draft| draft.step).collect();
        let flops = steps.iter().map(|step| step.kernel.flops()).sum();
        Plan {
            single: steps.iter().map(|step| step.kernel.phases() == 1 && step.kernel.tasks() <= 1).collect(),
            buffers,
            packs: self.packs,
            constants: self.constants,
            inputs: Vec::new(),
            outputs: outputs
                .iter()
                .map(|&id| (self.graph.value(id).shape.as_slice().into(), self.graph.value(id).dtype))
                .collect(),
            written: self.written,
            first_effect: steps.iter().position(|step| step.effect).unwrap_or(steps.len()),
            births,
            arena_bytes,
            scratch_bytes: steps.iter().map(|step| step.kernel.scratch()).max().unwrap_or(0),
            flops,
            work: flops.max(self.drafts.iter().map(|draft| draft.bytes as u64).sum()),
            options: self.options,
            passes: Vec::new(),
            steps,
        }
    }

    /// First and last step that touches each buffer.
    fn lives(&self) -> Vec<Option<(usize, usize)>> {
        let mut lives = vec![None; self.drafts.len()];
        for (index, draft) in self.steps.iter().enumerate() {
            for &buffer in &draft.step.operands {
                let first = lives[buffer].map_or(index, |(first, _)| first);
                lives[buffer] = Some((first, index));
            }
        }
        lives
    }

    /// Where a step allows it and its operand is not needed afterwards, operand and result share memory.
    fn reuse_in_place(&mut self) {
        let mut lives = self.lives();
        for index in 0..self.steps.len() {
            for (from, to) in std::mem::take(&mut self.steps[index].in_place) {
                if self.share(index, from, to, &mut lives) {
                    break;
                }
            }
        }
    }

    /// Lets the memory of operand `from` of a step become that of operand `to`, if it may.
    fn share(&mut self, index: usize, from: usize, to: usize, lives: &mut [Option<(usize, usize)>]) -> bool {
        let operands = &self.steps[index].step.operands;
        let (from, to) = (operands[from], operands[to]);
        let dies_here = self.drafts[from].place.is_none() && lives[from].is_some_and(|(_, last)| last == index);
        let starts_here = matches!(self.drafts[to].place, None | Some(Place::Output(_)))
            && lives[to].is_some_and(|(first, _)| first == index);
        if !dies_here || !starts_here || from == to || self.drafts[from].bytes != self.drafts[to].bytes {
            return false;
        }
        for draft in &mut self.steps[..=index] {
            for operand in &mut draft.step.operands {
                if *operand == from {
                    *operand = to;
                }
            }
        }
        let (first, last) = (lives[from].map_or(index, |life| life.0), lives[to].map_or(index, |life| life.1));
        lives[to] = Some((first, last));
        lives[from] = None;
        true
    }
}
