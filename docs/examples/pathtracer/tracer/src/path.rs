//! The light transport: follows one camera ray through the scene and sums up the light it brings back.
//!
//! Owns the path loop; the renderer calls [`Tracer::sample`] for every sample of every pixel. Direct light on matte
//! surfaces is sampled (see [`crate::light`]), everything else is found by following the path: mirrors, glass and coats
//! see lights themselves. The first surface that both mirrors and lets through is followed both ways, because at few
//! samples a coin toss there is the loudest noise in the picture.

use crate::light::{self, Chooser};
use crate::numeric::{exp, max, min};
use crate::optics::{boundary, cosine_lobe, mirrored, schlick};
use crate::ray::Ray;
use crate::sampler::Sampler;
use crate::scene::{Finish, Hit, Material, Scene};
use crate::shape::Shape;
use crate::vec3::{vec3, Vec3};
use crate::walk::{Features, Walk};

/// Surfaces on one path, mirrors and glass included: light through two glass balls meets about eight.
const MAX_SURFACES: u32 = 10;
/// Matte surfaces on one path. The third bounce of light changes these scenes by less than the tone curve shows.
const MAX_MATTE: u32 = 3;
/// Lamps chosen at the first matte surface of a path.
const FIRST_PICKS: u32 = 2;
/// How far a new path starts from its surface, in scene units: above the distance at which a surface counts as touched.
const LIFT: f32 = 6e-4;
/// Random points used before the first surface: one in the pixel, one on the lens.
const CAMERA_DIMENSIONS: u32 = 2;
/// Random points set aside per surface of a path: a coated one takes two for the coat and three below it.
const DIMENSIONS_PER_SURFACE: u32 = 5;
/// How far away the sky is taken to be when surfaces are compared, in scene units.
const SKY_DISTANCE: f32 = 100.0;

/// One path tracer over one scene.
pub struct Tracer<'a> {
    pub scene: &'a Scene,
    /// Rays cast so far, shadow rays included.
    pub rays: u64,
    lights: Chooser,
}

/// A surface as a path meets it.
struct Meeting<'a> {
    hit: &'a Hit,
    /// The direction of travel, and the normal turned towards where it comes from.
    d: Vec3,
    n: Vec3,
    color: Vec3,
}

/// Where a path goes on from a surface.
struct Onward {
    direction: Vec3,
    /// The normal on the side on which it goes on.
    side: Vec3,
    weight: Vec3,
    /// Whether lamps it meets count: not after a matte surface, where they were sampled.
    sees_lights: bool,
}

impl Onward {
    /// As from a mirror or a lens.
    fn sharp(direction: Vec3, side: Vec3, weight: Vec3) -> Option<Onward> {
        Some(Onward {
            direction,
            side,
            weight,
            sees_lights: true,
        })
    }
}

impl<'a> Tracer<'a> {
    pub fn new(scene: &'a Scene) -> Self {
        Tracer {
            scene,
            rays: 0,
            lights: Chooser::default(),
        }
    }

    /// The radiance that arrives along `ray`, and what it comes from.
    pub fn sample(&mut self, ray: Ray, sampler: &mut Sampler) -> (Vec3, Features) {
        let mut walk = Walk::new(ray, CAMERA_DIMENSIONS);
        self.follow(&mut walk, sampler);
        let mut light = walk.light;
        if let Some(mut second) = walk.split {
            self.follow(&mut second, sampler);
            light += second.light;
        }
        (light, walk.features.unwrap_or_default())
    }

    /// Follows a path until it ends.
    fn follow(&mut self, w: &mut Walk, sampler: &mut Sampler) {
        let scene = self.scene;
        while w.surfaces < MAX_SURFACES {
            self.rays += 1;
            let hit = match scene.trace(&w.ray) {
                Some(hit) => hit,
                None => {
                    let sky = scene.sky.radiance(w.ray.direction);
                    w.describe(sky, Vec3::ZERO, w.ray.at(SKY_DISTANCE));
                    w.collect(sky);
                    return;
                }
            };
            self.fog(w, hit.distance);
            let material = &scene.materials[hit.material];
            if material.finish == Finish::Light {
                self.lamp(w, &hit, material);
                return;
            }
            sampler.jump(w.first_dimension + w.surfaces * DIMENSIONS_PER_SURFACE);
            w.surfaces += 1;
            let onward = match self.scatter(w, &hit, material, sampler) {
                Some(onward) => onward,
                None => return,
            };
            w.weight *= onward.weight;
            w.sees_lights = onward.sees_lights;
            w.ray = Ray {
                origin: hit.position + onward.side * LIFT,
                direction: onward.direction,
            };
        }
    }

    /// Replaces part of what lies behind `distance` by the sky's colour at the horizon.
    fn fog(&self, w: &mut Walk, distance: f32) {
        let part = distance / self.scene.fog_distance;
        // Nearer than that it takes less than half a thousandth.
        if part > 0.02 {
            let clear = exp(-part * part);
            let d = w.ray.direction;
            let level = vec3(d.x, max(d.y, 0.0), d.z).normalized();
            w.collect(self.scene.sky.radiance(level) * (1.0 - clear));
            w.weight = w.weight * clear;
        }
    }

    /// The path ends at something that shines.
    fn lamp(&self, w: &mut Walk, hit: &Hit, material: &Material) {
        let counts = match self.scene.objects[hit.object].shape {
            Shape::Panel { .. } if w.ray.direction.dot(hit.normal) > 0.0 => return,
            Shape::Panel { .. } => w.sees_lights,
            // A small lamp's image in mirror and lens, found by chance from a matte surface, is a speck of light and not
            // a caustic: it is left out.
            Shape::Sphere { .. } => w.sees_lights && w.matte == 0,
            // Other shapes are never sampled.
            _ => true,
        };
        w.describe(material.color, hit.normal, hit.position);
        if counts {
            w.collect(material.color);
        }
    }

    /// Lets a surface act on a path.
    fn scatter(
        &mut self,
        w: &mut Walk,
        hit: &Hit,
        m: &Material,
        sampler: &mut Sampler,
    ) -> Option<Onward> {
        let d = w.ray.direction;
        let outside = d.dot(hit.normal) < 0.0;
        let n = if outside { hit.normal } else { -hit.normal };
        let color = m.color_at(hit.position);
        let s = Meeting { hit, d, n, color };
        match m.finish {
            Finish::Metal { fuzz } => {
                let tint = color.mix(Vec3::ONE, schlick(0.0, -d.dot(n)));
                Onward::sharp(mirrored(d, n, fuzz, sampler.next()), n, tint)
            }
            Finish::Glass { ior } => {
                let eta = if outside { 1.0 / ior } else { ior };
                glass(w, &s, eta, sampler.next().0)
            }
            Finish::Gloss { ior, fuzz } if w.matte == 0 => self.coated(w, &s, ior, fuzz, sampler),
            _ => self.matte(w, &s, color, sampler),
        }
    }

    /// A clear coat over a matte ground.
    fn coated(
        &mut self,
        w: &mut Walk,
        s: &Meeting,
        ior: f32,
        fuzz: f32,
        sampler: &mut Sampler,
    ) -> Option<Onward> {
        let base = (ior - 1.0) / (ior + 1.0);
        let mirror = schlick(base * base, -s.d.dot(s.n));
        let toss = sampler.next().0;
        let direction = mirrored(s.d, s.n, fuzz, sampler.next());
        let origin = s.hit.position + s.n * LIFT;
        if w.split(Ray { origin, direction }, mirror) {
            return self.matte(w, s, s.color * (1.0 - mirror), sampler);
        }
        if toss < mirror {
            return Onward::sharp(direction, s.n, Vec3::ONE);
        }
        self.matte(w, s, s.color, sampler)
    }

    /// An evenly scattering surface: adds the light that reaches it directly and sends the path on.
    fn matte(
        &mut self,
        w: &mut Walk,
        s: &Meeting,
        albedo: Vec3,
        sampler: &mut Sampler,
    ) -> Option<Onward> {
        w.describe(albedo, s.n, s.hit.position);
        let (pick, spot, bounce) = (sampler.next(), sampler.next(), sampler.next());
        w.weight *= albedo;
        self.lights.weigh(self.scene, s.hit.position, s.n);
        // Where the eye looks, the noise of choosing a lamp is halved by choosing twice.
        let picks = if w.matte == 0 { FIRST_PICKS } else { 1 };
        let share = 1.0 / picks as f32;
        for i in 0..picks {
            let shifted = |v: f32| v + i as f32 * share - (v + i as f32 * share).floor();
            self.direct(w, s, shifted(pick.0), (shifted(spot.0), spot.1), share);
        }
        w.matte += 1;
        if w.matte >= MAX_MATTE {
            return None;
        }
        // A path that would bring little is dropped at random, and the ones that stay count for it.
        let keep = if w.matte > 1 {
            min(w.weight.max_component() * 2.0, 1.0)
        } else {
            1.0
        };
        if pick.1 >= keep {
            return None;
        }
        Some(Onward {
            direction: cosine_lobe(s.n, bounce),
            side: s.n,
            weight: Vec3::splat(1.0 / keep),
            sees_lights: false,
        })
    }

    /// Adds the light of one lamp, which counts for `share`.
    fn direct(&mut self, w: &mut Walk, s: &Meeting, pick: f32, spot: (f32, f32), share: f32) {
        let p = s.hit.position;
        if let Some(l) = light::sample(self.scene, &self.lights, p, pick, spot) {
            let facing = l.direction.dot(s.n);
            if facing > 0.0 {
                self.rays += 1;
                let shadow = Ray {
                    origin: p + s.n * LIFT,
                    direction: l.direction,
                };
                if !self.scene.blocked(&shadow, l.distance - LIFT, l.object) {
                    w.collect(l.radiance * (share * facing / (std::f32::consts::PI * l.density)));
                }
            }
        }
    }
}

/// A surface of glass: reflects and refracts.
fn glass(w: &mut Walk, s: &Meeting, eta: f32, toss: f32) -> Option<Onward> {
    let b = boundary(s.d, s.n, eta);
    let through = match b.refracted {
        Some(through) => through,
        None => return Onward::sharp(b.reflected, s.n, Vec3::ONE),
    };
    let reflection = Ray {
        origin: s.hit.position + s.n * LIFT,
        direction: b.reflected,
    };
    if w.split(reflection, b.mirror) {
        Onward::sharp(through, -s.n, s.color * (1.0 - b.mirror))
    } else if toss < b.mirror {
        Onward::sharp(b.reflected, s.n, Vec3::ONE)
    } else {
        Onward::sharp(through, -s.n, s.color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Table;
    use crate::script;
    use crate::vec3::vec3;

    /// The mean of many samples along one ray.
    fn mean(text: &str, origin: Vec3, direction: Vec3) -> Vec3 {
        let scene = script::read(text, 0.0).unwrap();
        let n = 4096;
        let table = Table::new(n);
        let mut tracer = Tracer::new(&scene);
        let mut sum = Vec3::ZERO;
        for i in 0..n {
            sum += tracer
                .sample(Ray { origin, direction }, &mut Sampler::new(&table, 9, i))
                .0;
        }
        assert!(tracer.rays >= u64::from(n));
        sum * (1.0 / n as f32)
    }

    const WHITE_SKY: &str =
        "camera eye 0 0 5 look 0 0 0\nsky zenith 1 1 1 horizon 1 1 1 ground 1 1 1 glow 0 0 0\n";

    #[test]
    fn in_an_even_light_a_ball_shows_its_albedo() {
        // A convex body in a white furnace: one bounce, exactly the albedo.
        let (o, d) = (vec3(0.3, 0.2, 5.0), vec3(0.0, 0.0, -1.0));
        let ball = |m: &str| {
            mean(
                &format!("{WHITE_SKY}material m {m}\nsphere m at 0 0 0 radius 1"),
                o,
                d,
            )
        };
        assert!((ball("matte color 0.5 0.25 0.1") - vec3(0.5, 0.25, 0.1)).length() < 1e-3);
        assert!((ball("glass ior 1.5") - Vec3::ONE).length() < 2e-2);
        let coated = ball("gloss color 0 0 0 ior 1.5");
        assert!(
            (coated.x - 0.04).abs() < 2e-3,
            "a black coat mirrors 4 %: {coated:?}"
        );
    }

    #[test]
    fn sampled_lights_bring_what_geometry_says() {
        let dark = "camera eye 0 2 5 look 0 0 0\nsky zenith 0 0 0 horizon 0 0 0 ground 0 0 0\n\
                    material m matte color 1 1 1\nmaterial l light color 1 1 1 power 2\nfloor m\n";
        let down = (vec3(0.0, 1.0, 0.0), vec3(0.0, -1.0, 0.0));
        // Irradiance under a ball is pi L (r/d)^2; a white floor reflects 1/pi of it.
        let got = mean(
            &format!("{dark}sphere l at 0 4 0 radius 0.5"),
            down.0,
            down.1,
        )
        .x;
        assert!((got - 2.0 * 0.25 / 16.0).abs() < 1e-4, "{got}");
        // A panel far up is nearly a point: L A / d^2 / pi.
        let got = mean(
            &format!("{dark}panel l at 0 10 0 towards 0 0 0 size 0.5 0.5"),
            down.0,
            down.1,
        )
        .x;
        assert!(
            (got - 2.0 * 0.25 / 100.0 / std::f32::consts::PI).abs() < 1e-4,
            "{got}"
        );
        // The back of a panel gives nothing.
        let got = mean(
            &format!("{dark}panel l at 0 10 0 towards 0 20 0 size 9 9"),
            down.0,
            down.1,
        )
        .x;
        assert_eq!(got, 0.0);
        // A ball in between casts its shadow.
        let body = format!("{dark}sphere l at 0 4 0 radius 0.1\nsphere m at 0 2 0 radius 0.5");
        assert!(
            mean(
                &body,
                vec3(1.0, 1.0, 0.0),
                vec3(-1.0, -1.0, 0.0).normalized()
            )
            .x < 0.01
        );
    }
}
