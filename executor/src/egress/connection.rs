//! One connection of a task's: its request judged, and carried or refused with the reason.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Gate;
use super::domains::Domains;
use super::head::{self, Refused, Request, Target};
use super::relay::{self, Count};

/// How long a name is asked for, and how long one address is tried.
pub(super) const RESOLVING: Duration = Duration::from_secs(10);
const CONNECTING: Duration = Duration::from_secs(10);

/// Addresses tried for one name: enough for both versions and one that is down.
const MOST_TRIES: usize = 4;

/// Addresses that one name may have.
const MOST_ADDRESSES: usize = 64;

/// A connection on which nothing passes for this long is closed: what web servers and the tables of
/// home routers allow, at most.
const IDLE: Duration = Duration::from_secs(300);

/// After a refusal the rest of what the task sends is read for this long, so that the reason is not
/// lost to a reset, and up to this much.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// What the connections of one task have in common.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    pub gate: Arc<Gate>,
    pub domains: Arc<Domains>,
    pub bytes: Arc<AtomicU64>,
}

impl Connection {
    /// Serves one connection to its end.
    pub(super) async fn serve(self, mut client: TcpStream) {
        if let Err(refused) = self.carry(&mut client).await {
            tracing::debug!(
                status = refused.status,
                why = refused.why,
                "a task's request was refused"
            );
            refuse(&mut client, &refused).await;
        }
    }

    async fn carry(&self, client: &mut TcpStream) -> Result<(), Refused> {
        let Some((head, rest)) = head::read(client, head::PATIENCE).await? else {
            return Ok(());
        };
        let request = head::parse(&head)?;
        let to = match &request {
            Request::Connect(to) | Request::Forward { to, .. } => to,
        };
        let mut server = self.reach(to).await?;
        let count = Count::new(&self.bytes);
        let carried = match request {
            Request::Connect(_) => tunnel(client, &mut server, &rest, &count).await,
            Request::Forward { head, body, .. } => {
                forward(client, &mut server, &head, &rest, body, &count).await
            }
        };
        if let Err(error) = carried {
            // Nobody is left to be told: an answer may be half said.
            tracing::trace!(%error, "a task's connection ended early");
        }
        Ok(())
    }

    /// Connects to a permitted target, at an address that was checked.
    async fn reach(&self, to: &Target) -> Result<TcpStream, Refused> {
        let Target { host, port } = to;
        if !self.domains.permit(host) {
            let why = format!("{host} is not among network.domains of this job");
            return Err(Refused::new(403, why));
        }
        if !self.gate.ports.contains(port) {
            let ports: Vec<_> = self.gate.ports.iter().map(u16::to_string).collect();
            let why = format!(
                "port {port} cannot be reached from a task, only {}",
                ports.join(", ")
            );
            return Err(Refused::new(403, why));
        }
        let addresses = self.resolve(host).await?;
        for address in &addresses {
            self.gate.addresses.check(*address).map_err(|what| {
                let why = format!("{host} is at {address}: {what}, which no task may reach");
                Refused::new(403, why)
            })?;
        }
        let mut last = None;
        for address in addresses.into_iter().take(MOST_TRIES) {
            let address = SocketAddr::new(address, *port);
            match timeout(CONNECTING, TcpStream::connect(address)).await {
                Ok(Ok(server)) => return Ok(server),
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = Some(io::ErrorKind::TimedOut.into()),
            }
        }
        let why = last.map_or_else(|| "it has no address".to_owned(), |error| error.to_string());
        Err(Refused::new(
            502,
            format!("{host} cannot be reached: {why}"),
        ))
    }

    /// All addresses of a name, asked for once.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Refused> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let resolving = async {
            let _turn = self.gate.lookups.acquire().await;
            self.gate.resolver.resolve(host).await
        };
        match timeout(RESOLVING, resolving).await {
            Ok(Ok(found)) if found.len() > MOST_ADDRESSES => {
                Err(Refused::new(502, format!("{host} has too many addresses")))
            }
            Ok(Ok(found)) if !found.is_empty() => Ok(found),
            Ok(Ok(_)) => Err(Refused::new(502, format!("{host} has no address"))),
            Ok(Err(error)) => Err(Refused::new(502, format!("{host} is not known: {error}"))),
            Err(_) => Err(Refused::new(
                504,
                format!("{host}: no answer from the name server"),
            )),
        }
    }
}

async fn tunnel(
    client: &mut TcpStream,
    server: &mut TcpStream,
    early: &[u8],
    count: &Count<'_>,
) -> io::Result<()> {
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    server.write_all(early).await?;
    count.add(early.len());
    relay::both(client, server, count, IDLE).await
}

async fn forward(
    client: &mut TcpStream,
    server: &mut TcpStream,
    head: &[u8],
    early: &[u8],
    body: u64,
    count: &Count<'_>,
) -> io::Result<()> {
    // What came after the body would be a second request, which nobody has judged.
    let early = &early[..early.len().min(usize::try_from(body).unwrap_or(usize::MAX))];
    for part in [head, early] {
        server.write_all(part).await?;
        count.add(part.len());
    }
    relay::exchange(client, server, body - early.len() as u64, count, IDLE).await
}

async fn refuse(client: &mut TcpStream, refused: &Refused) {
    let said = timeout(LINGER, async {
        client.write_all(&answer(refused)).await?;
        client.shutdown().await?;
        let mut rest = client.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    });
    // It may have gone, or never stop sending.
    let _ = said.await;
}

/// Tells a task that there are too many connections, without waiting for anything.
/// `who` has them.
pub(super) fn turn_away(client: &TcpStream, who: &str) {
    let why = format!("{who} too many connections open already");
    let _ = client.try_write(&answer(&Refused::new(503, why)));
}

fn answer(refused: &Refused) -> Vec<u8> {
    let Refused { status, why } = refused;
    let reason = match status {
        400 => "Bad Request",
        403 => "Forbidden",
        408 => "Request Timeout",
        411 => "Length Required",
        431 => "Request Header Fields Too Large",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Refused",
    };
    // The reason also in the first line: for tunnels many programs show nothing else.
    let line: String = why.chars().filter(|c| !c.is_control()).take(200).collect();
    let body = format!("p2pnode: {line}\n");
    format!(
        "HTTP/1.1 {status} {reason} - {line}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
