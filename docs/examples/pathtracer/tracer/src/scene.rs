//! The scene of one frame: objects, materials, lights, sky and camera, all in world coordinates.
//!
//! Filled by the script reader, read by everything that renders. Holds no time: an animation is one scene per frame.

use crate::bvh::Bvh;
use crate::numeric::max;
use crate::ray::Ray;
use crate::shape::Shape;
use crate::vec3::{vec3, Frame, Vec3};

/// How a surface treats light.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finish {
    /// Scatters evenly, like chalk.
    Matte,
    /// Matte under a clear coat that mirrors, like a glazed tile. `fuzz` blurs the mirror: 0 none, 1 entirely.
    Gloss { ior: f32, fuzz: f32 },
    /// A tinted mirror.
    Metal { fuzz: f32 },
    /// Clear, refracting.
    Glass { ior: f32 },
    /// Shines; its colour is the radiance.
    Light,
}

/// What a surface is made of.
#[derive(Clone, Debug)]
pub struct Material {
    pub name: String,
    pub finish: Finish,
    pub color: Vec3,
    /// A second colour for every other square of a chequerboard in the ground plane, and the squares' size.
    pub checker: Option<(Vec3, f32)>,
}

impl Material {
    /// The colour at a point.
    pub fn color_at(&self, p: Vec3) -> Vec3 {
        match self.checker {
            Some((other, size)) => {
                let odd =
                    ((p.x / size).floor() as i32).wrapping_add((p.z / size).floor() as i32) & 1;
                if odd == 0 {
                    self.color
                } else {
                    other
                }
            }
            None => self.color,
        }
    }
}

/// A shape made of a material (an index into [`Scene::materials`]).
pub struct Object {
    pub shape: Shape,
    pub material: usize,
}

/// An endless horizontal plane.
pub struct Floor {
    pub height: f32,
    pub material: usize,
}

/// The light from outside: a gradient with one soft glow.
pub struct Sky {
    pub zenith: Vec3,
    pub horizon: Vec3,
    pub ground: Vec3,
    pub glow: Vec3,
    pub glow_direction: Vec3,
    /// The glow falls off with the cosine to the power of two to this.
    pub glow_sharpness: u32,
}

impl Sky {
    /// The radiance seen in a direction.
    pub fn radiance(&self, d: Vec3) -> Vec3 {
        let level = 1.0 - d.y.abs();
        // The horizon's colour is a band that is mostly gone at 20 degrees.
        let l2 = level * level;
        let base =
            (if d.y >= 0.0 { self.zenith } else { self.ground }).mix(self.horizon, l2 * l2 * l2);
        let mut lobe = max(d.dot(self.glow_direction), 0.0);
        for _ in 0..self.glow_sharpness {
            lobe *= lobe;
        }
        base + self.glow * lobe
    }
}

/// A camera with a thin lens.
pub struct Camera {
    /// Where it stands; looks along -z, y is up.
    pub frame: Frame,
    /// Half the picture's height at distance 1.
    pub half_height: f32,
    pub lens_radius: f32,
    pub focus_distance: f32,
}

impl Camera {
    /// The ray through a point of the picture (`x` to the right, `y` up, the height from -1 to 1) and of the lens (in the
    /// unit disc).
    pub fn ray(&self, x: f32, y: f32, lens: (f32, f32)) -> Ray {
        let through = vec3(x * self.half_height, y * self.half_height, -1.0) * self.focus_distance;
        let start = vec3(lens.0 * self.lens_radius, lens.1 * self.lens_radius, 0.0);
        Ray {
            origin: self.frame.point(start),
            direction: self.frame.direction((through - start).normalized()),
        }
    }
}

/// How radiance becomes a picture.
#[derive(Clone, Copy)]
pub struct Grade {
    pub exposure: f32,
    /// Share of the light that spreads around bright spots, as in a real lens.
    pub bloom: f32,
    /// How much darker the corners are: 0 not at all.
    pub vignette: f32,
    /// 1 leaves colours alone, above 1 strengthens them.
    pub saturation: f32,
}

/// Everything one frame shows.
pub struct Scene {
    pub materials: Vec<Material>,
    pub objects: Vec<Object>,
    /// Indices of the objects that are sampled as lights: spheres and panels that shine.
    pub lights: Vec<usize>,
    pub floor: Option<Floor>,
    pub sky: Sky,
    /// Distance at which about two thirds of the view is lost in the sky's colour.
    pub fog_distance: f32,
    pub camera: Camera,
    pub grade: Grade,
    pub bvh: Bvh,
}

/// Where a ray met a surface.
pub struct Hit {
    pub distance: f32,
    pub position: Vec3,
    /// The outward unit normal.
    pub normal: Vec3,
    pub material: usize,
    /// The object, or [`FLOOR`].
    pub object: usize,
}

/// The floor's place among the objects.
pub const FLOOR: usize = usize::MAX;
/// Beyond this nothing is seen; far outside any scene, still exact to a tenth of a unit in f32.
pub const FAR: f32 = 1e6;

impl Scene {
    /// The first surface along the ray.
    pub fn trace(&self, ray: &Ray) -> Option<Hit> {
        let floor = self.floor_distance(ray);
        let found = self
            .bvh
            .nearest(ray, floor.unwrap_or(FAR), |i| &self.objects[i].shape);
        if let Some((object, distance)) = found {
            let position = ray.at(distance);
            let Object { shape, material } = &self.objects[object];
            return Some(Hit {
                distance,
                position,
                normal: shape.normal(position),
                material: *material,
                object,
            });
        }
        let (distance, f) = (floor?, self.floor.as_ref()?);
        let p = ray.at(distance);
        let position = vec3(p.x, f.height, p.z);
        Some(Hit {
            distance,
            position,
            normal: vec3(0.0, 1.0, 0.0),
            material: f.material,
            object: FLOOR,
        })
    }

    /// Whether something other than object `except` stands within `limit` along the ray.
    pub fn blocked(&self, ray: &Ray, limit: f32, except: usize) -> bool {
        self.floor_distance(ray).map_or(false, |t| t < limit)
            || self
                .bvh
                .blocked(ray, limit, except, |i| &self.objects[i].shape)
    }

    fn floor_distance(&self, ray: &Ray) -> Option<f32> {
        let f = self.floor.as_ref()?;
        let t = (f.height - ray.origin.y) / ray.direction.y;
        if t > 0.0 && t < FAR {
            Some(t)
        } else {
            None
        }
    }
}
