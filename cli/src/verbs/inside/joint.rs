//! What joins OpenSSH, or whoever else started this process, to a stream into a task.
//!
//! Called once the stream is open, by `tunnel`. There are two ways: the connection itself is handed
//! over and this process is gone, or it stays and copies. A keystroke that has to wake a process more,
//! there and back, takes a quarter longer; so the first way is taken wherever the other side knows it.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::thread;

use rustix::fs::{FileType, fstat};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, getsockname, sendmsg,
};
use tokio::net::TcpStream;

/// What is copied at once, in bytes.
const COPY_BYTES: usize = 128 << 10;

/// Joins `stream` to whoever has this process's stdin and stdout. With `may_hand_over` it is handed over
/// when those are the socket on which OpenSSH waits for it; otherwise this returns when the other side
/// has said all.
///
/// # Errors
/// When the stream breaks, or nobody takes it.
pub fn join(stream: TcpStream, may_hand_over: bool) -> io::Result<()> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    if may_hand_over && waits_for_a_connection() {
        return hand_over(&stream, io::stdout());
    }
    pump(stream)
}

/// Whether this process was started by OpenSSH to bring it a connection.
pub fn waits_for_a_connection() -> bool {
    takes_descriptors(io::stdin(), io::stdout())
}

/// Whether these two are one and the same Unix socket, as `ProxyUseFdpass` of OpenSSH has it. A program
/// that only reads and writes has two pipes, or two sockets, for them.
fn takes_descriptors(stdin: impl AsFd, stdout: impl AsFd) -> bool {
    let (Ok(from), Ok(to)) = (fstat(&stdin), fstat(&stdout)) else {
        return false;
    };
    FileType::from_raw_mode(to.st_mode) == FileType::Socket
        && (from.st_dev, from.st_ino) == (to.st_dev, to.st_ino)
        && getsockname(&stdout).is_ok_and(|name| name.address_family() == AddressFamily::UNIX)
}

/// Sends the connection itself, beside the one byte that OpenSSH expects.
fn hand_over(stream: &impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [stream.as_fd()];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for a descriptor in a message"));
    }
    sendmsg(to, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok(())
}

/// Copies until the other side has said all. Two threads that block: a keystroke that went through an
/// event loop would take twice as long.
fn pump(stream: std::net::TcpStream) -> io::Result<()> {
    let mut far = stream.try_clone()?;
    thread::spawn(move || {
        // Whatever ends it, the other direction tells.
        let _ = copy(&mut io::stdin().lock(), &mut far);
        let _ = far.shutdown(Shutdown::Write);
    });
    let mut near = stream;
    match copy(&mut near, &mut io::stdout().lock()) {
        // OpenSSH has left.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    #[test]
    fn only_one_unix_socket_for_both_takes_a_descriptor() {
        let (one, other) = UnixStream::pair().unwrap();
        let again = one.try_clone().unwrap();
        assert!(takes_descriptors(&one, &again));
        assert!(!takes_descriptors(&one, &other));
        let (reader, writer) = io::pipe().unwrap();
        assert!(!takes_descriptors(&reader, &writer));
        assert!(!takes_descriptors(&reader, &one));
        // A server of inetd's has one socket for both, too.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let again = tcp.try_clone().unwrap();
        assert!(!takes_descriptors(&tcp, &again));
    }

    #[test]
    fn what_is_handed_over_is_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        hand_over(&stream, &ours).unwrap();
        drop((stream, ours));

        let mut byte = [1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut byte)];
        let got = recvmsg(&theirs, parts, &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(got.bytes, 1);
        let mut descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let mut taken = std::net::TcpStream::from(descriptors.next().unwrap());
        assert!(descriptors.next().is_none());
        drop(descriptors);
        assert_eq!(byte, [0]);
        taken.write_all(b"there").unwrap();
        server.write_all(b"back").unwrap();
        let (mut there, mut back) = ([0; 5], [0; 4]);
        server.read_exact(&mut there).unwrap();
        taken.read_exact(&mut back).unwrap();
        assert_eq!((&there, &back), (b"there", b"back"));
    }
}
