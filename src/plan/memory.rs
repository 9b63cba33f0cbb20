//! Places buffers in one arena so that buffers alive at the same time never overlap. Pure.

use crate::tensor::{ALIGN, GUARD};

/// A buffer's size and the first and last step that touch it.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// What it takes of the arena, with its guard in debug builds.
    fn room(&self) -> usize {
        (self.bytes + GUARD).next_multiple_of(ALIGN)
    }
}

/// Up to so many bytes in all, every buffer has a place of its own. A thread then finds in its core's caches what it wrote
/// there in the run before; where buffers that are cut differently share memory, another core wrote it.
const APART: usize = 8 << 20;

/// Offsets of all buffers and the bytes of the whole arena.
pub fn place(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let (offsets, total) = side_by_side(lifetimes);
    if total <= APART { (offsets, total) } else { shared(lifetimes) }
}

fn side_by_side(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut total = 0;
    let offset = |life: &Lifetime| {
        total += life.room();
        total - life.room()
    };
    (lifetimes.iter().map(offset).collect(), total)
}

/// Largest first, each at the lowest offset that is free for its whole life.
fn shared(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lifetimes[index].bytes), lifetimes[index].first, index));
    let mut offsets = vec![0; lifetimes.len()];
    let mut placed: Vec<usize> = Vec::new(); // by ascending offset
    let mut total = 0;
    for index in order {
        let life = lifetimes[index];
        let bytes = life.room();
        let mut offset = 0;
        for &other in &placed {
            if !lifetimes[other].meets(&life) {
                continue;
            }
            if offset + bytes <= offsets[other] {
                break;
            }
            offset = offset.max(offsets[other] + lifetimes[other].room());
        }
        offsets[index] = offset;
        total = total.max(offset + bytes);
        let at = placed.partition_point(|&other| offsets[other] <= offset);
        placed.insert(at, index);
    }
    (offsets, total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Lifetime> = (0..6).map(|i| Lifetime { bytes: 1000, first: i, last: i + 1 }).collect();
        assert_eq!(shared(&chain).1, 2 * (1024 + GUARD));
        assert_eq!(place(&chain), side_by_side(&chain));
    }

    proptest! {
        #[test]
        fn buffers_alive_together_never_overlap(
            spans in prop::collection::vec((0usize..5000, 0usize..20, 0usize..8), 0..40),
        ) {
            let lifetimes: Vec<Lifetime> =
                spans.iter().map(|&(bytes, first, length)| Lifetime { bytes, first, last: first + length }).collect();
            for (offsets, total) in [shared(&lifetimes), side_by_side(&lifetimes)] {
                for (i, a) in lifetimes.iter().enumerate() {
                    prop_assert!(offsets[i] % ALIGN == 0 && offsets[i] + a.bytes + GUARD <= total);
                    for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                        let ends = [offsets[i] + a.bytes + GUARD, offsets[j] + b.bytes + GUARD];
                        let apart = ends[0] <= offsets[j] || ends[1] <= offsets[i];
                        prop_assert!(apart || !a.meets(b));
                    }
                }
            }
        }
    }
}
