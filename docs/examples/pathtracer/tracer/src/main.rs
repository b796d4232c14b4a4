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
mod grade;
mod light;
mod numeric;
mod path;
mod png;
mod render;
mod sampler;
mod scene;
mod script;
mod shape;
mod statement;
mod vec3;

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
    let text = std::fs::read_to_string(&args.scene).map_err(|e| format!("can't read the scene {}: {e}", args.scene))?;
    // The last frame is followed by the first again, so t stops one step short of 1.
    let t = (args.frame - 1) as f32 / args.frames as f32;
    let scene = script::read(&text, t).map_err(|e| match e.line {
        0 => format!("{}: {}", args.scene, e.message),
        line => format!("{}:{line}: {}", args.scene, e.message),
    })?;
    let Args { frame, frames, width, height, samples, .. } = *args;
    say(&format!(
        "frame {frame} of {frames}: {width}x{height}, {samples} samples a pixel, {} objects, {} lights",
        scene.objects.len(),
        scene.lights.len()
    ));
    let job = render::Job { width: width as usize, height: height as usize, samples, frame };
    let (mut buffers, rays) =
        render::render(&scene, &job, || say(&format!("frame {frame} of {frames}: first pass done, refining")));
    denoise::denoise(&mut buffers, scene.camera.frame.origin);
    let file = png::encode(width, height, &grade::grade(&buffers, &scene.grade));
    if let Some(folder) = Path::new(&args.out).parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
        std::fs::create_dir_all(folder).map_err(|e| format!("can't make the folder {}: {e}", folder.display()))?;
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
