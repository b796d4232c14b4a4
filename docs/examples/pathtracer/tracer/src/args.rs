//! The command line: what was asked for, checked.
//!
//! `main` calls [`parse`] first. Every message says which option is wrong and what would be right.

/// How the program is called; shown with every mistake.
pub const USAGE: &str =
    "tracer --scene FILE --frame N [--frames TOTAL] [--width W] [--height H] [--samples S] \
                         (--out FILE.png | --out-dir FOLDER)";

/// Longest side of a picture. A pixel takes about 160 bytes of buffers, so the largest square takes 2.7 of the 4 GB that a
/// WASM module can have.
const MAX_SIDE: u32 = 4096;
/// Most samples of a pixel; the noise falls with the square root, so more shows nothing new.
const MAX_SAMPLES: u32 = 65_536;
/// Most frames: five minutes at 60 a second, and still four digits and a few in a file's name.
const MAX_FRAMES: u32 = 18_000;

/// A checked command line.
#[derive(Debug, PartialEq)]
pub struct Args {
    pub scene: String,
    /// Counted from 1.
    pub frame: u32,
    pub frames: u32,
    pub width: u32,
    pub height: u32,
    pub samples: u32,
    /// The file to write.
    pub out: String,
}

/// Reads the arguments that follow the program's name.
pub fn parse(words: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut a = Args {
        scene: String::new(),
        frame: 0,
        frames: 1,
        width: 256,
        height: 144,
        samples: 24,
        out: String::new(),
    };
    let mut folder = None;
    let mut words = words;
    while let Some(option) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{option} is not followed by a value"))?;
        match option.as_str() {
            "--scene" => a.scene = value,
            "--frame" => a.frame = number(&option, &value, MAX_FRAMES)?,
            "--frames" => a.frames = number(&option, &value, MAX_FRAMES)?,
            "--width" => a.width = number(&option, &value, MAX_SIDE)?,
            "--height" => a.height = number(&option, &value, MAX_SIDE)?,
            "--samples" => a.samples = number(&option, &value, MAX_SAMPLES)?,
            "--out" => a.out = value,
            "--out-dir" => folder = Some(value),
            _ => return Err(format!("unknown option {option}")),
        }
    }
    if a.scene.is_empty() {
        return Err("--scene is missing: the scene file to render".into());
    }
    if a.frame == 0 {
        return Err("--frame is missing: the number of the frame to render, from 1".into());
    }
    if a.frame > a.frames {
        return Err(format!(
            "--frame {} is beyond --frames {}",
            a.frame, a.frames
        ));
    }
    match folder {
        Some(f) if a.out.is_empty() => {
            a.out = format!("{}/{:04}.png", f.trim_end_matches('/'), a.frame)
        }
        Some(_) => return Err("--out and --out-dir exclude each other".into()),
        None if a.out.is_empty() => {
            return Err("--out or --out-dir is missing: where the picture goes".into())
        }
        None => {}
    }
    Ok(a)
}

fn number(option: &str, value: &str, highest: u32) -> Result<u32, String> {
    match value.parse() {
        Ok(n) if (1..=highest).contains(&n) => Ok(n),
        _ => Err(format!(
            "{option} is \"{value}\"; it must be a whole number from 1 to {highest}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, String> {
        parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn a_full_line_is_understood() {
        let a = parsed("--scene s.txt --frame 7 --frames 30 --width 64 --height 36 --samples 4 --out-dir frames/").unwrap();
        let want = Args {
            scene: "s.txt".into(),
            frame: 7,
            frames: 30,
            width: 64,
            height: 36,
            samples: 4,
            out: "frames/0007.png".into(),
        };
        assert_eq!(a, want);
        assert_eq!(
            parsed("--scene s --frame 1 --out x.png").unwrap().out,
            "x.png"
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("--frame 1 --out x", "--scene is missing"),
            ("--scene s --out x", "--frame is missing"),
            ("--scene s --frame 1", "--out or --out-dir"),
            ("--scene s --frame 1 --out x --out-dir y", "exclude"),
            ("--scene s --frame 3 --frames 2 --out x", "beyond"),
            ("--scene s --frame one --out x", "whole number"),
            ("--scene s --frame 1 --width 0 --out x", "from 1 to 4096"),
            ("--scene s --frame", "not followed"),
            ("--fast yes", "unknown option"),
        ] {
            let e = parsed(line).unwrap_err();
            assert!(e.contains(part), "{line}: {e}");
        }
    }
}
