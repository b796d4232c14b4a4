//! The runtime as a whole, without an engine.

use super::*;

fn config(socket: &str) -> DockerConfig {
    DockerConfig {
        node: PeerId::random(),
        incarnation: "0123/4567".into(),
        reaper: ReaperCommand {
            program: "/no/such/program".into(),
            args: Vec::new(),
        },
        dir: "/no/such/folder".into(),
        socket: Some(socket.into()),
        sandbox: None,
        hard_disk: false,
        image_cache: None,
    }
}

#[test]
fn names_are_ones_that_engines_take() {
    let config = config("/x");
    let owner = Owner {
        node: config.node,
        incarnation: config.incarnation,
    };
    let prefix = labels::name_prefix(&owner.label());
    assert!(
        prefix.starts_with("p2pnode-") && prefix.ends_with("-01234567"),
        "{prefix}"
    );
    assert!(
        prefix
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '-')
    );
}

#[tokio::test]
async fn without_an_engine_everything_says_so_and_nothing_hangs() {
    let runtime = DockerRuntime::new(config("/no/such/docker.sock"));
    let report = runtime.probe().await;
    assert!(report.version.unwrap_err().contains("/no/such/docker.sock"));
    let (progress, _) = mpsc::channel(1);
    let image = ProgramFile::Image {
        reference: "busybox".into(),
        credentials: None,
        local_registry: true,
    };
    let failure = runtime.prepare(image, progress).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::Host);
    runtime.remove_leftovers().await;
    runtime.shutdown().await;
}

#[tokio::test]
async fn a_module_is_no_image() {
    let runtime = DockerRuntime::new(config("/no/such/docker.sock"));
    let (progress, _) = mpsc::channel(1);
    let module = ProgramFile::Wasm {
        path: "/x.wasm".into(),
    };
    let failure = runtime.prepare(module, progress).await.err().unwrap();
    assert_eq!(failure.kind, FailureKind::BadProgram);
}
