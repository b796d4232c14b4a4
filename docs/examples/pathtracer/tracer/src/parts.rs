//! What the fields of a statement make: a camera, a material, a shape.
//!
//! Called by [`crate::statement`], which puts the parts together. Checks every value that a picture could not be made of.

use crate::numeric::{cos_turns, max, sin_turns};
use crate::scene::{Camera, Finish, Material};
use crate::script::{Fields, Scope};
use crate::shape::Shape;
use crate::vec3::{vec3, Frame, Vec3};

/// The statements that place an object.
pub const SHAPES: [&str; 5] = ["sphere", "box", "rod", "ring", "panel"];

/// The shape that one of [`SHAPES`] describes with `words`.
pub fn shape(kind: &str, words: &[&str], scope: &Scope) -> Result<Shape, String> {
    let frame = &scope.frame;
    match kind {
        "sphere" => {
            let f = Fields::parse("sphere", words, &[("at", 3), ("radius", 1)], scope)?;
            let (center, radius) = (frame.point(f.need("at")?), f.positive("radius")?);
            Ok(Shape::Sphere { center, radius })
        }
        "box" => {
            let f = Fields::parse("box", words, &[("at", 3), ("size", 3), ("round", 1)], scope)?;
            block(&f, frame)
        }
        "rod" => {
            let f = Fields::parse(
                "rod",
                words,
                &[("from", 3), ("to", 3), ("radius", 1)],
                scope,
            )?;
            let (from, to) = (frame.point(f.need("from")?), frame.point(f.need("to")?));
            Ok(Shape::Rod {
                from,
                axis: (to - from).normalized(),
                length: (to - from).length(),
                radius: f.positive("radius")?,
            })
        }
        "ring" => {
            let known = [("at", 3), ("radius", 1), ("thickness", 1)];
            let f = Fields::parse("ring", words, &known, scope)?;
            Ok(Shape::Ring {
                frame: frame.moved(f.need("at")?),
                radius: f.positive("radius")?,
                thickness: f.positive("thickness")?,
            })
        }
        _ => {
            let known = [("at", 3), ("towards", 3), ("size", 2)];
            panel(&Fields::parse("panel", words, &known, scope)?, frame)
        }
    }
}

fn block(f: &Fields, frame: &Frame) -> Result<Shape, String> {
    let half = f.need("size")? * 0.5;
    let smallest = -(-half).max_component();
    let round = f.number("round", 0.0);
    if smallest <= 0.0 || round < 0.0 || round > smallest {
        return Err(
            "a \"box\" needs a \"size\" above 0 and a \"round\" of at most half of it".into(),
        );
    }
    let frame = frame.moved(f.need("at")?);
    Ok(Shape::Block { frame, half, round })
}

/// `camera eye X Y Z look X Y Z fov DEGREES lens RADIUS focus X Y Z`
pub fn camera(words: &[&str], scope: &Scope) -> Result<Camera, String> {
    let known = [
        ("eye", 3),
        ("look", 3),
        ("fov", 1),
        ("lens", 1),
        ("focus", 3),
    ];
    let f = Fields::parse("camera", words, &known, scope)?;
    let (eye, look) = (
        scope.frame.point(f.need("eye")?),
        scope.frame.point(f.need("look")?),
    );
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
        frame: Frame {
            origin: eye,
            x,
            y: z.cross(x),
            z,
        },
        half_height: sin_turns(half_turns) / cos_turns(half_turns),
        lens_radius: f.number("lens", 0.0),
        focus_distance: max((eye - focus).dot(z), 1e-3),
    })
}

/// `material NAME KIND color R G B ...`
pub fn material(words: &[&str], scope: &Scope) -> Result<Material, String> {
    let (name, kind) = match words {
        [name, kind, ..] => (*name, *kind),
        _ => return Err(
            "\"material\" is followed by a name and a kind: material chalk matte color 0.8 0.8 0.8"
                .into(),
        ),
    };
    let known: &[(&'static str, usize)] = &[
        ("color", 3),
        ("checker", 3),
        ("size", 1),
        ("ior", 1),
        ("fuzz", 1),
        ("power", 1),
    ];
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
        _ => {
            return Err(format!(
                "unknown kind \"{kind}\"; there are: matte, gloss, metal, glass, light"
            ))
        }
    };
    let checker = f
        .get("checker")
        .map(|c| (c, max(f.number("size", 1.0), 1e-3)));
    Ok(Material {
        name: name.into(),
        finish,
        color,
        checker,
    })
}

/// A rectangle around `at` whose front looks at `towards`; `size` is its width and height.
fn panel(f: &Fields, frame: &Frame) -> Result<Shape, String> {
    let (at, towards) = (frame.point(f.need("at")?), frame.point(f.need("towards")?));
    let size = f.need("size")?;
    let normal = (towards - at).normalized();
    if normal == Vec3::ZERO || size.x <= 0.0 || size.y <= 0.0 {
        return Err(
            "a \"panel\" needs \"towards\" apart from \"at\", and a \"size\" above 0".into(),
        );
    }
    let around = Frame::around(normal);
    let (u, v) = (around.x * size.x, around.y * size.y);
    Ok(Shape::Panel {
        corner: at - (u + v) * 0.5,
        u,
        v,
        normal,
    })
}
