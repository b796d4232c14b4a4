//! Reads a scene file: one statement a line, numbers may be formulas of the time.
//!
//! Owns the file's grammar (written down in the example's README) and every message about it; `main` calls [`read`]. It
//! never touches the disk. What a statement means to a picture is decided in [`crate::statement`].

use crate::expr::{evaluate, Variables};
use crate::scene::Scene;
use crate::statement::Builder;
use crate::vec3::{vec3, Frame, Vec3};

/// Rounds a `repeat` may make, nested ones multiplied: keeps a typing slip from filling the memory.
const MAX_ROUNDS: u32 = 20_000;

/// How deep blocks may nest: far beyond any readable scene, well within a WASM stack.
const MAX_DEPTH: usize = 20;

/// A mistake in a scene file.
#[derive(Debug, PartialEq)]
pub struct SceneError {
    /// Counted from 1; 0 when the file as a whole is meant.
    pub line: usize,
    pub message: String,
}

/// One line, cut into words. Spaces inside parentheses don't cut.
pub struct Line<'a> {
    number: usize,
    words: Vec<&'a str>,
}

/// Where a statement stands: the variables it sees and the frame its coordinates are given in.
pub struct Scope {
    pub variables: Variables,
    pub points: Vec<(String, Vec3)>,
    pub frame: Frame,
}

/// The scene at time `t`, which runs from 0 to 1 over the animation.
pub fn read(text: &str, t: f32) -> Result<Scene, SceneError> {
    let lines: Vec<Line> = text
        .lines()
        .enumerate()
        .map(|(i, l)| Line {
            number: i + 1,
            words: words(l),
        })
        .collect();
    let scope = Scope {
        variables: vec![("t".into(), t)],
        points: Vec::new(),
        frame: Frame::WORLD,
    };
    let mut reader = Reader {
        builder: Builder::new(),
        rounds: 0,
        depth: 0,
    };
    let mut scope = scope;
    reader.run(&lines, &mut scope)?;
    reader
        .builder
        .finish()
        .map_err(|message| SceneError { line: 0, message })
}

/// Cuts a line at spaces outside parentheses; `#` starts a comment.
fn words(line: &str) -> Vec<&str> {
    let line = line.split('#').next().unwrap_or("");
    let (mut out, mut depth, mut start) = (Vec::new(), 0i32, None);
    for (i, c) in line.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if c.is_whitespace() && depth <= 0 {
            if let Some(s) = start.take() {
                out.push(&line[s..i]);
            }
        } else if start.is_none() {
            start = Some(i);
        }
    }
    if let Some(s) = start {
        out.push(&line[s..]);
    }
    out
}

struct Reader {
    builder: Builder,
    rounds: u32,
    depth: usize,
}

impl Reader {
    fn run(&mut self, lines: &[Line], scope: &mut Scope) -> Result<(), SceneError> {
        let (known_variables, known_points) = (scope.variables.len(), scope.points.len());
        self.depth += 1;
        let mut at = 0;
        while at < lines.len() {
            let line = &lines[at];
            let fail = |message| SceneError {
                line: line.number,
                message,
            };
            at += 1;
            if self.depth > MAX_DEPTH {
                return Err(fail(format!("blocks nest more than {MAX_DEPTH} deep")));
            }
            match line.words.first() {
                None => {}
                Some(&"end") => {
                    return Err(fail(
                        "\"end\" without a \"group\" or \"repeat\" above it".into(),
                    ))
                }
                Some(&block) if block == "group" || block == "repeat" => {
                    let length = block_length(&lines[at..])
                        .ok_or_else(|| fail(format!("this \"{block}\" has no \"end\"")))?;
                    let body = &lines[at..at + length];
                    at += length + 1;
                    if block == "group" {
                        let outer = scope.frame;
                        scope.frame = group_frame(&line.words[1..], scope).map_err(fail)?;
                        self.run(body, scope)?;
                        scope.frame = outer;
                    } else {
                        self.repeat(line, body, scope)?;
                    }
                }
                Some(_) => self.builder.statement(&line.words, scope).map_err(fail)?,
            }
        }
        self.depth -= 1;
        scope.variables.truncate(known_variables);
        scope.points.truncate(known_points);
        Ok(())
    }

    fn repeat(&mut self, line: &Line, body: &[Line], scope: &mut Scope) -> Result<(), SceneError> {
        let fail = |message| SceneError {
            line: line.number,
            message,
        };
        let (count, name) = match line.words[1..] {
            [count, name] => (evaluate(count, &scope.variables).map_err(fail)?, name),
            _ => {
                return Err(fail(
                    "\"repeat\" is followed by a count and a name: repeat 5 i".into(),
                ))
            }
        };
        for i in 0..count as u32 {
            self.rounds += 1;
            if self.rounds > MAX_ROUNDS {
                return Err(fail(format!(
                    "more than {MAX_ROUNDS} rounds of \"repeat\" in one scene"
                )));
            }
            scope.variables.push((name.into(), i as f32));
            self.run(body, scope)?;
            scope.variables.pop();
        }
        Ok(())
    }
}

/// Lines up to the `end` that closes a block.
fn block_length(lines: &[Line]) -> Option<usize> {
    let mut depth = 0;
    for (i, line) in lines.iter().enumerate() {
        match line.words.first() {
            Some(&"group") | Some(&"repeat") => depth += 1,
            Some(&"end") if depth == 0 => return Some(i),
            Some(&"end") => depth -= 1,
            _ => {}
        }
    }
    None
}

/// `group at X Y Z turn-y A ...`: applied from left to right.
fn group_frame(words: &[&str], scope: &Scope) -> Result<Frame, String> {
    let mut frame = scope.frame;
    let known = [("at", 3), ("turn-x", 1), ("turn-y", 1), ("turn-z", 1)];
    for (key, v) in Fields::parse("group", words, &known, scope)?.list {
        frame = match key {
            "at" => frame.moved(v),
            "turn-x" => frame.turned(0, v.x),
            "turn-y" => frame.turned(1, v.x),
            _ => frame.turned(2, v.x),
        };
    }
    Ok(frame)
}

/// The `keyword value...` pairs of a statement. A point `@name` stands for three numbers.
pub struct Fields {
    statement: &'static str,
    list: Vec<(&'static str, Vec3)>,
}

impl Fields {
    /// Reads `words` as pairs; `known` lists the keywords and how many numbers follow each (1 to 3).
    pub fn parse(
        statement: &'static str,
        words: &[&str],
        known: &[(&'static str, usize)],
        scope: &Scope,
    ) -> Result<Fields, String> {
        let mut list = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let (key, count) = *known.iter().find(|(k, _)| *k == words[at]).ok_or_else(|| {
                let names: Vec<&str> = known.iter().map(|(k, _)| *k).collect();
                format!(
                    "\"{statement}\" knows no \"{}\"; it knows: {}",
                    words[at],
                    names.join(", ")
                )
            })?;
            at += 1;
            let (value, used) = value(statement, key, count, &words[at..], scope)?;
            list.push((key, value));
            at += used;
        }
        Ok(Fields { statement, list })
    }

    /// The last value given for `key`.
    pub fn get(&self, key: &str) -> Option<Vec3> {
        self.list
            .iter()
            .rev()
            .find(|(k, _)| *k == key)
            .map(|(_, v)| *v)
    }

    /// A number, or `default` when it is not given.
    pub fn number(&self, key: &str, default: f32) -> f32 {
        self.get(key).map_or(default, |v| v.x)
    }

    /// A value that must be given.
    pub fn need(&self, key: &str) -> Result<Vec3, String> {
        self.get(key)
            .ok_or_else(|| format!("\"{}\" needs \"{key}\"", self.statement))
    }

    /// A number that must be given and be above zero.
    pub fn positive(&self, key: &str) -> Result<f32, String> {
        let v = self.need(key)?.x;
        if v > 0.0 {
            Ok(v)
        } else {
            Err(format!(
                "\"{key}\" of \"{}\" must be above 0",
                self.statement
            ))
        }
    }
}

/// `count` numbers at the head of `words`, or one `@point`; and how many words that took.
fn value(
    statement: &str,
    key: &str,
    count: usize,
    words: &[&str],
    scope: &Scope,
) -> Result<(Vec3, usize), String> {
    if let (3, Some(name)) = (count, words.first().and_then(|w| w.strip_prefix('@'))) {
        let found = scope.points.iter().rev().find(|(n, _)| n == name);
        let (_, p) = found.ok_or_else(|| {
            format!("unknown point \"@{name}\"; define it above: point {name} X Y Z")
        })?;
        return Ok((scope.frame.local_point(*p), 1));
    }
    if words.len() < count {
        let numbers = ["no number", "one number", "two numbers", "three numbers"][count.min(3)];
        return Err(format!("\"{key}\" of \"{statement}\" takes {numbers}"));
    }
    let mut v = [0.0; 3];
    for (slot, word) in v.iter_mut().zip(&words[..count]) {
        *slot = evaluate(word, &scope.variables)?;
    }
    Ok((vec3(v[0], v[1], v[2]), count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Shape;

    const HEAD: &str = "camera eye 0 1 5 look 0 0 0 fov 40\nmaterial red matte color 1 0 0\n";

    fn scene(body: &str) -> Result<Scene, SceneError> {
        read(&format!("{HEAD}{body}"), 0.25)
    }

    fn centers(scene: &Scene) -> Vec<Vec3> {
        let center = |o: &crate::scene::Object| match o.shape {
            Shape::Sphere { center, .. } => center,
            _ => Vec3::ZERO,
        };
        scene.objects.iter().map(center).collect()
    }

    #[test]
    fn formulas_repeats_and_groups_place_objects() {
        let s = scene("let r 2*t # half\nrepeat 2 i\nsphere red at i+r (1 + 1) 0 radius 1\nend")
            .unwrap();
        assert_eq!(centers(&s), [vec3(0.5, 2.0, 0.0), vec3(1.5, 2.0, 0.0)]);
        let s = scene("group at 1 0 0 turn-y t\npoint a 0 0 2\nsphere red at @a radius 1\nend")
            .unwrap();
        assert!((centers(&s)[0] - vec3(3.0, 0.0, 0.0)).length() < 1e-5);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (body, line, part) in [
            (
                "sphere red at 0 0 0 radius 1\nspere red",
                4,
                "unknown statement \"spere\"",
            ),
            (
                "sphere blue at 0 0 0 radius 1",
                3,
                "unknown material \"blue\"; known here: red",
            ),
            ("sphere red at 0 0 radius 1", 3, "unknown name \"radius\""),
            ("sphere red at 0 0 0", 3, "needs \"radius\""),
            ("sphere red at 0 0 0 radius -1", 3, "must be above 0"),
            ("sphere red at 0 0 0 size 1", 3, "knows no \"size\""),
            ("\nsphere red at @p radius 1", 4, "unknown point"),
            ("group at 0 0 0\n", 3, "no \"end\""),
            ("end", 3, "\"end\" without"),
            ("repeat 3 i\nrepeat 2\nend\nend", 4, "a count and a name"),
            ("repeat 1000000 i\nend", 3, "rounds"),
            ("let x 1+", 3, "ends where"),
            ("palette p red blue", 3, "unknown material \"blue\""),
            (
                "palette p red\nsphere p[ at 0 0 0 radius 1",
                4,
                "unknown material \"p[\"",
            ),
            ("sphere q[1] at 0 0 0 radius 1", 3, "unknown palette \"q\""),
        ] {
            let e = scene(body).err().unwrap();
            assert_eq!(e.line, line, "{body}: {e:?}");
            assert!(e.message.contains(part), "{body}: {e:?}");
        }
        let e = read("material red matte color 1 0 0", 0.0).err().unwrap();
        assert!(e.line == 0 && e.message.contains("camera"), "{e:?}");
    }

    #[test]
    fn a_palette_hands_out_materials_in_turn() {
        let text = "material blue matte\npalette p red blue\nrepeat 3 i\nsphere p[i] at i 0 0 radius 1\nend";
        let materials: Vec<usize> = scene(text)
            .unwrap()
            .objects
            .iter()
            .map(|o| o.material)
            .collect();
        assert_eq!(materials, [0, 1, 0]);
    }

    #[test]
    fn blocks_do_not_nest_without_end() {
        let e = scene(&("group\n".repeat(1000) + &"end\n".repeat(1000)))
            .err()
            .unwrap();
        assert!(e.message.contains("deep"), "{e:?}");
    }

    #[test]
    fn names_end_with_their_block() {
        assert!(scene("group\nlet a 1\nend\nsphere red at a 0 0 radius 1").is_err());
    }
}
