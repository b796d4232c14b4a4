//! The random numbers: well spread, and decided by frame, pixel and sample alone.
//!
//! A sampler hands out points in the unit square, one "dimension" per decision on a light path. For one pixel the points
//! of a dimension are a scrambled and shuffled Sobol' set: they cover the square evenly, which at a few dozen samples
//! leaves far less noise than independent random numbers, and so do their first 8, 16 and so on for themselves. The scrambling is the hash form of Owen's (Laine and Karras
//! 2011, Burley 2020).

/// Mixes the bits of `v` so that every bit of the answer depends on every bit of the question.
pub fn hash(mut v: u32) -> u32 {
    // Multipliers: two odd constants with well mixed bits; xor-shifts carry high bits down.
    v ^= v >> 16;
    v = v.wrapping_mul(0x7feb_352d);
    v ^= v >> 15;
    v = v.wrapping_mul(0x846c_a68b);
    v ^ (v >> 16)
}

/// A permutation in which a bit of the answer depends only on the same and lower bits of the question: with the number
/// read from its low end, exactly an Owen scrambling. Even multipliers are what gives it that property.
fn nested(mut v: u32, seed: u32) -> u32 {
    v = v.wrapping_add(seed);
    v ^= v.wrapping_mul(0x6c50_b47c);
    v ^= v.wrapping_mul(0xb82f_1e52);
    v ^= v.wrapping_mul(0xc7af_e638);
    v ^ v.wrapping_mul(0x8d22_f6e6)
}

/// The first points of the two-dimensional Sobol' sequence, bit-reversed, which is how they are scrambled.
pub struct Table {
    points: Vec<(u32, u32)>,
}

impl Table {
    /// Room for `samples` points, rounded up to a power of two.
    pub fn new(samples: u32) -> Table {
        let n = samples.next_power_of_two();
        let second = |mut i: u32| {
            let (mut direction, mut y) = (1u32 << 31, 0);
            while i != 0 {
                if i & 1 == 1 {
                    y ^= direction;
                }
                direction ^= direction >> 1;
                i >>= 1;
            }
            y.reverse_bits()
        };
        // The first coordinate is the bit-reversed index, so reversed again it is the index itself.
        Table {
            points: (0..n).map(|i| (i, second(i))).collect(),
        }
    }
}

/// The numbers of one sample of one pixel.
pub struct Sampler<'a> {
    table: &'a Table,
    seed: u32,
    reversed_index: u32,
    dimension: u32,
}

impl<'a> Sampler<'a> {
    /// `pixel_seed` names the pixel and the frame, `index` the sample within the pixel.
    pub fn new(table: &'a Table, pixel_seed: u32, index: u32) -> Self {
        Sampler {
            table,
            seed: pixel_seed,
            reversed_index: index.reverse_bits(),
            dimension: 0,
        }
    }

    /// From now on take dimensions from `first`: decisions that mean the same keep the same dimension, however the path
    /// came there.
    pub fn jump(&mut self, first: u32) {
        self.dimension = first;
    }

    /// The next point, both coordinates in `[0, 1)`.
    pub fn next(&mut self) -> (f32, f32) {
        let seed = hash(self.seed ^ self.dimension.wrapping_mul(0x9e37_79b9));
        self.dimension += 1;
        let mask = self.table.points.len() as u32 - 1;
        let (x, y) =
            self.table.points[(nested(self.reversed_index, seed).reverse_bits() & mask) as usize];
        (
            to_unit(nested(x, seed ^ 0x5851_f42d)),
            to_unit(nested(y, seed ^ 0x1405_7b7e)),
        )
    }
}

/// A bit-reversed 32-bit fraction as a float in `[0, 1)`.
fn to_unit(reversed: u32) -> f32 {
    // 24 bits are what an f32 holds exactly.
    (reversed.reverse_bits() >> 8) as f32 * (1.0 / 16_777_216.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_of_a_4_by_4_grid_gets_one_of_16_points() {
        // A table of more points than are drawn: the first ones are spread as well as all.
        let table = Table::new(128);
        for dimension in 0..20 {
            let mut cells = [0; 16];
            for i in 0..16 {
                let mut s = Sampler::new(&table, hash(77), i);
                s.jump(dimension);
                let (x, y) = s.next();
                assert!((0.0..1.0).contains(&x) && (0.0..1.0).contains(&y));
                cells[(x * 4.0) as usize * 4 + (y * 4.0) as usize] += 1;
            }
            assert_eq!(cells, [1; 16], "dimension {dimension}");
        }
    }

    #[test]
    fn dimensions_and_pixels_differ_and_repeat() {
        let table = Table::new(8);
        let draw = |pixel, i| {
            let mut s = Sampler::new(&table, hash(pixel), i);
            (s.next(), s.next())
        };
        assert_eq!(draw(1, 3), draw(1, 3));
        assert_ne!(draw(1, 3), draw(2, 3));
        let (a, b) = draw(1, 3);
        assert_ne!(a, b);
    }
}
