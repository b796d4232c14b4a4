//! Bytes that nobody should send, and more than anybody should have.

use p2pnode_protocol::id::PeerId;
use p2pnode_protocol::tunnel::{
    ExecSpec, FromTask, Purpose, SessionId, TaskSignal, Terminal, ToTask, TunnelFault, TunnelHello,
    TunnelRefusal, TunnelWelcome, WindowSize,
};
use p2pnode_tunnel::client::exec::Target;
use p2pnode_tunnel::client::{OpenError, open};
use p2pnode_tunnel::{MAX_TUNNELS_PER_TASK, frames};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::rig::{LONG, Rig, TARGET};

fn kind<T>(result: Result<T, OpenError>) -> TunnelFault {
    match result {
        Err(OpenError::Refused(TunnelRefusal { kind, .. })) => kind,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("let in"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_other_tasks_are_told_the_same() {
    let rig = Rig::new();
    for purpose in [
        Purpose::Files,
        Purpose::Tcp { port: 1 },
        Purpose::Udp { port: 1 },
        Purpose::Ssh {
            client_key: [1; 32],
            shortcut: true,
        },
        Purpose::Exec(ExecSpec::default()),
        Purpose::Resume {
            session: SessionId([0; 16]),
            received: 0,
        },
    ] {
        let hello = TARGET.hello(purpose.clone());
        let stranger = open(rig.stream_of(PeerId::random()), &hello).await;
        assert_eq!(kind(stranger), TunnelFault::NotHere);
        let other = Target { index: 4, ..TARGET };
        let elsewhere = open(rig.stream(), &other.hello(purpose)).await;
        assert_eq!(kind(elsewhere), TunnelFault::NotHere);
    }
    rig.gone.cancel();
    assert_eq!(kind(rig.open(Purpose::Files).await), TunnelFault::NotHere);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_refused_before_anything_starts() {
    let rig = Rig::new();
    let touch = || {
        vec![
            "touch".to_owned(),
            rig.inside("started").display().to_string(),
        ]
    };
    let spec = |env: &[(&str, &str)]| ExecSpec {
        command: touch(),
        env: env
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
        terminal: None,
    };
    let mut long = touch();
    long.push("x".repeat(32 << 10));
    let bad_terminal = Terminal {
        term: "x\u{1b}".to_owned(),
        size: WindowSize {
            columns: 1,
            rows: 1,
        },
    };
    for command in [
        spec(&[("A\0B", "c")]),
        spec(&[("A=B", "c")]),
        spec(&[("", "c")]),
        spec(&[("A", "b\0c")]),
        ExecSpec {
            command: long,
            ..ExecSpec::default()
        },
        ExecSpec {
            command: vec![String::new()],
            ..ExecSpec::default()
        },
        ExecSpec {
            terminal: Some(bad_terminal),
            ..spec(&[])
        },
    ] {
        let purpose = Purpose::Exec(command.clone());
        assert_eq!(
            kind(rig.open(purpose).await),
            TunnelFault::Invalid,
            "{command:?}"
        );
    }
    assert!(!rig.inside("started").exists());
    assert_eq!(
        kind(rig.open(Purpose::Tcp { port: 0 }).await),
        TunnelFault::Invalid
    );
    assert_eq!(
        kind(rig.open(Purpose::Udp { port: 0 }).await),
        TunnelFault::Invalid
    );
    let missing = ExecSpec {
        command: vec!["/no/such/program".to_owned()],
        ..ExecSpec::default()
    };
    assert_eq!(
        kind(rig.open(Purpose::Exec(missing)).await),
        TunnelFault::NoCommand
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_has_only_so_many_tunnels() {
    let rig = Rig::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            kept.push(socket);
        }
    });
    let mut open = Vec::new();
    while let Ok(tunnel) = rig.open(Purpose::Files).await {
        open.push(tunnel);
    }
    // A server of files is a thread: there are fewer of them.
    assert_eq!(open.len(), 16);
    for _ in open.len()..MAX_TUNNELS_PER_TASK {
        open.push(rig.open(Purpose::Tcp { port }).await.unwrap());
    }
    assert_eq!(
        kind(rig.open(Purpose::Tcp { port }).await),
        TunnelFault::TooMany
    );
    open.remove(0);
    timeout(LONG, async {
        while rig.open(Purpose::Tcp { port }).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a place that is free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_opener_is_left() {
    let rig = Rig::new();
    let mut stream = rig.stream();
    let left = timeout(LONG, stream.read(&mut [0])).await.unwrap();
    assert_eq!(left.unwrap(), 0);
}

/// A hello for any purpose, or nearly one.
fn hellos() -> impl Strategy<Value = TunnelHello> {
    let purposes = prop_oneof![
        Just(Purpose::Files),
        Just(Purpose::Exec(ExecSpec {
            command: vec!["cat".to_owned()],
            ..ExecSpec::default()
        })),
        any::<([u8; 32], bool)>().prop_map(|(client_key, shortcut)| Purpose::Ssh {
            client_key,
            shortcut,
        }),
        (any::<[u8; 16]>(), any::<u64>()).prop_map(|(session, received)| Purpose::Resume {
            session: SessionId(session),
            received,
        }),
        any::<u16>().prop_map(|_| Purpose::Udp { port: 9 }),
    ];
    purposes.prop_map(|purpose| TARGET.hello(purpose))
}

/// Sends bytes, closes, and waits for the provider to have ended.
async fn survives(rig: &Rig, bytes: Vec<u8>) {
    let (near, far) = duplex(1 << 20);
    let tunnels = std::sync::Arc::clone(&rig.tunnels);
    let owner = rig.owner;
    let serving = tokio::spawn(async move { tunnels.serve(far, owner).await });
    let (mut reader, mut writer) = tokio::io::split(near);
    let reading = tokio::spawn(async move {
        let mut sink = tokio::io::sink();
        let _ = tokio::io::copy(&mut reader, &mut sink).await;
    });
    let _ = writer.write_all(&bytes).await;
    let _ = writer.shutdown().await;
    timeout(LONG, serving)
        .await
        .expect("it ends")
        .expect("it does not panic");
    drop(writer);
    reading.abort();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Packets of SFTP whose paths stay in the folder: no two dots follow one another, for the files behind
/// these tests are this machine's own, and would be changed.
fn sftp() -> impl Strategy<Value = Vec<u8>> {
    let string = r"[a-c]{0,2}\.?[a-c]?".prop_map(|text: String| {
        [&(text.len() as u32).to_be_bytes()[..], text.as_bytes()].concat()
    });
    let handle =
        (0..4_u32).prop_map(|number| [&4_u32.to_be_bytes()[..], &number.to_be_bytes()].concat());
    let number = prop_oneof![Just(0_u32), Just(63), any::<u32>()]
        .prop_map(|number| number.to_be_bytes().to_vec());
    let part = prop_oneof![string, handle, number];
    let packet = (
        0..=30_u8,
        any::<u32>(),
        proptest::collection::vec(part, 0..5),
    )
        .prop_map(|(kind, id, parts)| {
            let kind = if kind > 20 { 200 } else { kind };
            let body = [vec![kind], id.to_be_bytes().to_vec(), parts.concat()].concat();
            [&(body.len() as u32).to_be_bytes()[..], &body].concat()
        });
    proptest::collection::vec(packet, 1..40).prop_map(|packets| packets.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_end_a_tunnel_and_nothing_else(
        hello in hellos(),
        cut in 0..80_usize,
        flip in (any::<prop::sample::Index>(), any::<u8>()),
        rest in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        runtime().block_on(async {
            let rig = Rig::new();
            let whole = frames::encode(&hello).unwrap();
            survives(&rig, rest.clone()).await;
            survives(&rig, whole[..cut.min(whole.len())].to_vec()).await;
            survives(&rig, [whole.clone(), rest].concat()).await;
            let mut mutated = whole;
            let at = flip.0.index(mutated.len());
            mutated[at] ^= flip.1;
            survives(&rig, mutated).await;
        });
    }

    #[test]
    fn any_frames_end_a_commands_stream_and_nothing_else(
        inputs in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..500).prop_map(ToTask::Input),
                Just(ToTask::InputEnd),
                Just(ToTask::Signal(TaskSignal::Int)),
                Just(ToTask::Signal(TaskSignal::Kill)),
                any::<u64>().prop_map(ToTask::Received),
                Just(ToTask::Resize(WindowSize { columns: 0, rows: 65535 })),
            ],
            0..20,
        ),
    ) {
        runtime().block_on(async {
            let rig = Rig::new();
            let command = ExecSpec { command: vec!["cat".to_owned()], ..ExecSpec::default() };
            let mut bytes = frames::encode(&TARGET.hello(Purpose::Exec(command))).unwrap();
            for frame in &inputs {
                bytes.extend(frames::encode(frame).unwrap());
            }
            survives(&rig, bytes).await;
        });
    }

    #[test]
    fn any_request_for_files_is_answered_or_ends_the_tunnel(packets in sftp()) {
        runtime().block_on(async {
            let rig = Rig::new();
            let bytes = frames::encode(&TARGET.hello(Purpose::Files)).unwrap();
            survives(&rig, [bytes, packets].concat()).await;
        });
    }

    #[test]
    fn decoders_take_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let framed = [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat();
        runtime().block_on(async {
            for bytes in [&bytes, &framed] {
                let _ = frames::read::<TunnelHello, _>(&mut &bytes[..]).await;
                let _ = frames::read::<TunnelWelcome, _>(&mut &bytes[..]).await;
                let _ = frames::read::<ToTask, _>(&mut &bytes[..]).await;
                let _ = frames::read::<FromTask, _>(&mut &bytes[..]).await;
            }
        });
    }
}
