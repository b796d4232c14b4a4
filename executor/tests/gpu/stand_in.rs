//! A library that speaks as NVIDIA's does, for tests of whatever has to do with GPUs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Makes it in `dir`. Building p2pnode needs a C compiler anyway.
pub fn stand_in(dir: &Path) -> PathBuf {
    let library = dir.join("libnvidia-ml.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/nvml.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(status.unwrap().success());
    library
}
