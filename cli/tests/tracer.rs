//! The demo's frames against those of a native build of the same tracer.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The largest difference of a colour channel that counts as rounding.
const ROUNDING: u8 = 1;

fn pixels(path: &Path) -> (u32, u32, Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    pixels.truncate(info.buffer_size());
    (info.width, info.height, pixels)
}

#[test]
#[ignore = "needs a native tracer in P2PNODE_NATIVE_TRACER and the demo's frames in P2PNODE_DEMO_FRAMES"]
fn the_demos_frames_equal_those_of_a_native_build() {
    let tracer = std::env::var_os("P2PNODE_NATIVE_TRACER").expect("P2PNODE_NATIVE_TRACER");
    let frames =
        PathBuf::from(std::env::var_os("P2PNODE_DEMO_FRAMES").expect("P2PNODE_DEMO_FRAMES"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/pathtracer");
    let native = tempfile::tempdir().unwrap();
    for frame in [1, 8, 17, 30] {
        let status = Command::new(&tracer)
            .arg("--scene")
            .arg(example.join("scene.txt"))
            .args(["--frame", &frame.to_string(), "--frames", "30"])
            .args([
                "--width",
                "256",
                "--height",
                "144",
                "--samples",
                "16",
                "--out-dir",
            ])
            .arg(native.path())
            .status()
            .unwrap();
        assert!(status.success());
        let name = format!("{frame:04}.png");
        let (width, height, expected) = pixels(&native.path().join(&name));
        let (demo_width, demo_height, rendered) = pixels(&frames.join(&name));
        assert_eq!((width, height), (demo_width, demo_height));
        let worst = expected
            .iter()
            .zip(&rendered)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        assert!(
            worst <= Some(ROUNDING),
            "frame {frame} differs by {worst:?}"
        );
    }
}
