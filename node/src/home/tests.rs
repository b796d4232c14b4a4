//! Data directories on a real disk.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn dir(folder: &tempfile::TempDir) -> DataDir {
    DataDir::at(&folder.path().join("node")).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o777
}

const ADDRESS: &str = "127.0.0.1:4321";

#[test]
fn one_node_at_a_time_and_the_second_learns_who() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    let home = Home::open(&dir).unwrap();
    assert_eq!(mode(dir.path()), 0o700);
    let refused = Home::open(&dir).unwrap_err();
    let own = std::process::id();
    assert!(
        matches!(refused, HomeError::InUse { pid: Some(pid), .. } if pid == own),
        "{refused:?}"
    );
    assert!(refused.to_string().contains(&format!("process {own}")));
    drop(home);
    Home::open(&dir).unwrap();
}

#[test]
fn identity_and_token_are_made_once_and_are_the_owners() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    let home = Home::open(&dir).unwrap();
    let peer = home.identity().unwrap().public().to_peer_id();
    let token = home.token().unwrap();
    assert_eq!(token.len(), 64);
    drop(home);
    let home = Home::open(&dir).unwrap();
    assert_eq!(home.identity().unwrap().public().to_peer_id(), peer);
    assert_eq!(home.token().unwrap(), token);
    for secret in [&home.paths().identity, &home.paths().token] {
        assert_eq!(mode(secret), 0o600);
        fs::set_permissions(secret, Permissions::from_mode(0o644)).unwrap();
    }
    let refused = home.identity().unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("chmod 600") && text.contains("identity"),
        "{text}"
    );
    assert!(matches!(
        home.token(),
        Err(HomeError::Exposed { mode: 0o644, .. })
    ));
}

#[test]
fn damaged_secrets_are_refused_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(&dir(&folder)).unwrap();
    for bytes in [&b""[..], b"garbage"] {
        secret::replace(&home.paths().identity, bytes, true).unwrap();
        assert!(matches!(
            home.identity(),
            Err(HomeError::BadIdentity { .. })
        ));
        assert_eq!(fs::read(&home.paths().identity).unwrap(), bytes);
        secret::replace(&home.paths().token, bytes, true).unwrap();
        assert!(matches!(home.token(), Err(HomeError::BadToken { .. })));
    }
}

#[test]
fn a_folder_that_everybody_writes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    fs::create_dir(dir.path()).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    let refused = Home::open(&dir).unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
    let refused = dir.identity().unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
    assert!(!dir.paths().identity.exists());
}

#[test]
fn a_folder_or_a_secret_of_others_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    fs::create_dir(dir.path()).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o775)).unwrap();
    let refused = Home::open(&dir).unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let home = Home::open(&dir).unwrap();
    home.token().unwrap();
    drop(home);
    if !rustix::process::geteuid().is_root() {
        // Only root can give something to another user.
        return;
    }
    std::os::unix::fs::chown(&dir.paths().token, Some(65_534), None).unwrap();
    let home = Home::open(&dir).unwrap();
    let refused = home.token().unwrap_err();
    assert!(
        matches!(
            refused,
            HomeError::Foreign {
                owner: 65_534,
                me: 0,
                ..
            }
        ),
        "{refused:?}"
    );
    drop(home);
    std::os::unix::fs::chown(dir.path(), Some(65_534), None).unwrap();
    let refused = Home::open(&dir).unwrap_err().to_string();
    assert!(
        refused.contains("--data-dir") && refused.contains("chown"),
        "{refused}"
    );
}

#[test]
fn clients_find_the_api_of_a_running_node_only() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    assert_eq!(ApiEndpoint::read(&dir).unwrap(), None);
    let home = Home::open(&dir).unwrap();
    assert_eq!(ApiEndpoint::read(&dir).unwrap(), None);
    let token = home.token().unwrap();
    home.publish_api(ADDRESS.parse().unwrap()).unwrap();
    let found = ApiEndpoint::read(&dir).unwrap().unwrap();
    assert_eq!(found.addr.to_string(), ADDRESS);
    assert_eq!(found.token, token);
    assert_eq!(found.pid, std::process::id());
    assert!(!format!("{found:?}").contains(&token));
    assert_eq!(mode(&home.paths().api), 0o600);
    home.withdraw_api().unwrap();
    assert_eq!(ApiEndpoint::read(&dir).unwrap(), None);
    home.publish_api(ADDRESS.parse().unwrap()).unwrap();
    drop(home);
    assert!(!dir.paths().api.exists());
}

#[test]
fn what_a_killed_node_left_sends_no_client_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    let home = Home::open(&dir).unwrap();
    home.token().unwrap();
    home.publish_api(ADDRESS.parse().unwrap()).unwrap();
    let left = fs::read(&dir.paths().api).unwrap();
    drop(home);
    // Killed: the file stands, the lock is free.
    fs::write(&dir.paths().api, &left).unwrap();
    assert_eq!(ApiEndpoint::read(&dir).unwrap(), None);
    // The next life clears it, whatever its process id.
    let home = Home::open(&dir).unwrap();
    assert!(!dir.paths().api.exists());
    // Somebody else's file under a held lock is not believed either.
    fs::write(&dir.paths().api, br#"{"address":"127.0.0.1:1","pid":1}"#).unwrap();
    assert_eq!(ApiEndpoint::read(&dir).unwrap(), None);
    fs::write(&dir.paths().api, b"{").unwrap();
    assert!(matches!(
        ApiEndpoint::read(&dir),
        Err(HomeError::BadEndpoint { .. })
    ));
    drop(home);
}

#[test]
fn work_is_cleared_when_it_is_time_and_no_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = dir(&folder);
    let paths = Home::open(&dir).unwrap().paths().clone();
    let precious = folder.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    symlink(&precious, paths.work.join("link")).unwrap();
    let task = paths.work.join("task/in");
    fs::create_dir_all(&task).unwrap();
    symlink(&precious, task.join("link")).unwrap();
    fs::write(task.join("read-only"), "x").unwrap();
    fs::set_permissions(&task, Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(paths.work.join("task"), Permissions::from_mode(0o500)).unwrap();
    let home = Home::open(&dir).unwrap();
    // Tasks of a crashed life may still run.
    assert_eq!(fs::read_dir(&paths.work).unwrap().count(), 2);
    home.clear_work();
    assert_eq!(fs::read_dir(&paths.work).unwrap().count(), 0);
    assert_eq!(mode(&paths.work), 0o700);
    assert!(precious.join("file").exists());
    fs::write(paths.work.join("late"), "x").unwrap();
    home.clear_work();
    assert_eq!(fs::read_dir(&paths.work).unwrap().count(), 0);
}

#[test]
fn a_flag_names_the_directory_and_its_configuration() {
    let found = DataDir::find(Some("some/where".into())).unwrap();
    let current = std::env::current_dir().unwrap();
    assert_eq!(found.path(), current.join("some/where"));
    assert_eq!(found.config_file(), current.join("some/where/config.toml"));
    assert!(DataDir::at(Path::new("")).is_err());
}
