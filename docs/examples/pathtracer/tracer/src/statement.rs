//! What each statement of a scene file adds to the scene.
//!
//! The script reader hands over one line at a time with its scope; when all are read it calls [`Builder::finish`].

use crate::bvh::Bvh;
use crate::expr::evaluate;
use crate::numeric::{cos_turns, max, sin_turns};
use crate::scene::{Camera, Finish, Floor, Grade, Material, Object, Scene, Sky};
use crate::script::{Fields, Scope};
use crate::shape::Shape;
use crate::vec3::{vec3, Frame, Vec3};

/// Objects a scene may have: far more than a frame of some seconds can show.
const MAX_OBJECTS: usize = 20_000;

/// A scene in the making.
pub struct Builder {
    materials: Vec<Material>,
    objects: Vec<Object>,
    floor: Option<Floor>,
    sky: Sky,
    fog_distance: f32,
    camera: Option<Camera>,
    grade: Grade,
}

impl Builder {
    pub fn new() -> Builder {
        Builder {
            materials: Vec::new(),
            objects: Vec::new(),
            floor: None,
            // A plain overcast day, until the file says otherwise.
            sky: Sky {
                zenith: Vec3::splat(0.6),
                horizon: Vec3::splat(0.9),
                ground: Vec3::splat(0.3),
                glow: Vec3::ZERO,
                glow_direction: vec3(0.0, 1.0, 0.0),
                glow_sharpness: 4,
            },
            fog_distance: f32::INFINITY,
            camera: None,
            grade: Grade { exposure: 1.0, bloom: 0.0, vignette: 0.0, saturation: 1.0 },
        }
    }

    /// Carries out one statement. `words` is not empty.
    pub fn statement(&mut self, words: &[&str], scope: &mut Scope) -> Result<(), String> {
        match words[0] {
            "let" => match words[1..] {
                [name, value] => {
                    let value = evaluate(value, &scope.variables)?;
                    scope.variables.push((name.into(), value));
                }
                _ => return Err("\"let\" is followed by a name and one formula: let speed 2*t".into()),
            },
            "point" => {
                let name = *words.get(1).ok_or("\"point\" is followed by a name and three numbers")?;
                let f = Fields::parse("point", &[&["at"], &words[2..]].concat(), &[("at", 3)], scope)?;
                scope.points.push((name.into(), scope.frame.point(f.need("at")?)));
            }
            "camera" => self.camera = Some(camera(&words[1..], scope)?),
            "image" => self.image(&words[1..], scope)?,
            "sky" => self.sky(&words[1..], scope)?,
            "fog" => {
                let f = Fields::parse("fog", &words[1..], &[("distance", 1)], scope)?;
                self.fog_distance = f.positive("distance")?;
            }
            "material" => {
                let m = material(&words[1..], scope)?;
                self.materials.push(m);
            }
            "floor" => {
                let (material, rest) = self.material(words)?;
                let f = Fields::parse("floor", rest, &[("height", 1)], scope)?;
                self.floor = Some(Floor { height: f.number("height", 0.0), material });
            }
            _ => self.object(words, scope)?,
        }
        Ok(())
    }

    /// The material an object statement names, and the words that follow.
    fn material<'a, 'b>(&self, words: &'a [&'b str]) -> Result<(usize, &'a [&'b str]), String> {
        let name = *words.get(1).ok_or_else(|| format!("\"{}\" is followed by a material", words[0]))?;
        let index = self.materials.iter().rposition(|m| m.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.materials.iter().map(|m| m.name.as_str()).collect();
            format!("unknown material \"{name}\"; known here: {}", known.join(", "))
        })?;
        Ok((index, &words[2..]))
    }

    fn object(&mut self, words: &[&str], scope: &Scope) -> Result<(), String> {
        let frame = &scope.frame;
        if !["sphere", "box", "rod", "ring", "panel"].contains(&words[0]) {
            return Err(format!(
                "unknown statement \"{}\"; there are: let, point, group, repeat, end, image, camera, sky, fog, material, \
                 floor, sphere, box, rod, ring, panel",
                words[0]
            ));
        }
        let (material, rest) = self.material(words)?;
        let shape = match words[0] {
            "sphere" => {
                let f = Fields::parse("sphere", rest, &[("at", 3), ("radius", 1)], scope)?;
                Shape::Sphere { center: frame.point(f.need("at")?), radius: f.positive("radius")? }
            }
            "box" => {
                let f = Fields::parse("box", rest, &[("at", 3), ("size", 3), ("round", 1)], scope)?;
                let half = f.need("size")? * 0.5;
                let smallest = -(-half).max_component();
                let round = f.number("round", 0.0);
                if smallest <= 0.0 || round < 0.0 || round > smallest {
                    return Err("a \"box\" needs a \"size\" above 0 and a \"round\" of at most half of it".into());
                }
                Shape::Block { frame: frame.moved(f.need("at")?), half, round }
            }
            "rod" => {
                let f = Fields::parse("rod", rest, &[("from", 3), ("to", 3), ("radius", 1)], scope)?;
                let (from, to) = (frame.point(f.need("from")?), frame.point(f.need("to")?));
                let length = (to - from).length();
                Shape::Rod { from, axis: (to - from).normalized(), length, radius: f.positive("radius")? }
            }
            "ring" => {
                let f = Fields::parse("ring", rest, &[("at", 3), ("radius", 1), ("thickness", 1)], scope)?;
                let (radius, thickness) = (f.positive("radius")?, f.positive("thickness")?);
                Shape::Ring { frame: frame.moved(f.need("at")?), radius, thickness }
            }
            _ => panel(&Fields::parse("panel", rest, &[("at", 3), ("towards", 3), ("size", 3)], scope)?, frame)?,
        };
        if self.objects.len() == MAX_OBJECTS {
            return Err(format!("a scene holds at most {MAX_OBJECTS} objects"));
        }
        self.objects.push(Object { shape, material });
        Ok(())
    }

    fn image(&mut self, words: &[&str], scope: &Scope) -> Result<(), String> {
        let known = [("exposure", 1), ("bloom", 1), ("vignette", 1), ("saturation", 1)];
        let f = Fields::parse("image", words, &known, scope)?;
        let g = self.grade;
        self.grade = Grade {
            exposure: f.number("exposure", g.exposure),
            bloom: f.number("bloom", g.bloom),
            vignette: f.number("vignette", g.vignette),
            saturation: f.number("saturation", g.saturation),
        };
        Ok(())
    }

    fn sky(&mut self, words: &[&str], scope: &Scope) -> Result<(), String> {
        let known = [("zenith", 3), ("horizon", 3), ("ground", 3), ("glow", 3), ("towards", 3), ("sharpness", 1)];
        let f = Fields::parse("sky", words, &known, scope)?;
        let s = &mut self.sky;
        s.zenith = f.get("zenith").unwrap_or(s.zenith);
        s.horizon = f.get("horizon").unwrap_or(s.horizon);
        s.ground = f.get("ground").unwrap_or(s.ground);
        s.glow = f.get("glow").unwrap_or(s.glow);
        s.glow_direction = f.get("towards").map_or(s.glow_direction, Vec3::normalized);
        // 2^12 already makes a point of it.
        s.glow_sharpness = f.number("sharpness", s.glow_sharpness as f32).clamp(0.0, 12.0) as u32;
        Ok(())
    }

    /// Completes the scene: finds the lights, builds the hierarchy.
    pub fn finish(self) -> Result<Scene, String> {
        let shines = |o: &Object| {
            self.materials[o.material].finish == Finish::Light
                && matches!(o.shape, Shape::Sphere { .. } | Shape::Panel { .. })
        };
        let lights = (0..self.objects.len()).filter(|&i| shines(&self.objects[i])).collect();
        let bvh = Bvh::build(self.objects.iter().map(|o| &o.shape));
        Ok(Scene {
            camera: self.camera.ok_or("there is no \"camera\" statement")?,
            materials: self.materials,
            objects: self.objects,
            lights,
            floor: self.floor,
            sky: self.sky,
            fog_distance: self.fog_distance,
            grade: self.grade,
            bvh,
        })
    }
}

fn camera(words: &[&str], scope: &Scope) -> Result<Camera, String> {
    let known = [("eye", 3), ("look", 3), ("fov", 1), ("lens", 1), ("focus", 3)];
    let f = Fields::parse("camera", words, &known, scope)?;
    let (eye, look) = (scope.frame.point(f.need("eye")?), scope.frame.point(f.need("look")?));
    let fov = f.number("fov", 40.0);
    if !(1.0..=150.0).contains(&fov) {
        return Err("\"fov\" must be between 1 and 150 degrees".into());
    }
    let z = (eye - look).normalized();
    let x = vec3(0.0, 1.0, 0.0).cross(z).normalized();
    if x == Vec3::ZERO {
        return Err("the camera looks straight up or down, or from where it looks at: move \"eye\" a little".into());
    }
    let half_turns = fov / 720.0;
    let focus = f.get("focus").map_or(look, |p| scope.frame.point(p));
    Ok(Camera {
        frame: Frame { origin: eye, x, y: z.cross(x), z },
        half_height: sin_turns(half_turns) / cos_turns(half_turns),
        lens_radius: f.number("lens", 0.0),
        focus_distance: max((eye - focus).dot(z), 1e-3),
    })
}

fn material(words: &[&str], scope: &Scope) -> Result<Material, String> {
    let (name, kind) = match words {
        [name, kind, ..] => (*name, *kind),
        _ => return Err("\"material\" is followed by a name and a kind: material chalk matte color 0.8 0.8 0.8".into()),
    };
    let known: &[(&'static str, usize)] =
        &[("color", 3), ("checker", 3), ("size", 1), ("ior", 1), ("fuzz", 1), ("power", 1)];
    let f = Fields::parse("material", &words[2..], known, scope)?;
    // 1.5 is window glass and most lacquers.
    let (ior, fuzz) = (f.number("ior", 1.5), f.number("fuzz", 0.0).clamp(0.0, 1.0));
    if ior <= 1.0 {
        return Err("\"ior\" must be above 1".into());
    }
    let mut color = f.get("color").unwrap_or(Vec3::ONE).max(Vec3::ZERO);
    let finish = match kind {
        "matte" => Finish::Matte,
        "gloss" => Finish::Gloss { ior, fuzz },
        "metal" => Finish::Metal { fuzz },
        "glass" => Finish::Glass { ior },
        "light" => {
            color = color * f.number("power", 1.0);
            Finish::Light
        }
        _ => return Err(format!("unknown kind \"{kind}\"; there are: matte, gloss, metal, glass, light")),
    };
    let checker = f.get("checker").map(|c| (c, max(f.number("size", 1.0), 1e-3)));
    Ok(Material { name: name.into(), finish, color, checker })
}

/// A rectangle around `at` whose front looks at `towards`; `size` is its width and height.
fn panel(f: &Fields, frame: &Frame) -> Result<Shape, String> {
    let (at, towards) = (frame.point(f.need("at")?), frame.point(f.need("towards")?));
    let size = f.need("size")?;
    let normal = (towards - at).normalized();
    if normal == Vec3::ZERO || size.x <= 0.0 || size.y <= 0.0 {
        return Err("a \"panel\" needs \"towards\" apart from \"at\", and \"size WIDTH HEIGHT 0\" above 0".into());
    }
    let around = Frame::around(normal);
    let (u, v) = (around.x * size.x, around.y * size.y);
    Ok(Shape::Panel { corner: at - (u + v) * 0.5, u, v, normal })
}
