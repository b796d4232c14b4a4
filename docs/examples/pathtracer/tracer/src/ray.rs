//! Rays, and the boxes that say where they need not look.
//!
//! Used by the shapes and by the hierarchy over them.

use crate::numeric::{max, min};
use crate::vec3::Vec3;

/// A half line: where light is followed from, and its unit direction.
#[derive(Clone, Copy)]
pub struct Ray {
    pub origin: Vec3,
    pub direction: Vec3,
}

impl Ray {
    pub fn at(&self, t: f32) -> Vec3 {
        self.origin + self.direction * t
    }
}

/// An axis-aligned box that encloses something.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub low: Vec3,
    pub high: Vec3,
}

impl Bounds {
    pub const EMPTY: Bounds = Bounds {
        low: Vec3::splat(f32::INFINITY),
        high: Vec3::splat(f32::NEG_INFINITY),
    };

    /// The box around `a` and `b`, as points.
    pub fn of(a: Vec3, b: Vec3) -> Bounds {
        Bounds {
            low: a.min(b),
            high: a.max(b),
        }
    }

    pub fn union(self, o: Bounds) -> Bounds {
        Bounds {
            low: self.low.min(o.low),
            high: self.high.max(o.high),
        }
    }

    pub fn grown(self, r: f32) -> Bounds {
        Bounds {
            low: self.low - Vec3::splat(r),
            high: self.high + Vec3::splat(r),
        }
    }

    /// Half the surface area: how likely a random ray is to meet the box, up to a factor.
    pub fn half_area(&self) -> f32 {
        let d = self.high - self.low;
        d.x * d.y + d.y * d.z + d.z * d.x
    }

    /// The stretch of the ray inside the box, cut to `[0, limit]`. `inverse` is one over the ray's direction.
    pub fn overlap(&self, origin: Vec3, inverse: Vec3, limit: f32) -> Option<(f32, f32)> {
        let a = (self.low - origin) * inverse;
        let b = (self.high - origin) * inverse;
        let (near, far) = (a.min(b), a.max(b));
        let enter = max(near.max_component(), 0.0);
        let leave = min(min(far.x, far.y), min(far.z, limit));
        if enter <= leave {
            Some((enter, leave))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vec3::vec3;

    #[test]
    fn a_ray_overlaps_a_box_from_outside_and_from_within() {
        let unit_box = Bounds::of(Vec3::ZERO, Vec3::ONE);
        let overlap = |x: f32, y: f32, limit: f32| {
            // Along x: two components of the inverse are infinite.
            let inverse = vec3(1.0, f32::INFINITY, f32::INFINITY);
            unit_box.overlap(vec3(x, y, 0.5), inverse, limit)
        };
        assert_eq!(overlap(-1.0, 0.5, 9.0), Some((1.0, 2.0)));
        assert_eq!(overlap(0.5, 0.5, 9.0), Some((0.0, 0.5)));
        assert_eq!(overlap(-1.0, 0.5, 1.5), Some((1.0, 1.5)));
        assert_eq!(overlap(-1.0, 0.5, 0.5), None, "beyond the limit");
        assert_eq!(overlap(-1.0, 2.0, 9.0), None, "beside the box");
        assert_eq!(overlap(2.0, 0.5, 9.0), None, "behind the ray");
    }
}
