//! What each statement of a scene file adds to the scene.
//!
//! The script reader hands over one line at a time with its scope; when all are read it calls [`Builder::finish`].

use crate::bvh::Bvh;
use crate::expr::evaluate;
use crate::parts::{camera, material, shape, SHAPES};
use crate::scene::{Camera, Finish, Floor, Grade, Material, Object, Scene, Sky};
use crate::script::{Fields, Scope};
use crate::shape::Shape;
use crate::vec3::{vec3, Vec3};

/// Objects a scene may have: far more than a frame of some seconds can show.
const MAX_OBJECTS: usize = 20_000;

/// A scene in the making.
pub struct Builder {
    materials: Vec<Material>,
    /// Lists of materials, by name.
    palettes: Vec<(String, Vec<usize>)>,
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
            palettes: Vec::new(),
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
            grade: Grade {
                exposure: 1.0,
                bloom: 0.0,
                vignette: 0.0,
                saturation: 1.0,
            },
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
                _ => {
                    return Err(
                        "\"let\" is followed by a name and one formula: let speed 2*t".into(),
                    )
                }
            },
            "point" => {
                let name = *words
                    .get(1)
                    .ok_or("\"point\" is followed by a name and three numbers")?;
                let f = Fields::parse(
                    "point",
                    &[&["at"], &words[2..]].concat(),
                    &[("at", 3)],
                    scope,
                )?;
                scope
                    .points
                    .push((name.into(), scope.frame.point(f.need("at")?)));
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
            "palette" => {
                let name = *words
                    .get(1)
                    .ok_or("\"palette\" is followed by a name and materials")?;
                let list: Result<Vec<usize>, String> =
                    words[2..].iter().map(|w| self.named(w)).collect();
                self.palettes.push((name.into(), list?));
            }
            "floor" => {
                let (material, rest) = self.material(words, scope)?;
                let f = Fields::parse("floor", rest, &[("height", 1)], scope)?;
                self.floor = Some(Floor {
                    height: f.number("height", 0.0),
                    material,
                });
            }
            _ => self.object(words, scope)?,
        }
        Ok(())
    }

    /// The material an object statement names, directly or as `palette[number]`, and the words that follow.
    fn material<'a, 'b>(
        &self,
        words: &'a [&'b str],
        scope: &Scope,
    ) -> Result<(usize, &'a [&'b str]), String> {
        let name = *words
            .get(1)
            .ok_or_else(|| format!("\"{}\" is followed by a material", words[0]))?;
        let index = match name.strip_suffix(']').and_then(|n| n.split_once('[')) {
            None => self.named(name)?,
            Some((palette, number)) => {
                let found = self
                    .palettes
                    .iter()
                    .rfind(|(n, list)| n == palette && !list.is_empty());
                let (_, list) = found.ok_or_else(|| {
                    format!("unknown palette \"{palette}\"; define it above: palette {palette} MATERIAL ...")
                })?;
                let number = evaluate(number, &scope.variables)?.floor() as i32;
                list[number.rem_euclid(list.len() as i32) as usize]
            }
        };
        Ok((index, &words[2..]))
    }

    fn named(&self, name: &str) -> Result<usize, String> {
        self.materials
            .iter()
            .rposition(|m| m.name == name)
            .ok_or_else(|| {
                let known: Vec<&str> = self.materials.iter().map(|m| m.name.as_str()).collect();
                format!(
                    "unknown material \"{name}\"; known here: {}",
                    known.join(", ")
                )
            })
    }

    fn object(&mut self, words: &[&str], scope: &Scope) -> Result<(), String> {
        if !SHAPES.contains(&words[0]) {
            let shapes = SHAPES.join(", ");
            return Err(format!(
                "unknown statement \"{}\"; there are: let, point, group, repeat, end, image, camera, sky, fog, \
                 material, palette, floor, {shapes}",
                words[0]
            ));
        }
        let (material, rest) = self.material(words, scope)?;
        let shape = shape(words[0], rest, scope)?;
        if self.objects.len() == MAX_OBJECTS {
            return Err(format!("a scene holds at most {MAX_OBJECTS} objects"));
        }
        self.objects.push(Object { shape, material });
        Ok(())
    }

    fn image(&mut self, words: &[&str], scope: &Scope) -> Result<(), String> {
        let known = [
            ("exposure", 1),
            ("bloom", 1),
            ("vignette", 1),
            ("saturation", 1),
        ];
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
        let known = [
            ("zenith", 3),
            ("horizon", 3),
            ("ground", 3),
            ("glow", 3),
            ("towards", 3),
            ("sharpness", 1),
        ];
        let f = Fields::parse("sky", words, &known, scope)?;
        let s = &mut self.sky;
        s.zenith = f.get("zenith").unwrap_or(s.zenith);
        s.horizon = f.get("horizon").unwrap_or(s.horizon);
        s.ground = f.get("ground").unwrap_or(s.ground);
        s.glow = f.get("glow").unwrap_or(s.glow);
        s.glow_direction = f.get("towards").map_or(s.glow_direction, Vec3::normalized);
        // 2^12 already makes a point of it.
        s.glow_sharpness = f
            .number("sharpness", s.glow_sharpness as f32)
            .clamp(0.0, 12.0) as u32;
        Ok(())
    }

    /// Completes the scene: finds the lights, builds the hierarchy.
    pub fn finish(self) -> Result<Scene, String> {
        let shines = |o: &Object| {
            self.materials[o.material].finish == Finish::Light
                && matches!(o.shape, Shape::Sphere { .. } | Shape::Panel { .. })
        };
        let lights = (0..self.objects.len())
            .filter(|&i| shines(&self.objects[i]))
            .collect();
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
