//! Choosing a light and a point on it, so that shadows need not be found by luck.
//!
//! Called by the integrator at every matte surface. It picks one light with a probability that follows how much it might
//! matter there, then a direction to it; it never looks at what stands in between.

use crate::numeric::{cos_turns, max, min, sin_turns};
use crate::scene::Scene;
use crate::shape::Shape;
use crate::vec3::{Frame, Vec3};

/// A way to a light.
pub struct LightSample {
    pub direction: Vec3,
    pub distance: f32,
    pub radiance: Vec3,
    /// Probability density over solid angle, the choice of the light included.
    pub density: f32,
    /// The light's object.
    pub object: usize,
}

/// The lights as one surface sees them.
#[derive(Default)]
pub struct Chooser {
    weights: Vec<f32>,
    total: f32,
}

impl Chooser {
    /// Weighs the scene's lights for a surface at `p` with normal `n`.
    pub fn weigh(&mut self, scene: &Scene, p: Vec3, n: Vec3) {
        self.weights.clear();
        self.total = 0.0;
        for &light in &scene.lights {
            let w = importance(scene, light, p, n);
            self.weights.push(w);
            self.total += w;
        }
    }

    /// A light (its place among the scene's lights) and the probability of choosing it; `pick` is in `[0, 1)`.
    fn choose(&self, pick: f32) -> Option<(usize, f32)> {
        let mut left = pick * self.total;
        let mut chosen = None;
        for (i, &w) in self.weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            // Kept even when rounding lets the loop run out: the last light that counts.
            chosen = Some((i, w / self.total));
            left -= w;
            if left < 0.0 {
                break;
            }
        }
        chosen
    }
}

/// A way from `p` to one of the lights that `chooser` weighed there; `pick` and `spot` are random numbers in `[0, 1)`.
pub fn sample(
    scene: &Scene,
    chooser: &Chooser,
    p: Vec3,
    pick: f32,
    spot: (f32, f32),
) -> Option<LightSample> {
    let (light, chance) = chooser.choose(pick)?;
    let object = scene.lights[light];
    let radiance = scene.materials[scene.objects[object].material].color;
    let (direction, distance, density) = match &scene.objects[object].shape {
        Shape::Sphere { center, radius } => towards_sphere(p, *center, *radius, spot)?,
        Shape::Panel {
            corner,
            u,
            v,
            normal,
        } => {
            let way = *corner + *u * spot.0 + *v * spot.1 - p;
            let distance = way.length();
            let direction = way * (1.0 / distance);
            let facing = -direction.dot(*normal);
            if facing <= 0.0 {
                return None;
            }
            let area = u.length() * v.length();
            (direction, distance, distance * distance / (facing * area))
        }
        _ => return None,
    };
    Some(LightSample {
        direction,
        distance,
        radiance,
        density: density * chance,
        object,
    })
}

/// About how much light an unhidden light would bring to `p`.
fn importance(scene: &Scene, light: usize, p: Vec3, n: Vec3) -> f32 {
    let object = &scene.objects[light];
    let power = scene.materials[object.material].color.luminance();
    match &object.shape {
        Shape::Sphere { center, radius } => {
            let way = *center - p;
            let d2 = max(way.dot(way), radius * radius);
            let d = d2.sqrt();
            // The highest cosine any part of the ball can have.
            let facing = min((way.dot(n) + radius) / d, 1.0);
            power * radius * radius * max(facing, 0.0) / d2
        }
        Shape::Panel {
            corner,
            u,
            v,
            normal,
        } => {
            if (p - *corner).dot(*normal) <= 0.0 {
                return 0.0;
            }
            let way = *corner + (*u + *v) * 0.5 - p;
            let d2 = way.dot(way);
            let d = d2.sqrt();
            let (leaving, arriving) = (-way.dot(*normal) / d, way.dot(n) / d);
            // A panel's far edge may face the surface when its middle does not, hence the floor under both.
            power * u.length() * v.length() * max(leaving, 0.1) * max(arriving, 0.1) / d2
        }
        _ => 0.0,
    }
}

/// Uniform over the cone in which a ball is seen: direction, distance, density.
fn towards_sphere(
    p: Vec3,
    center: Vec3,
    radius: f32,
    spot: (f32, f32),
) -> Option<(Vec3, f32, f32)> {
    let way = center - p;
    let d2 = way.dot(way);
    let sin2_max = radius * radius / d2;
    if sin2_max >= 1.0 {
        return None;
    }
    // 1 - cos of the cone's half angle; written so that small cones keep their digits.
    let height = sin2_max / (1.0 + (1.0 - sin2_max).sqrt());
    let drop = height * spot.0;
    let sin = max(drop * (2.0 - drop), 0.0).sqrt();
    let frame = Frame::around(way * (1.0 / d2.sqrt()));
    let direction = frame.x * (cos_turns(spot.1) * sin)
        + frame.y * (sin_turns(spot.1) * sin)
        + frame.z * (1.0 - drop);
    let along = way.dot(direction);
    let off2 = max(d2 - along * along, 0.0);
    let distance = along - max(radius * radius - off2, 0.0).sqrt();
    Some((direction, distance, 1.0 / (std::f32::consts::TAU * height)))
}
