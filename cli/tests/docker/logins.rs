//! Images of a registry that wants credentials, over real nodes. The registry stands on loopback.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::bench::{pair_on, small_job, succeed};
use crate::harness::{Ended, Lab, text};
use crate::registry::{Gate, PASSWORD, Registry, USER};

/// A password that the registry does not take.
const WRONG: &str = "0ther-passw0rd-of-nobody";

/// A layer with a shell in it, another one each time.
fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    layer
        .append_path_with_name("/bin/busybox", "bin/busybox")
        .unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    layer.append_link(&mut link, "bin/sh", "busybox").unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mark = format!("{}-{}", std::process::id(), now.as_nanos());
    let mut header = tar::Header::new_gnu();
    header.set_size(mark.len() as u64);
    header.set_mode(0o644);
    layer
        .append_data(&mut header, "mark", mark.as_bytes())
        .unwrap();
    layer.into_inner().unwrap()
}

fn private_job(lab: &Lab, name: &str, image: &str, password: Option<&str>) -> PathBuf {
    let login = password.map_or_else(String::new, |_| {
        format!("login = {{ username = {USER:?}, password-file = \"token\" }}\n")
    });
    let task =
        format!("image = {image:?}\n{login}command = [\"/bin/sh\", \"-c\", \"echo ran {name}\"]");
    let token = format!("{}\n", password.unwrap_or_default());
    let files = [("token", token.as_bytes())];
    lab.job(name, &small_job(&task, ""), &files)
}

/// Bytes in base64, without filling: enough of it to look for what is in it.
fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for three in bytes.chunks_exact(3) {
        let bits = three
            .iter()
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        for shift in [18, 12, 6, 0] {
            encoded.push(char::from(SIGNS[bits >> shift & 63]));
        }
    }
    encoded
}

/// The forms in which a password could have been written down: as it is, in base64 wherever it may
/// begin there, in hexadecimal, and as the list that bytes are shown as.
fn forms(password: &str) -> Vec<String> {
    let bytes = password.as_bytes();
    let mut forms = vec![password.to_owned()];
    forms.extend((0..3).map(|skip| base64(&bytes[skip..])));
    let mut hex = String::new();
    for byte in bytes {
        write!(hex, "{byte:02x}").unwrap();
    }
    forms.push(hex);
    let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
    forms.push(list.join(", "));
    forms
}

/// Files below `folder`, or that file, in which `wanted` stands.
fn files_with(folder: &Path, wanted: &str) -> Vec<PathBuf> {
    // What is not text is looked through like text; a file may go meanwhile.
    let found = Command::new("grep")
        .args(["-r", "-l", "-a", "-s", "-F", "-e", wanted])
        .arg(folder)
        .output()
        .unwrap();
    let lines = text(&found.stdout);
    lines.lines().map(PathBuf::from).collect()
}

/// A refused job's one clear line.
fn refused(ended: &Ended) -> String {
    assert!(!ended.status.success(), "{:?}", ended.events);
    for wanted in [&ended.finished()["notes"].to_string(), &ended.stderr] {
        for form in forms(PASSWORD).iter().chain(&forms(WRONG)) {
            assert!(!wanted.contains(form.as_str()), "{wanted}");
        }
    }
    ended.finished().to_string()
}

#[test]
#[ignore = "needs docker"]
fn a_login_reaches_the_chosen_provider_and_is_written_down_nowhere() {
    let side = tokio::runtime::Runtime::new().unwrap();
    let registry = side.block_on(Registry::serving(Gate::Basic, layer()));
    let mut lab = Lab::new();
    lab.env.push(("P2PNODE_LOG", "trace".into()));
    let image = &registry.reference;
    // A registry of this machine: nobody but its owner can say that it may be asked.
    let host = image.split('/').next().unwrap();
    let (provider, _mine) = pair_on(&lab, &["--image", &format!("{host}/*")]);

    let nobody = private_job(&lab, "nobody", image, None);
    let wrong = private_job(&lab, "wrong", image, Some(WRONG));
    let right = private_job(&lab, "right", image, Some(PASSWORD));
    for job in [&nobody, &wrong] {
        let args = ["--wait-for-peers", "2s", "--peers", &provider.id];
        let said = refused(&lab.submit("me", job, &args));
        assert!(
            said.contains(image) && said.contains("task.login"),
            "{said}"
        );
    }
    let ended = succeed(&lab, &right);
    assert_eq!(ended.log_of(0), "ran right\n");
    let peers = ended.finished()["peers"].as_object().unwrap();
    assert_eq!(peers.keys().collect::<Vec<_>>(), [&provider.id]);

    // What is looked for is found where it may be, and the logs say all they can.
    assert_eq!(files_with(&lab.path("right"), PASSWORD).len(), 1);
    for name in ["provider", "me"] {
        let log = lab.path(&format!("{name}.log"));
        assert!(!files_with(&log, "TRACE").is_empty(), "{name}");
        assert!(!files_with(&log, "submitter").is_empty() || name == "me");
        assert!(!files_with(&lab.path(name), image).is_empty(), "{name}");
        for form in forms(PASSWORD).iter().chain(&forms(WRONG)) {
            for place in [&log, &lab.path(name)] {
                assert_eq!(
                    files_with(place, form),
                    [""; 0].map(PathBuf::from),
                    "{form}"
                );
            }
        }
    }
    drop((provider, _mine));
    let names = [
        format!("{image}:latest"),
        format!("p2pnode.invalid/private:{}", &registry.id[7..]),
    ];
    for name in &names {
        let _gone = Command::new("docker")
            .args(["rmi", "--force", name])
            .output();
    }
}
