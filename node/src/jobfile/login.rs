//! Reads credentials for a registry, from a file or from where `docker login` keeps them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use p2pnode_protocol::job::Login;
use p2pnode_protocol::message::MAX_LOGIN_BYTES;
use serde_json::Value;

/// The longest configuration of Docker's that is read, in bytes: thousands of registries.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What Docker calls its own registry in that file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// User and password for `image`.
///
/// # Errors
/// Why there are none, with the mend; never what is in a file.
pub(crate) fn read(source: &Login, image: &str) -> Result<(String, String), String> {
    match source {
        Login::File { username, path } => {
            let text = read_text(Path::new(path), MAX_LOGIN_BYTES as u64)?;
            let password = text.trim_end_matches(['\r', '\n']);
            if password.is_empty() {
                return Err(format!(
                    "{path} is empty: it must hold the password or token"
                ));
            }
            Ok((username.clone(), password.to_owned()))
        }
        Login::Docker => of_docker(&docker_config()?, registry_of(image)),
    }
}

fn read_text(path: &Path, most: u64) -> Result<String, String> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    file.take(most + 1)
        .read_to_string(&mut text)
        .map_err(|_| format!("{shown} cannot be read as text"))?;
    if text.len() as u64 > most {
        return Err(format!("{shown} is longer than {most} bytes"));
    }
    Ok(text)
}

fn docker_config() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("DOCKER_CONFIG") {
        return Ok(PathBuf::from(folder).join("config.json"));
    }
    let dirs = directories::BaseDirs::new();
    let home =
        dirs.ok_or("this user has no home folder, so `docker login` keeps nothing for it")?;
    Ok(home.home_dir().join(".docker/config.json"))
}

/// The registry of an image's name, as `docker login` names it.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => DOCKER_HUB,
    }
}

fn of_docker(path: &Path, registry: &str) -> Result<(String, String), String> {
    let none = || {
        format!(
            "{} holds no login for {registry}: run `docker login {registry}`, or name a file with \
             login = {{ username = \"...\", password-file = \"...\" }}",
            path.display()
        )
    };
    let text = read_text(path, MAX_CONFIG_BYTES).map_err(|_| none())?;
    let config: Value = serde_json::from_str(&text).map_err(|_| none())?;
    let entry = &config["auths"][registry];
    let Some(encoded) = entry["auth"].as_str().filter(|auth| !auth.is_empty()) else {
        let in_helper =
            !config["credsStore"].is_null() || !config["credHelpers"][registry].is_null();
        return Err(if in_helper {
            format!(
                "`docker login` keeps the login for {registry} in a program of its own: name a file \
                 with login = {{ username = \"...\", password-file = \"...\" }}"
            )
        } else {
            none()
        });
    };
    let decoded = BASE64.decode(encoded.as_bytes()).map_err(|_| none())?;
    let decoded = String::from_utf8(decoded).map_err(|_| none())?;
    let (username, password) = decoded.split_once(':').ok_or_else(none)?;
    Ok((username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_registry_is_the_part_with_a_dot_or_a_port() {
        assert_eq!(registry_of("ghcr.io/lab/x:1"), "ghcr.io");
        assert_eq!(registry_of("localhost:5000/x"), "localhost:5000");
        assert_eq!(registry_of("library/debian"), DOCKER_HUB);
        assert_eq!(registry_of("debian:12"), DOCKER_HUB);
    }

    #[test]
    fn a_file_holds_the_password_and_nothing_of_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret\n").unwrap();
        let file = |path: &Path| Login::File {
            username: "me".into(),
            path: path.display().to_string(),
        };
        let read_one = |path: &Path| read(&file(path), "x.io/y");
        assert_eq!(read_one(&path).unwrap(), ("me".into(), "s3cret".into()));
        std::fs::write(&path, "\n").unwrap();
        assert!(read_one(&path).unwrap_err().contains("is empty"));
        std::fs::write(&path, "x".repeat(MAX_LOGIN_BYTES + 1)).unwrap();
        assert!(read_one(&path).unwrap_err().contains("longer than"));
        assert!(
            read_one(&dir.path().join("absent"))
                .unwrap_err()
                .contains("cannot be read")
        );
    }

    #[test]
    fn dockers_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let auth = BASE64.encode(b"me:to:ken");
        let text = serde_json::json!({ "auths": { "ghcr.io": { "auth": auth }, "x.io": {} } });
        std::fs::write(&path, text.to_string()).unwrap();
        assert_eq!(
            of_docker(&path, "ghcr.io").unwrap(),
            ("me".into(), "to:ken".into())
        );
        assert!(
            of_docker(&path, "x.io")
                .unwrap_err()
                .contains("docker login x.io")
        );
        let text = serde_json::json!({ "auths": { "x.io": {} }, "credsStore": "desktop" });
        std::fs::write(&path, text.to_string()).unwrap();
        assert!(
            of_docker(&path, "x.io")
                .unwrap_err()
                .contains("program of its own")
        );
        std::fs::write(&path, "{").unwrap();
        assert!(of_docker(&path, "x.io").is_err());
    }
}
