//! What can stand in a scene, and where a ray meets it.
//!
//! Owns the geometry of single objects; the hierarchy calls [`Shape::hit`] and [`Shape::bounds`], the integrator
//! [`Shape::normal`]. Spheres, rods and panels are solved exactly; rounded boxes and rings are distance fields, see
//! [`crate::field`].

use crate::field::{block_distance, march, ring_distance};
use crate::numeric::{max, min};
use crate::ray::{Bounds, Ray};
use crate::vec3::{vec3, Frame, Vec3};

/// One object's geometry, in world coordinates.
#[derive(Clone, Debug)]
pub enum Shape {
    Sphere {
        center: Vec3,
        radius: f32,
    },
    /// A cylinder with round ends; solid, seen from outside only.
    Rod {
        from: Vec3,
        axis: Vec3,
        length: f32,
        radius: f32,
    },
    /// A rectangle spanned by two perpendicular edges; `normal` is its front.
    Panel {
        corner: Vec3,
        u: Vec3,
        v: Vec3,
        normal: Vec3,
    },
    /// A box with rounded edges: `half` is half its size, rounding included.
    Block {
        frame: Frame,
        half: Vec3,
        round: f32,
    },
    /// A torus around the frame's y axis.
    Ring {
        frame: Frame,
        radius: f32,
        thickness: f32,
    },
}

impl Shape {
    /// Distance along the ray to the first touch beyond 0 and before `limit`.
    pub fn hit(&self, ray: &Ray, limit: f32) -> Option<f32> {
        let t = match self {
            Shape::Sphere { center, radius } => hit_sphere(ray, *center, *radius)?,
            Shape::Rod {
                from,
                axis,
                length,
                radius,
            } => hit_rod(ray, *from, *axis, *length, *radius)?,
            Shape::Panel {
                corner,
                u,
                v,
                normal,
            } => hit_panel(ray, *corner, *u, *v, *normal)?,
            Shape::Block { frame, half, round } => march(ray, frame, *half, limit, |p| {
                block_distance(p, *half, *round)
            })?,
            Shape::Ring {
                frame,
                radius,
                thickness,
            } => {
                let half = vec3(radius + thickness, *thickness, radius + thickness);
                march(ray, frame, half, limit, |p| {
                    ring_distance(p, *radius, *thickness)
                })?
            }
        };
        if t < limit {
            Some(t)
        } else {
            None
        }
    }

    /// The outward unit normal at a point of the surface.
    pub fn normal(&self, p: Vec3) -> Vec3 {
        match self {
            Shape::Sphere { center, .. } => (p - *center).normalized(),
            Shape::Rod {
                from, axis, length, ..
            } => {
                let along = min(max((p - *from).dot(*axis), 0.0), *length);
                (p - (*from + *axis * along)).normalized()
            }
            Shape::Panel { normal, .. } => *normal,
            Shape::Block { frame, half, round } => {
                let q = frame.local_point(p);
                // Towards the surface from the nearest point of the core that the rounding is laid around.
                let core = *half - Vec3::splat(max(*round, 1e-3));
                let out = q - q.max(-core).min(core);
                frame.direction(out).normalized()
            }
            Shape::Ring { frame, radius, .. } => {
                let q = frame.local_point(p);
                let flat = vec3(q.x, 0.0, q.z).normalized() * *radius;
                frame.direction(q - flat).normalized()
            }
        }
    }

    pub fn bounds(&self) -> Bounds {
        match self {
            Shape::Sphere { center, radius } => Bounds::of(*center, *center).grown(*radius),
            Shape::Rod {
                from,
                axis,
                length,
                radius,
            } => Bounds::of(*from, *from + *axis * *length).grown(*radius),
            Shape::Panel { corner, u, v, .. } => Bounds::of(*corner, *corner + *u + *v)
                .union(Bounds::of(*corner + *u, *corner + *v))
                .grown(1e-4),
            Shape::Block { frame, half, .. } => frame_bounds(frame, *half),
            Shape::Ring {
                frame,
                radius,
                thickness,
            } => frame_bounds(
                frame,
                vec3(radius + thickness, *thickness, radius + thickness),
            ),
        }
    }
}

/// The world box around a turned box.
fn frame_bounds(frame: &Frame, half: Vec3) -> Bounds {
    let reach = frame.x.abs() * half.x + frame.y.abs() * half.y + frame.z.abs() * half.z;
    Bounds {
        low: frame.origin - reach,
        high: frame.origin + reach,
    }
    .grown(1e-4)
}

fn hit_sphere(ray: &Ray, center: Vec3, radius: f32) -> Option<f32> {
    let to_center = center - ray.origin;
    let along = to_center.dot(ray.direction);
    // The miss distance taken as a vector keeps its precision where b*b - c would lose it.
    let miss = to_center - ray.direction * along;
    let inside = radius * radius - miss.dot(miss);
    if inside < 0.0 {
        return None;
    }
    let half_chord = inside.sqrt();
    let near = along - half_chord;
    let far = along + half_chord;
    if near > 0.0 {
        Some(near)
    } else if far > 0.0 {
        Some(far)
    } else {
        None
    }
}

fn hit_rod(ray: &Ray, from: Vec3, axis: Vec3, length: f32, radius: f32) -> Option<f32> {
    let o = ray.origin - from;
    let (o_along, d_along) = (o.dot(axis), ray.direction.dot(axis));
    let o_flat = o - axis * o_along;
    let d_flat = ray.direction - axis * d_along;
    let a = d_flat.dot(d_flat);
    let b = d_flat.dot(o_flat);
    let c = o_flat.dot(o_flat) - radius * radius;
    let discriminant = b * b - a * c;
    if discriminant < 0.0 {
        return None;
    }
    // Seen end-on (a near 0) only the round ends are met.
    let y = if a > 1e-8 {
        let t = (-b - discriminant.sqrt()) / a;
        let y = o_along + d_along * t;
        if y >= 0.0 && y <= length {
            return if t > 0.0 { Some(t) } else { None };
        }
        y
    } else {
        -d_along
    };
    let end = if y < 0.0 { from } else { from + axis * length };
    hit_sphere(ray, end, radius)
}

fn hit_panel(ray: &Ray, corner: Vec3, u: Vec3, v: Vec3, normal: Vec3) -> Option<f32> {
    let slope = ray.direction.dot(normal);
    if slope.abs() < 1e-7 {
        return None;
    }
    let t = (corner - ray.origin).dot(normal) / slope;
    if t <= 0.0 {
        return None;
    }
    let p = ray.at(t) - corner;
    let (a, b) = (p.dot(u), p.dot(v));
    if a >= 0.0 && b >= 0.0 && a <= u.dot(u) && b <= v.dot(v) {
        Some(t)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ray(origin: Vec3, towards: Vec3) -> Ray {
        Ray {
            origin,
            direction: (towards - origin).normalized(),
        }
    }

    fn check(shape: &Shape, r: Ray, t: f32, n: Vec3) {
        let got = shape.hit(&r, 1e9).unwrap();
        assert!((got - t).abs() < 1e-3, "{shape:?}: {got}, not {t}");
        let normal = shape.normal(r.at(got));
        assert!(
            (normal - n).length() < 1e-2,
            "{shape:?}: {normal:?}, not {n:?}"
        );
        assert!(shape.hit(&r, t * 0.9).is_none(), "the limit holds");
        let b = shape.bounds().grown(1e-3);
        let p = r.at(got);
        assert!(
            p.min(b.low) == b.low && p.max(b.high) == b.high,
            "{shape:?}: bounds miss {p:?}"
        );
    }

    #[test]
    fn spheres_from_outside_and_inside() {
        let s = Shape::Sphere {
            center: vec3(0.0, 0.0, 5.0),
            radius: 1.0,
        };
        check(
            &s,
            ray(Vec3::ZERO, vec3(0.0, 0.0, 1.0)),
            4.0,
            vec3(0.0, 0.0, -1.0),
        );
        check(
            &s,
            ray(vec3(0.0, 0.0, 5.0), vec3(0.0, 9.0, 5.0)),
            1.0,
            vec3(0.0, 1.0, 0.0),
        );
        assert!(s.hit(&ray(Vec3::ZERO, vec3(0.0, 1.1, 5.0)), 1e9).is_none());
        assert!(s.hit(&ray(Vec3::ZERO, vec3(0.0, 0.0, -1.0)), 1e9).is_none());
    }

    #[test]
    fn rods_from_the_side_and_at_both_ends() {
        let s = Shape::Rod {
            from: vec3(-1.0, 0.0, 0.0),
            axis: vec3(1.0, 0.0, 0.0),
            length: 2.0,
            radius: 0.25,
        };
        check(
            &s,
            ray(vec3(0.5, 3.0, 0.0), vec3(0.5, 0.0, 0.0)),
            2.75,
            vec3(0.0, 1.0, 0.0),
        );
        check(
            &s,
            ray(vec3(5.0, 0.0, 0.0), Vec3::ZERO),
            3.75,
            vec3(1.0, 0.0, 0.0),
        );
        check(
            &s,
            ray(vec3(-5.0, 0.0, 0.0), Vec3::ZERO),
            3.75,
            vec3(-1.0, 0.0, 0.0),
        );
        assert!(s
            .hit(&ray(vec3(1.3, 3.0, 0.0), vec3(1.3, 0.0, 0.0)), 1e9)
            .is_none());
    }

    #[test]
    fn panels_end_at_their_edges() {
        let s = Shape::Panel {
            corner: vec3(0.0, 2.0, 0.0),
            u: vec3(1.0, 0.0, 0.0),
            v: vec3(0.0, 0.0, 1.0),
            normal: vec3(0.0, -1.0, 0.0),
        };
        check(
            &s,
            ray(vec3(0.5, 0.0, 0.5), vec3(0.5, 1.0, 0.5)),
            2.0,
            vec3(0.0, -1.0, 0.0),
        );
        assert!(s
            .hit(&ray(vec3(1.5, 0.0, 0.5), vec3(1.5, 1.0, 0.5)), 1e9)
            .is_none());
    }

    #[test]
    fn blocks_and_rings_turned_in_space() {
        let frame = Frame::WORLD.moved(vec3(0.0, 0.0, 5.0)).turned(1, 0.25);
        // Turned a quarter, the long x side looks along z.
        let block = Shape::Block {
            frame,
            half: vec3(2.0, 1.0, 1.0),
            round: 0.1,
        };
        check(
            &block,
            ray(Vec3::ZERO, vec3(0.0, 0.0, 1.0)),
            3.0,
            vec3(0.0, 0.0, -1.0),
        );
        assert!(block
            .hit(&ray(vec3(1.5, 0.0, 0.0), vec3(1.5, 0.0, 1.0)), 1e9)
            .is_none());
        let ring = Shape::Ring {
            frame,
            radius: 1.0,
            thickness: 0.25,
        };
        check(
            &ring,
            ray(vec3(0.0, 0.0, 0.0), vec3(0.0, 0.0, 1.0)),
            3.75,
            vec3(0.0, 0.0, -1.0),
        );
        let from_above = ray(vec3(0.0, 4.0, 5.0), vec3(0.0, 0.0, 5.0));
        assert!(
            ring.hit(&from_above, 1e9).is_none(),
            "there is a hole in the middle"
        );
    }
}
