//! GPUs are detected through NVML, here a stand-in that is compiled on the spot.
#![allow(clippy::unwrap_used)]

mod stand_in;

use p2pnode_executor::host::HostInfo;
use p2pnode_executor::host::sensors::{GpuReading, Sensors};
use p2pnode_protocol::{Bytes, Gpu};
use stand_in::stand_in;

#[test]
fn gpus_have_uuid_model_and_memory_and_a_broken_one_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let info = HostInfo::detect(Some(&stand_in(dir.path())));
    let gpu = |uuid: &str, model: &str, gib| Gpu::whole(uuid.into(), model.into(), Bytes::gib(gib));
    let expected = [
        gpu("GPU-00000007", "Stand-in 2", 3),
        gpu("GPU-00000009", "Stand-in 0", 1),
    ];
    assert_eq!(info.gpus, expected);
    assert_eq!(info.notes.len(), 1);
    assert!(
        info.notes[0].starts_with("GPU 1 does not answer"),
        "{:?}",
        info.notes
    );
}

#[test]
fn gpus_say_what_they_do_and_what_one_does_not_know_is_absent() {
    let dir = tempfile::tempdir().unwrap();
    let mut sensors = Sensors::new(dir.path(), Some(&stand_in(dir.path())));
    let first = GpuReading {
        uuid: "GPU-00000009".into(),
        busy_percent: Some(40),
        memory_used: Some(1 << 20),
        temperature_c: Some(60.0),
        power_mw: Some(150_000),
        energy_mj: Some(1_000),
    };
    let third = GpuReading {
        uuid: "GPU-00000007".into(),
        busy_percent: Some(42),
        memory_used: Some(3 << 20),
        temperature_c: Some(62.0),
        power_mw: Some(150_002),
        energy_mj: None,
    };
    assert_eq!(sensors.read().gpus, [third, first]);
    assert_eq!(sensors.read().gpus[1].energy_mj, Some(2_000));
}
