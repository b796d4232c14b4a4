//! GPUs through NVML, NVIDIA's management library, loaded when it is there.
//!
//! Only [`HostInfo::detect`](super::HostInfo::detect) calls it. A missing or broken driver, or one
//! GPU that does not answer, must cost no more than that GPU.

use std::path::Path;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use p2pnode_protocol::{Bytes, Gpu};

/// The GPUs of this machine, by UUID. What goes wrong is added to `notes`.
pub(super) fn detect(library: Option<&Path>, notes: &mut Vec<String>) -> Vec<Gpu> {
    let mut builder = Nvml::builder();
    if let Some(path) = library {
        builder.lib_path(path.as_os_str());
    }
    let nvml = match builder.init() {
        Ok(nvml) => nvml,
        Err(error) => {
            notes.push(without_nvml(library, &error));
            return Vec::new();
        }
    };
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => {
            notes.push(format!("NVML cannot count the GPUs: {error}"));
            return Vec::new();
        }
    };
    let mut gpus = Vec::new();
    for index in 0..count {
        match nvml
            .device_by_index(index)
            .and_then(|device| describe(&device))
        {
            Ok(gpu) => gpus.push(gpu),
            Err(error) => notes.push(format!(
                "GPU {index} does not answer, so it is left out: {error}"
            )),
        }
    }
    gpus.sort();
    gpus
}

fn describe(device: &Device<'_>) -> Result<Gpu, NvmlError> {
    Ok(Gpu::whole(
        device.uuid()?,
        device.name()?,
        Bytes(device.memory_info()?.total),
    ))
}

fn without_nvml(library: Option<&Path>, error: &NvmlError) -> String {
    match library {
        Some(path) => format!(
            "no GPUs: the NVML library {} cannot be used: {error}",
            path.display()
        ),
        None => format!("no GPUs: NVIDIA's driver library is not there or refuses: {error}"),
    }
}
