//! Ports, both ways: `ssh -L`, `-D` and `-W` reach the sandbox's loopback, and its way out where it
//! has one; `ssh -R` listens there.

use std::collections::HashMap;
use std::time::Duration;

use p2pnode_executor::inside::Duplex;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::handler::Channels;
use super::inlet::{self, Traffic};
use crate::doors::Door;

/// Ports of a sandbox that one connection may listen on.
const MAX_FORWARDS: usize = 16;

/// Where a task's way out listens inside its sandbox, if it has one (`executor::egress`).
const PROXY_PORT: u16 = 3128;

/// How long a connection may take to come about, through the way out too.
const CONNECT: Duration = Duration::from_secs(20);

/// The longest answer of the way out that is read, in bytes.
const MAX_PROXY_ANSWER: usize = 4 << 10;

/// What is read from a port at a time, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// The code of a connection that failed, RFC 4254, section 5.1; with a reason of our own.
const CONNECT_FAILED: u32 = 2;

/// Connects to what a client named. An error is a sentence for people.
pub(super) async fn open(door: Door, host: String, port: u32) -> Result<Box<dyn Duplex>, String> {
    let port = match u16::try_from(port) {
        Ok(port) if port > 0 => port,
        _ => return Err(format!("{port} is no port")),
    };
    let connecting = async {
        if is_loopback(&host) {
            let connected = door.inside.connect(port).await;
            return connected.map_err(|error| error.to_string());
        }
        through_proxy(&door, &host, port).await
    };
    match timeout(CONNECT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("no connection within {} s", CONNECT.as_secs())),
    }
}

/// Connects to a socket in the task's file system. An error is a sentence for people.
pub(super) async fn open_path(door: Door, path: String) -> Result<Box<dyn Duplex>, String> {
    match timeout(CONNECT, door.inside.connect_path(path.as_bytes())).await {
        Ok(connected) => connected.map_err(|error| format!("{path}: {error}")),
        Err(_) => Err(format!("no connection within {} s", CONNECT.as_secs())),
    }
}

fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

/// Asks the task's way out, which knows what the task may reach.
async fn through_proxy(door: &Door, host: &str, port: u16) -> Result<Box<dyn Duplex>, String> {
    let plain = !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
    if !plain {
        return Err("the host's name is none".to_owned());
    }
    let Ok(mut proxy) = door.inside.connect(PROXY_PORT).await else {
        return Err(format!(
            "the task has no way out to {host}: only its own ports, on localhost, can be reached"
        ));
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    let answered = async {
        proxy.write_all(request.as_bytes()).await?;
        proxy.flush().await?;
        let mut head = Vec::new();
        // Byte by byte, so that nothing that follows the head is taken.
        while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_PROXY_ANSWER {
            head.push(proxy.read_u8().await?);
        }
        std::io::Result::Ok(head)
    };
    let head = answered
        .await
        .map_err(|error| format!("the task's way out broke: {error}"))?;
    let status = head.get(..12).unwrap_or_default();
    if status.starts_with(b"HTTP/1.") && status.ends_with(b" 200") {
        return Ok(proxy);
    }
    Err(format!(
        "the task may not reach {host}:{port}, or there is nobody: its way out says no"
    ))
}

/// Answers a client's wish for a connection, and carries it.
pub(super) async fn direct(
    opening: impl Future<Output = Result<Box<dyn Duplex>, String>>,
    channel: Channel<Msg>,
    reply: ChannelOpenHandle,
    traffic: Traffic,
) {
    match opening.await {
        Ok(stream) => {
            reply.accept().await;
            carry(channel, stream, &traffic).await;
        }
        Err(reason) => {
            let code = CONNECT_FAILED;
            reply
                .reject(ChannelOpenFailure::Other { code, reason })
                .await;
        }
    }
}

/// Copies both ways until both have ended.
async fn carry<S: Duplex>(channel: Channel<Msg>, stream: S, traffic: &Traffic) {
    let (mut from, to) = channel.split();
    let (mut reader, writer) = tokio::io::split(stream);
    let outward = async {
        let mut buffer = bytes::BytesMut::with_capacity(BUFFER_BYTES);
        loop {
            buffer.reserve(BUFFER_BYTES);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let bytes = buffer.split().freeze();
                    if traffic.sending(to.data_bytes(bytes)).await.is_err() {
                        break;
                    }
                }
            }
        }
        let _ = to.eof().await;
        // Both have said all that they had to say: only then is a client of OpenSSH told to go.
        let _ = timeout(LINGER, traffic.input_ended()).await;
    };
    let inward = inlet::carry(&mut from, writer, traffic, LINGER, |_| async {});
    tokio::select! {
        _ = inward => {}
        () = outward => {}
    }
    let _ = to.close().await;
}

/// How long what one side has sent may take to be passed on after the other side has ended (10 min):
/// as long as an inlet may be full.
const LINGER: Duration = Duration::from_secs(600);

/// The connection that ports are forwarded to.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) handle: Handle,
    pub(super) channels: Channels,
    /// It has ended.
    pub(super) ended: CancellationToken,
}

/// Ports that a connection listens on.
#[derive(Default)]
pub(super) struct Forwards(HashMap<(String, u32), CancellationToken>);

impl Forwards {
    /// Listens on a port of the sandbox, always on its loopback; says which. Nothing when it may not,
    /// or the port is taken.
    pub(super) async fn begin(
        &mut self,
        door: &Door,
        to: Client,
        address: &str,
        port: u32,
    ) -> Option<u32> {
        let wanted = u16::try_from(port).ok()?;
        if self.0.len() >= MAX_FORWARDS || self.0.contains_key(&(address.to_owned(), port)) {
            return None;
        }
        let listening = timeout(CONNECT, door.inside.listen(wanted)).await;
        let listener = listening.ok()?.ok()?;
        let bound = u32::from(listener.local_addr().ok()?.port());
        let stop = to.ended.child_token();
        self.0.insert((address.to_owned(), bound), stop.clone());
        let accepting = accept(listener, to, address.to_owned(), bound);
        let gone = door.gone.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = accepting => {}
                () = stop.cancelled() => {}
                () = gone.cancelled() => {}
            }
        });
        Some(bound)
    }

    /// Listens no longer; connections that came stay. False when it did not.
    pub(super) fn end(&mut self, address: &str, port: u32) -> bool {
        match self.0.remove(&(address.to_owned(), port)) {
            Some(stop) => {
                stop.cancel();
                true
            }
            None => false,
        }
    }
}

/// Hands connections to the client.
async fn accept(listener: TcpListener, to: Client, address: String, port: u32) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            // Out of descriptors, most likely; it passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Dropped when there are too many: whoever connected sees it at once.
        let Some(counted) = to.channels.count() else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let traffic = to.channels.traffic();
        let (handle, ended) = (to.handle.clone(), to.ended.clone());
        let address = address.clone();
        tokio::spawn(async move {
            let ip = from.ip().to_string();
            let opening =
                handle.channel_open_forwarded_tcpip(address, port, ip, u32::from(from.port()));
            let carrying = async {
                if let Ok(Ok(channel)) = timeout(CONNECT, opening).await {
                    carry(channel, stream, &traffic).await;
                }
            };
            tokio::select! {
                () = carrying => {}
                () = ended.cancelled() => {}
            }
            drop(counted);
        });
    }
}
