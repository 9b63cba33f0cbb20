//! Philox4x32-10: counter-based random numbers (Salmon, Moraes, Dror, Shaw, SC'11), keyed by (seed, stream).
//!
//! Element `i` of a stream is word `i mod 4` of block `i / 4`; nothing is kept between calls.

/// What a round multiplies by.
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// What the key grows by from round to round.
pub const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
/// Number of rounds.
pub const ROUNDS: usize = 10;

/// One block of four words.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let products = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        counter = [
            (products[1] >> 32) as u32 ^ counter[1] ^ key[0],
            products[1] as u32,
            (products[0] >> 32) as u32 ^ counter[3] ^ key[1],
            products[0] as u32,
        ];
    }
    counter
}

/// The words of one stream, in order.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    number: u64,
    index: u64,
    block: [u32; 4],
}

impl Stream {
    /// The stream's beginning.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], number: stream, index: 0, block: [0; 4] }
    }

    /// The next word.
    pub fn word(&mut self) -> u32 {
        let (block, lane) = (self.index / 4, (self.index % 4) as usize);
        if lane == 0 {
            let counter = [block as u32, (block >> 32) as u32, self.number as u32, (self.number >> 32) as u32];
            self.block = philox(counter, self.key);
        }
        self.index += 1;
        self.block[lane]
    }

    /// A float in [0, 1) on a grid of 2⁻²⁴.
    pub fn uniform(&mut self) -> f32 {
        (self.word() >> 8) as f32 / 16_777_216.0
    }

    /// An integer in `0..bound`, without bias: draws beyond the last whole multiple are thrown away.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0);
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let draw = (u64::from(self.word()) << 32) | u64::from(self.word());
            if draw < limit {
                return draw % bound;
            }
        }
    }
}

/// Writes a permutation of `0..order.len()`, made by Fisher and Yates from the top down.
pub fn permutation(seed: u64, stream: u64, order: &mut [i64]) {
    let mut stream = Stream::new(seed, stream);
    order.iter_mut().zip(0..).for_each(|(place, number)| *place = number);
    for top in (1..order.len()).rev() {
        order.swap(top, stream.below(top as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the generator (Random123, `kat_vectors`).
    #[test]
    fn blocks_equal_the_published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let mut order = vec![0; 1000];
        permutation(7, 3, &mut order);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
        permutation(7, 3, &mut []);
    }
}
