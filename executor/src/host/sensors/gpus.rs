//! What NVML says of each GPU now.

use std::path::Path;

use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::GpuReading;

/// GPUs that are asked; a machine of 16 is the largest that is sold.
const MAX_GPUS: u32 = 64;

/// Above this the sensor is broken, in degrees Celsius.
const MAX_PLAUSIBLE_C: u32 = 150;

/// The driver's library, when it is there.
pub(super) struct Gpus(Option<Nvml>);

impl Gpus {
    /// Loads it.
    pub(super) fn load(library: Option<&Path>) -> Self {
        let mut builder = Nvml::builder();
        if let Some(path) = library {
            builder.lib_path(path.as_os_str());
        }
        // That there is none is said by the detection of GPUs.
        Self(builder.init().ok())
    }

    /// By UUID. One that does not answer is left out; what one does not know is absent.
    pub(super) fn read(&self) -> Vec<GpuReading> {
        let Some(nvml) = &self.0 else {
            return Vec::new();
        };
        let count = nvml.device_count().unwrap_or(0).min(MAX_GPUS);
        let mut gpus: Vec<GpuReading> = (0..count)
            .filter_map(|index| read(&nvml.device_by_index(index).ok()?).ok())
            .collect();
        gpus.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        gpus
    }
}

fn read(device: &Device<'_>) -> Result<GpuReading, NvmlError> {
    let percent = device.utilization_rates().ok().map(|rates| rates.gpu);
    let temperature = device.temperature(TemperatureSensor::Gpu).ok();
    Ok(GpuReading {
        uuid: device.uuid()?,
        busy_percent: percent.map(|percent| u8::try_from(percent.min(100)).unwrap_or(100)),
        memory_used: device.memory_info().ok().map(|memory| memory.used),
        // At most 150: exact.
        #[allow(clippy::cast_precision_loss)]
        temperature_c: temperature
            .filter(|degrees| *degrees <= MAX_PLAUSIBLE_C)
            .map(|degrees| degrees as f32),
        power_mw: device.power_usage().ok(),
        energy_mj: device.total_energy_consumption().ok(),
    })
}
