//! Distance fields: shapes known by how far away they are.
//!
//! Called by [`crate::shape`] for what has no handy formula of its own. A ray walks through the field in steps that are
//! as long as the nearest surface is far, so it can't step through one.

use crate::numeric::min;
use crate::ray::{Bounds, Ray};
use crate::vec3::{vec3, Frame, Vec3};

/// Steps through a distance field before a ray is taken to have missed. Grazing rays need the most, about 40 here.
const MAX_STEPS: usize = 64;
/// Distance from a distance field's surface that counts as touching it, in scene units; scenes are a few units wide.
const TOUCH: f32 = 2e-4;

/// Walks through a distance field inside its box: each step is as long as the nearest surface is far.
pub fn march(
    ray: &Ray,
    frame: &Frame,
    half: Vec3,
    limit: f32,
    distance: impl Fn(Vec3) -> f32,
) -> Option<f32> {
    let o = frame.local_point(ray.origin);
    let d = frame.local_direction(ray.direction);
    let inverse = vec3(1.0 / d.x, 1.0 / d.y, 1.0 / d.z);
    let (mut t, end) = Bounds {
        low: -half,
        high: half,
    }
    .grown(1e-3)
    .overlap(o, inverse, limit)?;
    // From within (glass) the field is negative: walk by its size.
    let side = if distance(o) < 0.0 { -1.0 } else { 1.0 };
    for _ in 0..MAX_STEPS {
        let gap = side * distance(o + d * t);
        if gap < TOUCH {
            return if t > 0.0 { Some(t) } else { None };
        }
        t += gap;
        if t > end {
            return None;
        }
    }
    None
}

/// Distance to a box with rounded edges; `half` is half its size, rounding included.
pub fn block_distance(p: Vec3, half: Vec3, round: f32) -> f32 {
    let q = p.abs() - half + Vec3::splat(round);
    q.max(Vec3::ZERO).length() + min(q.max_component(), 0.0) - round
}

/// Distance to a torus around the y axis.
pub fn ring_distance(p: Vec3, radius: f32, thickness: f32) -> f32 {
    let flat = (p.x * p.x + p.z * p.z).sqrt() - radius;
    (flat * flat + p.y * p.y).sqrt() - thickness
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_exact_and_negative_inside() {
        let half = vec3(2.0, 1.0, 1.0);
        assert!((block_distance(vec3(5.0, 0.0, 0.0), half, 0.2) - 3.0).abs() < 1e-6);
        assert!((block_distance(Vec3::ZERO, half, 0.2) + 1.0).abs() < 1e-6);
        // A rounded corner lies within the sharp one.
        assert!(block_distance(half, half, 0.2) > 0.1);
        assert!((ring_distance(vec3(0.0, 0.0, 3.0), 2.0, 0.25) - 0.75).abs() < 1e-6);
        assert!((ring_distance(vec3(2.0, 0.0, 0.0), 2.0, 0.25) + 0.25).abs() < 1e-6);
    }

    #[test]
    fn a_walk_from_within_ends_at_the_wall() {
        let ray = Ray {
            origin: Vec3::ZERO,
            direction: vec3(1.0, 0.0, 0.0),
        };
        let half = vec3(2.0, 1.0, 1.0);
        let t = march(&ray, &Frame::WORLD, half, 1e9, |p| {
            block_distance(p, half, 0.1)
        });
        assert!((t.unwrap() - 2.0).abs() < 1e-3);
    }
}
