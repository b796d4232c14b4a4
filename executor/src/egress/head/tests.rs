//! Heads that are understood, and those that are refused.

use super::*;

fn target(host: &str, port: u16) -> Target {
    Target {
        host: host.into(),
        port,
    }
}

fn status(head: &str) -> u16 {
    match parse(head.as_bytes()) {
        Err(refused) => refused.status,
        Ok(request) => panic!("{head:?} was understood as {request:?}"),
    }
}

#[test]
fn tunnels_are_understood() {
    for (head, to) in [
        ("CONNECT a.b:443 HTTP/1.1", target("a.b", 443)),
        (
            "CONNECT A.b.:443 HTTP/1.0\r\nHost: a.B:443",
            target("a.b.", 443),
        ),
        ("CONNECT a.b:443 HTTP/1.1\r\nHost: a.b", target("a.b", 443)),
        ("CONNECT [2600::0001]:443 HTTP/1.1", target("2600::1", 443)),
    ] {
        assert_eq!(parse(head.as_bytes()), Ok(Request::Connect(to)), "{head}");
    }
}

#[test]
fn tunnels_to_nowhere_are_refused() {
    for place in [
        "a.b",
        ":443",
        "a.b:",
        "a.b:x",
        "a.b:+443",
        "a.b:99999",
        "a:b:1",
        "u@a.b:443",
        "[::1:443",
        "[a.b]:443",
        "[::1]443",
        "a/b:443",
        "a%00b:443",
        "ä.b:443",
        "",
    ] {
        assert_eq!(status(&format!("CONNECT {place} HTTP/1.1")), 400, "{place}");
    }
    let long = "a".repeat(MOST_NAME_BYTES + 1);
    assert_eq!(status(&format!("CONNECT {long}:443 HTTP/1.1")), 400);
}

#[test]
fn plain_requests_are_written_anew() {
    let head = "POST http://A.b/x?y=1 HTTP/1.1\r\nHOST: a.b\r\nProxy-Authorization: secret\r\n\
                Connection: keep-alive, X-Hop, Content-Length\r\nX-Hop: 1\r\nX-Kept:  v \r\n\
                Content-Length: 3\r\nUpgrade: h2c";
    let Ok(Request::Forward { to, head, body }) = parse(head.as_bytes()) else {
        panic!("not understood");
    };
    assert_eq!((to, body), (target("a.b", 80), 3));
    assert_eq!(
        String::from_utf8(head).unwrap(),
        "POST /x?y=1 HTTP/1.1\r\nHost: a.b\r\nX-Kept: v\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    );
    for (place, line) in [
        ("http://a.b", "GET / HTTP/1.0\r\nHost: a.b\r\n"),
        ("HTTP://a.b?q", "GET /?q HTTP/1.0\r\nHost: a.b\r\n"),
        ("http://a.b:8080/", "GET / HTTP/1.0\r\nHost: a.b:8080\r\n"),
        ("http://[2600::1]/", "GET / HTTP/1.0\r\nHost: [2600::1]\r\n"),
    ] {
        let parsed = parse(format!("GET {place} HTTP/1.0").as_bytes());
        let Ok(Request::Forward { head, .. }) = parsed else {
            panic!("{parsed:?}");
        };
        assert!(head.starts_with(line.as_bytes()), "{place}");
    }
}

/// What could mean one thing here and another at the server.
#[test]
fn what_can_be_understood_in_two_ways_is_refused() {
    for head in [
        "GET http://a.b/ HTTP/1.1\r\nHost: evil",
        "GET http://a.b/ HTTP/1.1\r\nHost: a.b:81",
        "GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\nHost: a.b",
        "GET http://a.b/ HTTP/1.1\r\nHost:",
        "CONNECT a.b:443 HTTP/1.1\r\nHost: evil:443",
        "GET http://u@a.b/ HTTP/1.1",
        "GET http://a.b@evil/ HTTP/1.1",
        "GET http://a.b\\@evil/ HTTP/1.1",
        "GET http://a.b/#x HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET https://a.b/ HTTP/1.1",
        "GET ftp://a.b/ HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: a.b",
        "GET  http://a.b/ HTTP/1.1",
        "GET http://a.b/ x HTTP/1.1",
        "GET http://a.b/\tHTTP/1.1",
        "GET http://a.b/ HTTP/2.0",
        "GET http://a.b/ HTTP/1.1 ",
        "G(T http://a.b/ HTTP/1.1",
        " GET http://a.b/ HTTP/1.1",
        "GET http://a.b/ HTTP/1.1\r\nX : 1",
        "GET http://a.b/ HTTP/1.1\r\nX: 1\r\n folded",
        "GET http://a.b/ HTTP/1.1\r\nno colon",
        "GET http://a.b/ HTTP/1.1\r\nX: a\nHost: evil",
        "GET http://a.b/ HTTP/1.1\r\nX: a\rHost: evil",
        "GET http://a.b/ HTTP/1.1\r\nX: a\0",
        "GET http://a.b/ HTTP/1.1\nHost: evil",
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1",
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: 1, 1",
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: +1",
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: 0x1",
        "POST http://a.b/ HTTP/1.1\r\nContent-Length: 99999999999999999999",
        "POST http://a.b/ HTTP/1.1\r\nContent-Length:",
        "",
    ] {
        assert_eq!(status(head), 400, "{head:?}");
    }
    assert!(parse(b"GET http://a.b/ HTTP/1.1\r\nX: \xff").is_err());
    let chunked = "POST http://a.b/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1";
    assert_eq!(status(chunked), 411);
    let many = "X: 1\r\n".repeat(MOST_LINES + 1);
    assert_eq!(
        status(&format!("GET http://a.b/ HTTP/1.1\r\n{many}X: 1")),
        431
    );
}

#[tokio::test]
async fn a_head_is_read_up_to_its_end_whatever_the_pieces() {
    let whole = b"CONNECT a:1 HTTP/1.1\r\nX: 1\r\n\r\nmore";
    for size in [1, 2, 3, 5, whole.len()] {
        let mut pieces = tokio_test_pieces(whole, size);
        let (head, mut rest) = read(&mut pieces, PATIENCE).await.unwrap().unwrap();
        assert_eq!(head, b"CONNECT a:1 HTTP/1.1\r\nX: 1");
        pieces.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"more");
    }
    assert_eq!(read(&mut &b""[..], PATIENCE).await, Ok(None));
    assert_eq!(
        read(&mut &b"CONN"[..], PATIENCE).await.unwrap_err().status,
        400
    );
}

/// A reader that gives `size` bytes at a time.
fn tokio_test_pieces(bytes: &[u8], size: usize) -> impl AsyncRead + Unpin {
    let pieces: Vec<_> = bytes
        .chunks(size)
        .map(|piece| Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(piece)))
        .collect();
    tokio_util::io::StreamReader::new(futures::stream::iter(pieces))
}

#[tokio::test]
async fn a_head_without_end_is_refused_within_its_limits() {
    let endless = tokio::io::repeat(b'a');
    let refused = read(&mut Box::pin(endless), PATIENCE).await.unwrap_err();
    assert_eq!(refused.status, 431);
    let (mut ours, _theirs) = tokio::io::duplex(64);
    let refused = read(&mut ours, Duration::from_millis(20))
        .await
        .unwrap_err();
    assert_eq!(refused.status, 408);
}
