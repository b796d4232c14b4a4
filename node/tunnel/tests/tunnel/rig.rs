//! A provider whose one task is a folder of this machine, and streams to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2pnode_executor::inside::{Duplex, Inside};
use p2pnode_protocol::id::{JobId, PeerId, StepIndex, TaskIndex};
use p2pnode_protocol::tunnel::{Purpose, TunnelFault, TunnelHello, TunnelRefusal};
use p2pnode_tunnel::client::exec::{Dial, Target};
use p2pnode_tunnel::client::{OpenError, open, shortcut};
use p2pnode_tunnel::ssh_keys::{ClientKey, known_hosts_line};
use p2pnode_tunnel::{Door, Doors, Tunnels};
use tempfile::TempDir;
use tokio::io::{DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::local::Local;

/// Beyond this a test has failed: machines of a CI are slow, and nothing here takes a tenth of it.
pub const LONG: Duration = Duration::from_secs(120);

pub const TARGET: Target = Target {
    job: JobId([7; 8]),
    step: 0,
    index: 3,
};

/// The permission check of the test: one owner, one task.
#[derive(Debug)]
struct OneDoor {
    owner: PeerId,
    door: Door,
}

#[async_trait]
impl Doors for OneDoor {
    async fn open(
        &self,
        peer: &PeerId,
        job: JobId,
        step: StepIndex,
        index: TaskIndex,
    ) -> Result<Door, TunnelRefusal> {
        let target = Target { job, step, index };
        if *peer == self.owner && target == TARGET && !self.door.gone.is_cancelled() {
            return Ok(self.door.clone());
        }
        Err(TunnelRefusal {
            kind: TunnelFault::NotHere,
            message: "no such task of yours runs here".to_owned(),
        })
    }
}

pub struct Rig {
    pub tunnels: Arc<Tunnels>,
    pub owner: PeerId,
    pub gone: CancellationToken,
    pub folder: TempDir,
    pub outside: TempDir,
}

impl Rig {
    pub fn new() -> Arc<Self> {
        Self::with_way_out(None)
    }

    /// With a proxy at that port of this machine as the task's way out.
    pub fn with_way_out(proxy: Option<u16>) -> Arc<Self> {
        let folder = TempDir::new().unwrap();
        let inside = Arc::new(Local::new(folder.path(), proxy));
        Self::around(inside, folder)
    }

    fn around(inside: Arc<dyn Inside>, folder: TempDir) -> Arc<Self> {
        let owner = PeerId::random();
        let gone = CancellationToken::new();
        let door = Door {
            inside,
            gone: gone.clone(),
        };
        let doors = Arc::new(OneDoor { owner, door });
        Arc::new(Self {
            tunnels: Tunnels::new(doors, [9; 32]),
            owner,
            gone,
            folder,
            outside: TempDir::new().unwrap(),
        })
    }

    /// A path within the task.
    pub fn inside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path that is the test's own.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.outside.path().join(name)
    }

    /// A stream to the provider.
    pub fn stream(&self) -> DuplexStream {
        self.stream_of(self.owner)
    }

    pub fn stream_of(&self, peer: PeerId) -> DuplexStream {
        let (near, far) = duplex(256 << 10);
        let tunnels = Arc::clone(&self.tunnels);
        tokio::spawn(async move { tunnels.serve(far, peer).await });
        near
    }

    /// A tunnel that has moved to a connection of its own.
    async fn by_shortcut(&self, hello: &TunnelHello) -> TcpStream {
        let (near, far) = connection().await;
        let (tunnels, owner) = (Arc::clone(&self.tunnels), self.owner);
        tokio::spawn(async move { tunnels.serve(far, owner).await });
        let provider = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = provider.local_addr().unwrap();
        let tunnels = Arc::clone(&self.tunnels);
        tokio::spawn(async move {
            let (connection, _) = provider.accept().await.unwrap();
            tunnels.take_shortcut(connection).await;
        });
        let (opened, near) = open(near, hello).await.unwrap();
        let moved = shortcut::or_tunnel(near, &opened, Some(address)).await;
        let moved = moved.unwrap();
        assert_eq!(moved.peer_addr().unwrap(), address);
        moved
    }

    pub async fn open(&self, purpose: Purpose) -> Result<DuplexStream, OpenError> {
        Ok(open(self.stream(), &TARGET.hello(purpose)).await?.1)
    }
}

/// Both ends of a connection.
async fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await;
    (near.unwrap(), listener.accept().await.unwrap().0)
}

/// Dials the provider of a rig.
pub struct RigDial(pub Arc<Rig>);

#[async_trait]
impl Dial for RigDial {
    async fn dial(&self) -> io::Result<Box<dyn Duplex>> {
        Ok(Box::new(self.0.stream()))
    }
}

/// What OpenSSH's programs need to get to the task of a rig.
pub struct SshWay {
    pub config: PathBuf,
    /// What keeps the bridge alive.
    _bridge: tokio_util::task::AbortOnDropHandle<()>,
}

impl SshWay {
    /// A port of this machine behind which every connection is a tunnel to the task, and a
    /// configuration for OpenSSH that knows key and host key.
    pub async fn new(rig: &Arc<Rig>) -> Self {
        let key = ClientKey::generate();
        let key_file = rig.outside("key");
        key.write(&key_file).unwrap();
        Self::with(rig, &key_file, key.public()).await
    }

    /// The same, where every tunnel goes on over a shortcut.
    pub async fn shortest(rig: &Arc<Rig>) -> Self {
        let key = ClientKey::generate();
        let key_file = rig.outside("key");
        key.write(&key_file).unwrap();
        Self::by(rig, &key_file, key.public(), true).await
    }

    pub async fn with(rig: &Arc<Rig>, key_file: &Path, client_key: [u8; 32]) -> Self {
        Self::by(rig, key_file, client_key, false).await
    }

    async fn by(rig: &Arc<Rig>, key_file: &Path, client_key: [u8; 32], shortcut: bool) -> Self {
        let hello = |shortcut| {
            TARGET.hello(Purpose::Ssh {
                client_key,
                shortcut,
            })
        };
        let (first, hello) = (hello(false), hello(shortcut));
        let (opened, _stream) = open(rig.stream(), &first).await.unwrap();
        let line = known_hosts_line("task", &opened.host_key.unwrap()).unwrap();
        let known = rig.outside("known_hosts");
        std::fs::write(&known, line + "\n").unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(rig);
        let bridge = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (rig, hello) = (Arc::clone(&serving), hello.clone());
                tokio::spawn(async move {
                    let mut tunnel: Box<dyn Duplex> = match shortcut {
                        true => Box::new(rig.by_shortcut(&hello).await),
                        false => match open(rig.stream(), &hello).await {
                            Ok((_, tunnel)) => Box::new(tunnel),
                            Err(_) => return,
                        },
                    };
                    let _ = tokio::io::copy_bidirectional(&mut socket, &mut tunnel).await;
                });
            }
        });
        let config = rig.outside("ssh_config");
        let text = format!(
            "Host task\n  HostName 127.0.0.1\n  Port {port}\n  User anybody\n  HostKeyAlias task\n  \
             IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
             GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  BatchMode yes\n  \
             LogLevel ERROR\n",
            key_file.display(),
            known.display()
        );
        std::fs::write(&config, text).unwrap();
        Self {
            config,
            _bridge: tokio_util::task::AbortOnDropHandle::new(bridge),
        }
    }

    /// One of OpenSSH's programs, with the configuration.
    pub fn program(&self, name: &str) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(name);
        command.arg("-F").arg(&self.config).kill_on_drop(true);
        command
    }
}
