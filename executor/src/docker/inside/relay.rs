//! Ports of a sandbox that this host does not see: a program of the image passes the bytes on.
//!
//! The way that is left with an engine on another machine, or one that is rootless. It costs a process
//! in the task for each connection, and works as far as the image has a program for it.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::unfold;
use p2pnode_protocol::task::Stream as Channel;
use p2pnode_protocol::tunnel::{ExecEnd, ExecSpec};
use tokio::io::join;
use tokio::time::timeout;
use tokio_util::io::StreamReader;

use super::{Core, start};
use crate::LogChunk;
use crate::inside::{Duplex, InsideError, Session};

/// Runs the first of the programs that can pass on bytes to the port `$1`, or says that there is none.
const SCRIPT: &str = r#"has() { command -v "$1" >/dev/null 2>&1; }
if has socat; then exec socat -t 86400 - "TCP:127.0.0.1:$1"
elif has nc; then exec nc 127.0.0.1 "$1"
elif has python3; then exec python3 -c '
import os, socket, sys, threading
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def up():
    while True:
        data = os.read(0, 65536)
        if not data:
            break
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while True:
    data = s.recv(65536)
    if not data:
        break
    while data:
        data = data[os.write(1, data):]
' "$1"
elif has bash; then exec bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" 4<&0 || exit 1
cat <&4 >&3 & cat <&3' "$1"
fi
exit 96"#;

/// How [`SCRIPT`] ends when the image has none of the programs.
const NO_PROGRAM: i32 = 96;

/// How long a relay is watched for giving up: a connection that nobody takes is refused at once.
const REFUSAL: Duration = Duration::from_millis(500);

/// Connects to a port through a program of the image.
pub(super) async fn connect(
    core: &std::sync::Arc<Core>,
    port: u16,
) -> Result<impl Duplex + use<>, InsideError> {
    let command = ["/bin/sh", "-c", SCRIPT, "relay", &port.to_string()];
    let spec = ExecSpec {
        command: command.map(str::to_owned).into(),
        ..ExecSpec::default()
    };
    let none = || {
        InsideError::Unsupported(
            "ports of this task cannot be reached: its provider does not see into its containers, and \
             the image has no socat, nc, python3 or bash that could pass them on"
                .to_owned(),
        )
    };
    let started = start::exec(core, spec, false).await;
    let mut session = started.map_err(|error| match error {
        InsideError::NoCommand(_) => none(),
        other => other,
    })?;
    // What a relay says on stderr first is why it gives up.
    let first = match timeout(REFUSAL, session.output.recv()).await {
        Ok(Some(chunk)) if chunk.stream == Channel::Stderr => {
            return Err(InsideError::NobodyListens(port));
        }
        Ok(Some(chunk)) => Some(chunk),
        Ok(None) => match (&mut session.end).await {
            ExecEnd::Exited(NO_PROGRAM) => return Err(none()),
            ExecEnd::Exited(0) => None,
            _ => return Err(InsideError::NobodyListens(port)),
        },
        Err(_elapsed) => None,
    };
    let Session {
        input, output, end, ..
    } = session;
    let chunks = unfold((first, output, end), |(first, mut output, end)| async {
        let chunk: Option<LogChunk> = match first {
            Some(chunk) => Some(chunk),
            None => loop {
                match output.recv().await {
                    Some(chunk) if chunk.stream == Channel::Stderr => {}
                    chunk => break chunk,
                }
            },
        };
        let bytes = Bytes::from(chunk?.bytes);
        Some((Ok::<_, std::io::Error>(bytes), (None, output, end)))
    });
    Ok(join(StreamReader::new(chunks.boxed()), input))
}
