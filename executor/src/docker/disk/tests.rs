//! Disks of their own, as far as they can be tested without an engine: as root, with loop devices.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use super::*;

/// None where the machine cannot: not root, or no loop devices.
async fn disks(dir: &Path, label: &str) -> Option<Disks> {
    let disks = Disks::new(true, dir, label);
    disks.are_on().await.then_some(disks)
}

fn fill(path: &Path) -> io::Error {
    let mut file = fs::File::create(path).unwrap();
    loop {
        if let Err(error) = file
            .write_all(&[7; 64 << 10])
            .and_then(|()| file.sync_data())
        {
            return error;
        }
    }
}

#[tokio::test]
async fn it_ends_where_the_limit_is_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    fs::write(work.join("input"), b"given").unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o751)).unwrap();
    let Some(disks) = disks(dir.path(), "node:life").await else {
        return;
    };
    let limit = 6 << 20;
    let disk = disks.make("a", &work, limit).unwrap();
    // Inputs are there, and the folder is as it was.
    assert_eq!(fs::read(work.join("input")).unwrap(), b"given");
    assert_eq!(fs::metadata(&work).unwrap().mode() & 0o7777, 0o751);
    let full = fill(&work.join("big"));
    assert_eq!(full.raw_os_error(), Some(28), "ENOSPC: {full}");
    let written = fs::metadata(disk.merged().join("big")).unwrap().len();
    assert!((limit / 2..=limit).contains(&written), "{written}");
    // Kept for the node, then released.
    disks.keep(&work, disk);
    assert!(disks.holds(&work) && work.join("big").exists());
    disks.release(&work);
    assert!(!disks.holds(&work));
    let left: Vec<_> = fs::read_dir(&work).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    disks.close();
    assert!(!folder_of_all(dir.path()).exists());
}

#[tokio::test]
async fn as_many_small_files_fit_as_are_charged() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let Some(disks) = disks(dir.path(), "node:life").await else {
        return;
    };
    let disk = disks.make("a", &work, 4 << 20).unwrap();
    let fit = (0..2_000).take_while(|n| fs::write(work.join(n.to_string()), b"").is_ok());
    // 4 MiB at 4 KiB each.
    assert!(fit.count() >= 1_000);
    disk.close();
    disks.close();
}

#[tokio::test]
async fn a_disk_is_large_without_taking_room_or_time() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("work");
    fs::create_dir(&work).unwrap();
    let Some(disks) = disks(dir.path(), "node:life").await else {
        return;
    };
    let disk = disks.make("a", &work, 100 << 30).unwrap();
    let image = fs::metadata(&disk.image).unwrap();
    assert!(image.blocks() * 512 < 64 << 20, "{}", image.blocks() * 512);
    let space = rustix::fs::statvfs(&work).unwrap();
    let room = crate::host::space::available(&space);
    assert!(room.abs_diff(100 << 30) < 16 << 20, "{room}");
    disk.close();
    disks.close();
}

#[tokio::test]
async fn what_a_crash_left_is_swept_and_the_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let works = ["one", "two"].map(|name| dir.path().join(name));
    works.iter().for_each(|work| fs::create_dir(work).unwrap());
    let (Some(first), Some(second)) = (
        disks(dir.path(), "node:1").await,
        disks(dir.path(), "node:2").await,
    ) else {
        return;
    };
    std::mem::forget(first.make("a", &works[0], LEAST).unwrap());
    let kept = second.make("a", &works[1], LEAST).unwrap();
    fs::write(works[0].join("x"), b"in the disk").unwrap();
    assert_eq!(sweep(dir.path(), |label| label == "node:0"), 0);
    assert!(works[0].join("x").exists());
    assert_eq!(sweep(dir.path(), |label| label == "node:1"), 1);
    assert!(!works[0].join("x").exists(), "what is left is the folder");
    let below = |mount: &mounts::Mount| mount.point.starts_with(dir.path().canonicalize().unwrap());
    let left = mounts::table().into_iter().filter(below).count();
    assert_eq!(left, 3, "those of the life that goes on");
    drop(kept);
    assert_eq!(mounts::table().into_iter().filter(below).count(), 0);
    second.close();
    assert!(!folder_of_all(dir.path()).exists());
}

#[tokio::test]
async fn nobody_gets_one_who_did_not_ask() {
    let disks = Disks::new(false, Path::new("/no/such/folder"), "node:life");
    assert!(!disks.are_on().await);
    disks.release(Path::new("/no/such/folder"));
    disks.close();
}

/// Keeps what is said.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Said {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0
            .lock()
            .unwrap()
            .push(format!("{}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Said {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_machine_that_cannot_says_so_and_goes_on() {
    let said = Said::default();
    let _listening = tracing::subscriber::set_default(said.clone());
    let disks = Disks::new(true, Path::new("/proc/no/such/folder"), "node:life");
    assert!(!disks.are_on().await);
    assert!(!disks.are_on().await);
    let said = said.0.lock().unwrap().clone();
    let told = |what: &str| said.iter().filter(|one| one.contains(what)).count();
    assert_eq!(
        told("limits of disk are watched instead"),
        1,
        "once: {said:?}"
    );
    assert_eq!(told("error="), 1, "and why: {said:?}");
}
