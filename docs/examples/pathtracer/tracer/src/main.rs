//! A small path tracer: renders one frame of a scene file to a PNG.
//!
//! The work of p2pnode's first example job, where it runs as a WASM module; natively it does the same. One thread, no
//! dependencies, no clock, no randomness from outside: the same arguments give the same file, byte for byte, on every
//! machine. The way of a frame: `script` reads the scene, `render` traces it, `denoise` smooths it, `grade` makes it a
//! picture, `png` writes it down.

mod args;
mod bvh;
mod deflate;
mod denoise;
mod expr;
mod field;
mod grade;
mod light;
mod numeric;
mod optics;
mod parts;
mod path;
mod png;
mod ray;
mod render;
mod sampler;
mod scene;
mod script;
mod shape;
mod statement;
mod vec3;
mod walk;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use args::Args;

/// Exit code for a wrong command line, as shells use it.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("tracer: {message}\nusage: {}", args::USAGE);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("tracer: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Renders the frame; the error is a message for people.
fn run(args: &Args) -> Result<(), String> {
    let text = std::fs::read_to_string(&args.scene)
        .map_err(|e| format!("can't read the scene {}: {e}", args.scene))?;
    // The last frame is followed by the first again, so t stops one step short of 1.
    let t = (args.frame - 1) as f32 / args.frames as f32;
    let scene = script::read(&text, t).map_err(|e| match e.line {
        0 => format!("{}: {}", args.scene, e.message),
        line => format!("{}:{line}: {}", args.scene, e.message),
    })?;
    let Args {
        frame,
        frames,
        width,
        height,
        samples,
        ..
    } = *args;
    say(&format!(
        "frame {frame} of {frames}: {width}x{height}, {samples} samples a pixel, {} objects, {} lights",
        scene.objects.len(),
        scene.lights.len()
    ));
    let job = render::Job {
        width: width as usize,
        height: height as usize,
        samples,
        frame,
    };
    let (mut buffers, rays) = render::render(&scene, &job, || {
        say(&format!(
            "frame {frame} of {frames}: first pass done, refining"
        ))
    });
    denoise::denoise(&mut buffers, scene.camera.frame.origin);
    let file = png::encode(width, height, &grade::grade(&buffers, &scene.grade));
    if let Some(folder) = Path::new(&args.out)
        .parent()
        .filter(|f| !f.as_os_str().is_empty() && !f.exists())
    {
        std::fs::create_dir_all(folder)
            .map_err(|e| format!("can't make the folder {}: {e}", folder.display()))?;
    }
    std::fs::write(&args.out, &file).map_err(|e| format!("can't write {}: {e}", args.out))?;
    eprintln!(
        "frame {frame} of {frames}: wrote {}, {} KiB, {} thousand rays",
        args.out,
        (file.len() + 1023) / 1024,
        rays / 1000
    );
    Ok(())
}

/// A line of progress, at once. A reader that has gone away is no reason to stop rendering.
fn say(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scene that comes with the program.
    const SCENE: &str = include_str!("../../scene.txt");

    #[test]
    fn the_example_scene_closes_its_loop() {
        let (start, end) = (
            script::read(SCENE, 0.0).unwrap(),
            script::read(SCENE, 1.0).unwrap(),
        );
        assert_eq!(start.objects.len(), end.objects.len());
        // Objects may have taken each other's place; what counts is that every place is taken by the same material.
        for (i, object) in end.objects.iter().enumerate() {
            let here = object.shape.bounds();
            let found = start.objects.iter().any(|o| {
                let there = o.shape.bounds();
                let same = start.materials[o.material].name == end.materials[object.material].name;
                same && (there.low - here.low).length() < 1e-3
                    && (there.high - here.high).length() < 1e-3
            });
            assert!(found, "object {i} ({:?}) jumps", object.shape);
        }
        let (a, b) = (start.camera.frame.origin, end.camera.frame.origin);
        assert!((a - b).length() < 1e-3);
    }

    #[test]
    fn a_frame_is_the_same_every_time_and_shows_something() {
        let scene = script::read(SCENE, 0.5).unwrap();
        let job = render::Job {
            width: 32,
            height: 18,
            samples: 4,
            frame: 16,
        };
        let picture = || {
            let (mut buffers, rays) = render::render(&scene, &job, || {});
            assert!(rays > 32 * 18 * 4, "every sample casts a ray at least");
            denoise::denoise(&mut buffers, scene.camera.frame.origin);
            grade::grade(&buffers, &scene.grade)
        };
        let first = picture();
        assert_eq!(first, picture());
        let (darkest, brightest) = (first.iter().min(), first.iter().max());
        assert!(
            darkest < Some(&60) && brightest > Some(&200),
            "{darkest:?} to {brightest:?}"
        );
    }
}
