//! The light transport: follows one camera ray through the scene and sums up the light it brings back.
//!
//! Owns the path loop; the renderer calls [`Tracer::sample`] for every sample of every pixel. Direct light on matte
//! surfaces is sampled (see [`crate::light`]), everything else is found by following the path: mirrors, glass and coats
//! see lights themselves. The first surface that both mirrors and lets through is followed both ways, because at few
//! samples a coin toss there is the loudest noise in the picture.

use crate::light::{self, Chooser};
use crate::numeric::{cos_turns, exp, max, min, sin_turns};
use crate::sampler::Sampler;
use crate::scene::{Finish, Hit, Material, Scene};
use crate::shape::{Ray, Shape};
use crate::vec3::{Frame, Vec3};

/// Surfaces on one path, mirrors and glass included: light through two glass balls meets about eight.
const MAX_SURFACES: u32 = 10;
/// Matte surfaces on one path. The third bounce of light changes these scenes by less than the tone curve shows.
const MAX_MATTE: u32 = 3;
/// Brightness to which light that came by way of a matte surface is limited: a rare, very bright path would be a speck.
const INDIRECT_LIMIT: f32 = 5.0;
/// Lamps chosen at the first matte surface of a path.
const FIRST_PICKS: u32 = 2;
/// How far a new path starts from its surface, in scene units: above [`crate::shape`]'s touch distance.
const LIFT: f32 = 6e-4;
/// Random points set aside per surface of a path.
const DIMENSIONS_PER_SURFACE: u32 = 4;
/// The second way of a split takes its random points from here on.
const SPLIT_DIMENSIONS: u32 = 64;

/// What the denoiser may know of a sample besides its colour: the first matte surface, through mirrors and glass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    pub albedo: Vec3,
    pub normal: Vec3,
    pub position: Vec3,
}

/// One path tracer over one scene.
pub struct Tracer<'a> {
    pub scene: &'a Scene,
    /// Rays cast so far, shadow rays included.
    pub rays: u64,
    lights: Chooser,
}

/// A stretch of a path: where it goes on and what its light counts for.
struct Leg {
    ray: Ray,
    weight: Vec3,
    surfaces: u32,
    first_dimension: u32,
    /// Still waiting for the surface that describes the pixel.
    describes: bool,
}

/// What [`Tracer::scatter`] says of a surface.
enum Next {
    /// The path goes on; lights it meets by itself count or were sampled already.
    Go { direction: Vec3, side: Vec3, weight: Vec3, sees_lights: bool },
    Stop,
}

/// The state of a leg while it is followed.
struct Walk {
    weight: Vec3,
    matte: u32,
    sees_lights: bool,
    light: Vec3,
    split: Option<Leg>,
    may_split: bool,
    surfaces: u32,
    features: Option<Features>,
}

impl Walk {
    /// Adds light found on the way, limited once the path has been scattered.
    fn collect(&mut self, radiance: Vec3) {
        let mut l = self.weight * radiance;
        if self.matte > 0 {
            let brightness = l.max_component();
            if brightness > INDIRECT_LIMIT {
                l = l * (INDIRECT_LIMIT / brightness);
            }
        }
        self.light += l;
    }

    fn describe(&mut self, albedo: Vec3, normal: Vec3, position: Vec3) {
        if self.features.is_none() {
            let albedo = (self.weight * albedo).min(Vec3::splat(2.0));
            self.features = Some(Features { albedo, normal, position });
        }
    }
}

impl<'a> Tracer<'a> {
    pub fn new(scene: &'a Scene) -> Self {
        Tracer { scene, rays: 0, lights: Chooser::default() }
    }

    /// The radiance that arrives along `ray`, and what it comes from.
    pub fn sample(&mut self, ray: Ray, sampler: &mut Sampler) -> (Vec3, Features) {
        let first = Leg { ray, weight: Vec3::ONE, surfaces: 0, first_dimension: 2, describes: true };
        let (mut light, features, split) = self.follow(first, sampler, true);
        if let Some(leg) = split {
            light += self.follow(leg, sampler, false).0;
        }
        (light, features.unwrap_or_default())
    }

    fn follow(&mut self, leg: Leg, sampler: &mut Sampler, may_split: bool) -> (Vec3, Option<Features>, Option<Leg>) {
        let scene = self.scene;
        let mut ray = leg.ray;
        let mut w = Walk {
            weight: leg.weight,
            matte: 0,
            sees_lights: true,
            light: Vec3::ZERO,
            split: None,
            may_split,
            surfaces: leg.surfaces,
            features: if leg.describes { None } else { Some(Features::default()) },
        };
        while w.surfaces < MAX_SURFACES {
            self.rays += 1;
            let hit = match scene.trace(&ray) {
                Some(hit) => hit,
                None => {
                    let sky = scene.sky.radiance(ray.direction);
                    w.describe(sky, Vec3::ZERO, ray.origin + ray.direction * 100.0);
                    w.collect(sky);
                    break;
                }
            };
            self.fog(&mut w, &ray, hit.distance);
            let material = &scene.materials[hit.material];
            sampler.jump(leg.first_dimension + w.surfaces * DIMENSIONS_PER_SURFACE);
            w.surfaces += 1;
            if material.finish == Finish::Light {
                let front = !matches!(scene.objects[hit.object].shape, Shape::Panel { .. })
                    || ray.direction.dot(hit.normal) < 0.0;
                if front {
                    w.describe(material.color, hit.normal, hit.position);
                    let counts = match scene.objects[hit.object].shape {
                        Shape::Panel { .. } => w.sees_lights,
                        // A small lamp's image in mirror and lens, found by chance from a matte surface, is a speck of
                        // light and not a caustic: it is left out.
                        Shape::Sphere { .. } => w.sees_lights && w.matte == 0,
                        _ => true,
                    };
                    if counts {
                        w.collect(material.color);
                    }
                }
                break;
            }
            match self.scatter(&mut w, &ray, &hit, material, sampler) {
                Next::Stop => break,
                Next::Go { direction, side, weight, sees_lights } => {
                    w.weight *= weight;
                    w.sees_lights = sees_lights;
                    ray = Ray { origin: hit.position + side * LIFT, direction };
                }
            }
        }
        (w.light, w.features, w.split)
    }

    /// Replaces part of what lies behind `distance` by the sky's colour at the horizon.
    fn fog(&self, w: &mut Walk, ray: &Ray, distance: f32) {
        let part = distance / self.scene.fog_distance;
        if part > 0.02 {
            let clear = exp(-part * part);
            let level = crate::vec3::vec3(ray.direction.x, max(ray.direction.y, 0.0), ray.direction.z).normalized();
            let air = self.scene.sky.radiance(level);
            w.collect(air * (1.0 - clear));
            w.weight = w.weight * clear;
        }
    }

    /// Lets a surface act on a path.
    fn scatter(&mut self, w: &mut Walk, ray: &Ray, hit: &Hit, material: &Material, sampler: &mut Sampler) -> Next {
        let d = ray.direction;
        let n = if d.dot(hit.normal) < 0.0 { hit.normal } else { -hit.normal };
        let color = material.color_at(hit.position);
        match material.finish {
            Finish::Metal { fuzz } => {
                let (direction, side) = (mirrored(d, n, fuzz, sampler.next()), n);
                let weight = color.mix(Vec3::ONE, schlick(0.0, -d.dot(n)));
                Next::Go { direction, side, weight, sees_lights: true }
            }
            Finish::Glass { ior } => glass(w, d, n, hit, color, ior, sampler.next().0),
            Finish::Gloss { ior, fuzz } if w.matte == 0 => {
                let base = (ior - 1.0) / (ior + 1.0);
                let mirror = schlick(base * base, -d.dot(n));
                let (toss, spare) = (sampler.next().0, sampler.next());
                if w.may_split {
                    w.may_split = false;
                    let reflected = Ray { origin: hit.position + n * LIFT, direction: mirrored(d, n, fuzz, spare) };
                    w.split = Some(branch(w, reflected, mirror));
                } else if toss < mirror {
                    let direction = mirrored(d, n, fuzz, spare);
                    return Next::Go { direction, side: n, weight: Vec3::ONE, sees_lights: true };
                } else {
                    w.weight = w.weight * (1.0 / (1.0 - mirror));
                }
                self.matte(w, hit.position, n, color * (1.0 - mirror), sampler)
            }
            _ => self.matte(w, hit.position, n, color, sampler),
        }
    }

    /// Adds the light of one lamp at a matte surface, which counts for `share`.
    fn direct(&mut self, w: &mut Walk, p: Vec3, n: Vec3, pick: f32, spot: (f32, f32), share: f32) {
        if let Some(s) = light::sample(self.scene, &self.lights, p, pick, spot) {
            let facing = s.direction.dot(n);
            if facing > 0.0 {
                self.rays += 1;
                let shadow = Ray { origin: p + n * LIFT, direction: s.direction };
                if !self.scene.blocked(&shadow, s.distance - LIFT, s.object) {
                    w.collect(s.radiance * (share * facing / (std::f32::consts::PI * s.density)));
                }
            }
        }
    }

    /// An evenly scattering surface: adds the light that reaches it directly and sends the path on.
    fn matte(&mut self, w: &mut Walk, p: Vec3, n: Vec3, albedo: Vec3, sampler: &mut Sampler) -> Next {
        w.describe(albedo, n, p);
        let (pick, spot, bounce) = (sampler.next(), sampler.next(), sampler.next());
        w.weight *= albedo;
        self.lights.weigh(self.scene, p, n);
        // Where the eye looks the noise of choosing is halved by choosing twice.
        let picks = if w.matte == 0 { FIRST_PICKS } else { 1 };
        for i in 0..picks {
            let shift = i as f32 / picks as f32;
            let around = |v: f32| if v + shift < 1.0 { v + shift } else { v + shift - 1.0 };
            self.direct(w, p, n, around(pick.0), (around(spot.0), spot.1), 1.0 / picks as f32);
        }
        w.matte += 1;
        if w.matte >= MAX_MATTE {
            return Next::Stop;
        }
        // A path that would bring little is dropped at random, and the ones that stay count for it.
        let mut weight = Vec3::ONE;
        if w.matte > 1 {
            let keep = min(w.weight.max_component() * 2.0, 1.0);
            if pick.1 >= keep {
                return Next::Stop;
            }
            weight = Vec3::splat(1.0 / keep);
        }
        let direction = cosine_lobe(n, bounce);
        Next::Go { direction, side: n, weight, sees_lights: false }
    }
}

/// The other way of a split, which carries `share` of the light.
fn branch(w: &Walk, ray: Ray, share: f32) -> Leg {
    Leg {
        ray,
        weight: w.weight * share,
        surfaces: w.surfaces,
        first_dimension: SPLIT_DIMENSIONS,
        describes: false,
    }
}

/// A surface of glass: reflects and refracts by Fresnel's law.
fn glass(w: &mut Walk, d: Vec3, n: Vec3, hit: &Hit, tint: Vec3, ior: f32, toss: f32) -> Next {
    let entering = d.dot(hit.normal) < 0.0;
    let eta = if entering { 1.0 / ior } else { ior };
    let cos_in = min(-d.dot(n), 1.0);
    let sin2_out = eta * eta * (1.0 - cos_in * cos_in);
    let reflected = d.reflect(n);
    if sin2_out >= 1.0 {
        return Next::Go { direction: reflected, side: n, weight: Vec3::ONE, sees_lights: true };
    }
    let cos_out = (1.0 - sin2_out).sqrt();
    let mirror = fresnel(eta, cos_in, cos_out);
    let through = (d * eta + n * (eta * cos_in - cos_out)).normalized();
    let mut weight = tint;
    if w.may_split && w.matte == 0 {
        w.may_split = false;
        let ray = Ray { origin: hit.position + n * LIFT, direction: reflected };
        w.split = Some(branch(w, ray, mirror));
        weight = tint * (1.0 - mirror);
    } else if toss < mirror {
        return Next::Go { direction: reflected, side: n, weight: Vec3::ONE, sees_lights: true };
    }
    Next::Go { direction: through, side: -n, weight, sees_lights: true }
}

/// Share of unpolarised light that a clear boundary mirrors; `eta` is the index before over the index behind.
fn fresnel(eta: f32, cos_in: f32, cos_out: f32) -> f32 {
    let s = (eta * cos_in - cos_out) / (eta * cos_in + cos_out);
    let p = (cos_in - eta * cos_out) / (cos_in + eta * cos_out);
    0.5 * (s * s + p * p)
}

/// Schlick's approximation of the same, from the share mirrored straight on.
fn schlick(straight: f32, cos: f32) -> f32 {
    let m = min(max(1.0 - cos, 0.0), 1.0);
    let m2 = m * m;
    straight + (1.0 - straight) * m2 * m2 * m
}

/// A direction above the surface with probability proportional to its cosine.
fn cosine_lobe(n: Vec3, spot: (f32, f32)) -> Vec3 {
    let r = spot.0.sqrt();
    let f = Frame::around(n);
    let up = max(1.0 - spot.0, 0.0).sqrt();
    (f.x * (r * cos_turns(spot.1)) + f.y * (r * sin_turns(spot.1)) + n * up).normalized()
}

/// The mirror direction, blurred: towards a point in a ball of radius `fuzz` around its tip, never into the surface.
fn mirrored(d: Vec3, n: Vec3, fuzz: f32, spot: (f32, f32)) -> Vec3 {
    let r = d.reflect(n);
    if fuzz <= 0.0 {
        return r;
    }
    // Denser towards the middle than a disc: the highlight has a bright core and a soft edge.
    let reach = fuzz * spot.0;
    let f = Frame::around(r);
    let blurred = (r + f.x * (reach * cos_turns(spot.1)) + f.y * (reach * sin_turns(spot.1))).normalized();
    if blurred.dot(n) > 0.0 {
        blurred
    } else {
        r
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
            sum += tracer.sample(Ray { origin, direction }, &mut Sampler::new(&table, 9, i)).0;
        }
        assert!(tracer.rays >= u64::from(n));
        sum * (1.0 / n as f32)
    }

    const WHITE_SKY: &str = "camera eye 0 0 5 look 0 0 0\nsky zenith 1 1 1 horizon 1 1 1 ground 1 1 1 glow 0 0 0\n";

    #[test]
    fn in_an_even_light_a_ball_shows_its_albedo() {
        // A convex body in a white furnace: one bounce, exactly the albedo.
        let (o, d) = (vec3(0.3, 0.2, 5.0), vec3(0.0, 0.0, -1.0));
        let ball = |m: &str| mean(&format!("{WHITE_SKY}material m {m}\nsphere m at 0 0 0 radius 1"), o, d);
        assert!((ball("matte color 0.5 0.25 0.1") - vec3(0.5, 0.25, 0.1)).length() < 1e-3);
        assert!((ball("glass ior 1.5") - Vec3::ONE).length() < 2e-2);
        let coated = ball("gloss color 0 0 0 ior 1.5");
        assert!((coated.x - 0.04).abs() < 2e-3, "a black coat mirrors 4 %: {coated:?}");
    }

    #[test]
    fn sampled_lights_bring_what_geometry_says() {
        let dark = "camera eye 0 2 5 look 0 0 0\nsky zenith 0 0 0 horizon 0 0 0 ground 0 0 0\n\
                    material m matte color 1 1 1\nmaterial l light color 1 1 1 power 2\nfloor m\n";
        let down = (vec3(0.0, 1.0, 0.0), vec3(0.0, -1.0, 0.0));
        // Irradiance under a ball is pi L (r/d)^2; a white floor reflects 1/pi of it.
        let got = mean(&format!("{dark}sphere l at 0 4 0 radius 0.5"), down.0, down.1).x;
        assert!((got - 2.0 * 0.25 / 16.0).abs() < 1e-4, "{got}");
        // A panel far up is nearly a point: L A / d^2 / pi.
        let got = mean(&format!("{dark}panel l at 0 10 0 towards 0 0 0 size 0.5 0.5 0"), down.0, down.1).x;
        assert!((got - 2.0 * 0.25 / 100.0 / std::f32::consts::PI).abs() < 1e-4, "{got}");
        // The back of a panel gives nothing.
        let got = mean(&format!("{dark}panel l at 0 10 0 towards 0 20 0 size 9 9 0"), down.0, down.1).x;
        assert_eq!(got, 0.0);
        // A ball in between casts its shadow.
        let body = format!("{dark}sphere l at 0 4 0 radius 0.1\nsphere m at 0 2 0 radius 0.5");
        assert!(mean(&body, vec3(1.0, 1.0, 0.0), vec3(-1.0, -1.0, 0.0).normalized()).x < 0.01);
    }

    #[test]
    fn refraction_and_reflection_share_the_light() {
        assert!((fresnel(1.0 / 1.5, 1.0, 1.0) - 0.04).abs() < 1e-6);
        assert!((schlick(0.04, 1.0) - 0.04).abs() < 1e-6);
        assert!((schlick(0.04, 0.0) - 1.0).abs() < 1e-6);
    }
}
