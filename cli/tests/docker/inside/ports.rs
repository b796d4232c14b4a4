//! `forward`: ports of a task that has no network.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Place, connected, refused};
use crate::bench::{containers_of, docker};
use crate::harness::{eventually, text};

#[test]
#[ignore = "needs docker"]
fn a_port_of_a_task_without_a_network_is_reached_listed_and_closed() {
    let place = Place::of(&format!(
        "image = \"{}\"\ncommand = [\"sh\", \"-c\", \"busybox nc -ll -p 8080 -e cat & sleep 600\"]",
        crate::bench::IMAGE
    ));
    // A task runs before its server listens.
    let said = eventually("somebody listens", || {
        let output = place.me(&["forward", &place.job, "0:8080"]);
        if output.status.success() {
            return Some(text(&output.stdout));
        }
        assert!(refused(&output, 2).contains("--later"));
        None
    });
    let address = said.split(' ').next().unwrap().to_owned();
    let echoed = eventually("the port answers", || {
        let mut stream = connected(&address);
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"hello").ok()?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).ok()?;
        Some(back)
    });
    assert_eq!(&echoed, b"hello");
    let listed = place.lab.json("me", &["forwards"]);
    assert_eq!(listed[0]["port"], 8080, "{listed}");
    assert_eq!(listed[0]["listen"], address.as_str(), "{listed}");
    let id = listed[0]["id"].to_string();

    let taken = place.me(&[
        "forward",
        &place.job,
        &format!("{}:8080", address.rsplit(':').next().unwrap()),
    ]);
    assert!(refused(&taken, 2).contains("another port"));
    place.said(&["forwards", "--close", &id]);
    eventually("nobody listens any more", || {
        std::net::TcpStream::connect(&address)
            .is_err()
            .then_some(())
    });
    assert_eq!(place.lab.json("me", &["forwards"]), serde_json::json!([]));
}

/// Sends back what comes to a UDP port of the task's loopback. The test image has no program for that,
/// so a thread of the test's own is in the container's network.
fn answer_datagrams(place: &Place, port: u16) {
    // A task counts as running while its container is made.
    let container = eventually("the container is there", || {
        containers_of(&place.lab.id("provider")).pop()
    });
    let pid = eventually("the container has a process", || {
        let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &container]);
        (pid != "0").then_some(pid)
    });
    let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let (sender, bound) = sync_channel(1);
    std::thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        sender.send(()).unwrap();
        let mut buffer = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let _gone = socket.send_to(&buffer[..length], source);
        }
    });
    bound.recv().unwrap();
}

#[test]
#[ignore = "needs docker"]
fn datagrams_find_their_way_back_and_a_forward_ends_with_its_job() {
    let place = Place::new();
    answer_datagrams(&place, 5353);
    let said = place.said(&["forward", &place.job, "0:5353", "--udp"]);
    let address = said.split(' ').next().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let echoed = eventually("a datagram comes back", || {
        socket.send(b"ping").unwrap();
        let mut back = [0; 16];
        let length = socket.recv(&mut back).ok()?;
        Some(back[..length].to_vec())
    });
    assert_eq!(echoed, b"ping");

    let refused = place.me(&["forward", &place.job, "0:9999"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("listens on port 9999"));
    let left = place.lab.json("me", &["forwards"]);
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    // Somebody will.
    let said = place.said(&["forward", &place.job, "0:9999", "--later"]);
    let address = said.split(' ').next().unwrap().to_owned();
    let mut stream = connected(&address);
    let mut nothing = Vec::new();
    let _ = stream.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    eventually("it is said that nobody listens", || {
        let listed = place.lab.json("me", &["forwards"]);
        let said = listed.to_string();
        said.contains("listens on port 9999").then_some(())
    });
    let cancelled = place.me(&["cancel", &place.job]);
    assert!(cancelled.status.success(), "{}", text(&cancelled.stderr));
    eventually("forwards of an ended job are closed", || {
        let none = place.lab.json("me", &["forwards"]) == serde_json::json!([]);
        (none && TcpListener::bind(&address).is_ok()).then_some(())
    });
}
