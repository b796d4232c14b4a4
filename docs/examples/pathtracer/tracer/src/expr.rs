//! Numbers in a scene file may be formulas: `2+0.3*sin(t)`.
//!
//! Owns their grammar and evaluation; the scene reader calls [`evaluate`] on every number. A formula sees the variables
//! it is given and a fixed set of functions; it can't loop, so reading a scene always ends.

use crate::numeric::{cos_turns, max, min, pow, sin_turns};

/// Names a formula may use, newest last; a later entry hides an earlier one.
pub type Variables = Vec<(String, f32)>;

/// The functions, their number of arguments, for messages and look-up.
const FUNCTIONS: &[(&str, usize)] = &[
    ("sin", 1),
    ("cos", 1),
    ("abs", 1),
    ("sqrt", 1),
    ("fract", 1),
    ("floor", 1),
    ("bounce", 1),
    ("smooth", 1),
    ("min", 2),
    ("max", 2),
    ("pow", 2),
    ("mix", 3),
];

/// How deep parentheses may nest: far beyond any readable formula, well within a WASM stack.
const MAX_DEPTH: usize = 50;

/// The value of `text`, or what is wrong with it.
pub fn evaluate(text: &str, variables: &Variables) -> Result<f32, String> {
    let mut p = Parser {
        text,
        rest: text,
        variables,
        depth: 0,
    };
    let v = p.sum()?;
    p.skip_spaces();
    if !p.rest.is_empty() {
        return Err(format!("did not expect \"{}\" in \"{text}\"", p.rest));
    }
    if !v.is_finite() {
        return Err(format!("\"{text}\" has no finite value"));
    }
    Ok(v)
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    variables: &'a Variables,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Takes `c` if it comes next.
    fn take(&mut self, c: char) -> bool {
        self.skip_spaces();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the longest prefix whose characters satisfy `f`.
    fn take_while(&mut self, f: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !f(c)).unwrap_or(self.rest.len());
        let (head, tail) = self.rest.split_at(end);
        self.rest = tail;
        head
    }

    fn sum(&mut self) -> Result<f32, String> {
        let mut v = self.product()?;
        loop {
            if self.take('+') {
                v += self.product()?;
            } else if self.take('-') {
                v -= self.product()?;
            } else {
                return Ok(v);
            }
        }
    }

    fn product(&mut self) -> Result<f32, String> {
        let mut v = self.factor()?;
        loop {
            if self.take('*') {
                v *= self.factor()?;
            } else if self.take('/') {
                v /= self.factor()?;
            } else {
                return Ok(v);
            }
        }
    }

    fn factor(&mut self) -> Result<f32, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("\"{}\" nests too deeply", self.text));
        }
        let v = self.factor_inside();
        self.depth -= 1;
        v
    }

    fn factor_inside(&mut self) -> Result<f32, String> {
        if self.take('-') {
            return Ok(-self.factor()?);
        }
        if self.take('(') {
            let v = self.sum()?;
            return self.close().map(|()| v);
        }
        match self.rest.chars().next() {
            Some(c) if c.is_ascii_digit() || c == '.' => {
                let digits = self.take_while(|c| c.is_ascii_digit() || c == '.');
                decimal(digits).ok_or_else(|| format!("\"{digits}\" is not a number"))
            }
            Some(c) if c.is_ascii_alphabetic() => {
                let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
                if self.take('(') {
                    self.call(name)
                } else {
                    self.variable(name)
                }
            }
            Some(c) => Err(format!(
                "expected a number, not '{c}', in \"{}\"",
                self.text
            )),
            None => Err(format!(
                "\"{}\" ends where a number should follow",
                self.text
            )),
        }
    }

    fn close(&mut self) -> Result<(), String> {
        if self.take(')') {
            Ok(())
        } else {
            Err(format!("a ')' is missing in \"{}\"", self.text))
        }
    }

    fn variable(&self, name: &str) -> Result<f32, String> {
        let found = self.variables.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, v)| *v).ok_or_else(|| {
            let known: Vec<&str> = self.variables.iter().map(|(n, _)| n.as_str()).collect();
            format!("unknown name \"{name}\"; known here: {}", known.join(", "))
        })
    }

    fn call(&mut self, name: &str) -> Result<f32, String> {
        let arity = FUNCTIONS
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, arity)| *arity)
            .ok_or_else(|| {
                let known: Vec<&str> = FUNCTIONS.iter().map(|(n, _)| *n).collect();
                format!(
                    "unknown function \"{name}\"; there are: {}",
                    known.join(", ")
                )
            })?;
        let mut a = [0.0; 3];
        for (i, slot) in a.iter_mut().take(arity).enumerate() {
            if i > 0 && !self.take(',') {
                return Err(format!(
                    "{name}() takes {arity} numbers, in \"{}\"",
                    self.text
                ));
            }
            *slot = self.sum()?;
        }
        self.close()?;
        Ok(apply(name, a))
    }
}

/// The value of digits with at most one point among them. The standard library's way is a tenth of the module's size.
fn decimal(digits: &str) -> Option<f32> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // 15 digits are what an f64 holds exactly.
    if whole.len() + fraction.len() > 15 || whole.len() + fraction.len() == 0 {
        return None;
    }
    let mut value = 0.0f64;
    let mut scale = 1.0f64;
    for c in whole.chars().chain(fraction.chars()) {
        value = value * 10.0 + f64::from(c.to_digit(10)?);
    }
    fraction.chars().for_each(|_| scale *= 10.0);
    Some((value / scale) as f32)
}

/// Angles are in turns, so that `sin(t)` closes a loop in which `t` runs from 0 to 1.
fn apply(name: &str, a: [f32; 3]) -> f32 {
    let fract = |x: f32| x - x.floor();
    match name {
        "sin" => sin_turns(a[0]),
        "cos" => cos_turns(a[0]),
        "abs" => a[0].abs(),
        "sqrt" => a[0].sqrt(),
        "fract" => fract(a[0]),
        "floor" => a[0].floor(),
        // A ball's height between two touches of the ground: 0 at whole numbers, 1 half-way.
        "bounce" => 4.0 * fract(a[0]) * (1.0 - fract(a[0])),
        // Starts and ends at rest: 0 up to 0, 1 from 1 on.
        "smooth" => {
            let x = min(max(a[0], 0.0), 1.0);
            x * x * (3.0 - 2.0 * x)
        }
        "min" => min(a[0], a[1]),
        "max" => max(a[0], a[1]),
        "pow" => pow(a[0], a[1]),
        _ => a[0] + (a[1] - a[0]) * a[2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Result<f32, String> {
        evaluate(text, &vec![("t".into(), 0.25), ("i".into(), 3.0)])
    }

    #[test]
    fn formulas_follow_the_usual_rules() {
        assert_eq!(value("2+3*4-6/2"), Ok(11.0));
        assert_eq!(value("-(1 + .5)*-2"), Ok(3.0));
        assert!((value("sin(t)").unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(value("mix(1, 3, t)*i"), Ok(4.5));
        assert_eq!(value("0.894427+12.5"), Ok(0.894427 + 12.5));
        assert_eq!(value("bounce(0.5)+bounce(2)"), Ok(1.0));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("2+", "ends where"),
            ("(1", "')' is missing"),
            ("speed*2", "unknown name \"speed\"; known here: t, i"),
            ("tan(1)", "unknown function"),
            ("mix(1,2)", "takes 3"),
            ("1.2.3", "not a number"),
            (".", "not a number"),
            ("1 2", "did not expect \"2\""),
            ("1/0", "finite"),
        ] {
            let e = value(text).unwrap_err();
            assert!(e.contains(part), "{text}: {e}");
        }
        assert!(value(&"(".repeat(100_000)).is_err());
    }
}
