//! The simulation's own source of chance: SplitMix64, so that a seed means the same on every machine
//! and with every version of every crate.

/// See the module.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `from` to `until`, both included.
    pub fn range(&mut self, from: u64, until: u64) -> u64 {
        from + self.next() % (until - from + 1)
    }

    /// True `of_1000` times in a thousand.
    pub fn chance(&mut self, of_1000: u64) -> bool {
        self.next() % 1000 < of_1000
    }
}
