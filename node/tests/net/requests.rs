//! Requests and answers, their limits, and what misuse leads to.

use p2pnode_node::net::{CallError, NetConfig, NetLimits};
use p2pnode_protocol::JobId;
use p2pnode_protocol::message::{MAX_MESSAGE_BYTES, Renewal, TaskRequest, TaskResponse};

use crate::support::{PATIENCE, eventually, loopback, pair, start, start_beside};

fn heartbeat(jobs: usize) -> TaskRequest {
    TaskRequest::Heartbeat {
        jobs: (0..jobs as u64)
            .map(|n| Renewal {
                job: JobId(n.to_be_bytes()),
                epoch: 0,
            })
            .collect(),
    }
}

#[tokio::test]
async fn a_request_is_answered() {
    let (a, mut b) = pair().await;
    let (from, to) = (a.id(), b.id());
    for jobs in [0, 1, 10_000, 400_000] {
        let request = heartbeat(jobs);
        let call = a.handle.request(to, &request);
        let serve = async {
            let (peer, id, got) = b.next_request().await;
            assert_eq!(peer, from);
            let TaskRequest::Heartbeat { jobs } = got else {
                panic!("{got:?}");
            };
            let unknown = jobs.into_iter().map(|renewal| renewal.job).collect();
            let answer = TaskResponse::Heartbeat { unknown };
            b.handle.respond(id, &answer).await.unwrap();
        };
        let (answer, ()) = tokio::join!(call, serve);
        match answer.unwrap() {
            TaskResponse::Heartbeat { unknown } => assert_eq!(unknown.len(), jobs),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(b.handle.metrics().requests_received.get(), 4);
}

#[tokio::test]
async fn a_request_dials_a_peer_that_is_known() {
    let a = start(loopback()).await;
    let mut b = start(loopback()).await;
    let known = NetConfig {
        known_peers: vec![(b.id(), b.handle.listen_addresses())],
        ..loopback()
    };
    drop(a);
    let a = start(known).await;
    let (goodbye, peer) = (TaskRequest::Goodbye, b.id());
    let serve = async {
        let (_, id, _) = b.next_request().await;
        b.handle.respond(id, &TaskResponse::Done).await.unwrap();
    };
    let (answer, ()) = tokio::join!(a.handle.request(peer, &goodbye), serve);
    assert_eq!(answer, Ok(TaskResponse::Done));
}

#[tokio::test]
async fn nobody_there() {
    let a = start(loopback()).await;
    let goodbye = TaskRequest::Goodbye;
    let stranger = libp2p::PeerId::random();
    for peer in [stranger, a.id()] {
        assert_eq!(
            a.handle.request(peer, &goodbye).await,
            Err(CallError::Unreachable)
        );
    }
}

#[tokio::test]
async fn a_peer_that_is_lost_does_not_answer() {
    let (a, mut b) = pair().await;
    let goodbye = TaskRequest::Goodbye;
    let peer = b.id();
    let serve = async {
        b.next_request().await;
        b.handle.shutdown().await;
    };
    let (answer, ()) = tokio::join!(a.handle.request(peer, &goodbye), serve);
    assert_eq!(answer, Err(CallError::Unreachable));
}

#[tokio::test]
async fn what_is_too_large_is_not_sent() {
    let (a, b) = pair().await;
    let request = heartbeat(MAX_MESSAGE_BYTES / 8 + 1);
    assert_eq!(
        a.handle.request(b.id(), &request).await,
        Err(CallError::TooLarge)
    );
    assert_eq!(a.handle.metrics().requests_sent.get(), 0);
}

#[tokio::test]
async fn a_node_that_takes_no_events_is_busy() {
    let limits = NetLimits {
        waiting_requests: 4,
        ..NetLimits::default()
    };
    let mut b = start(NetConfig {
        limits,
        ..loopback()
    })
    .await;
    let mut a = start_beside(&b, loopback()).await;
    a.until_connected(b.id()).await;
    b.until_connected(a.id()).await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let (handle, peer) = (a.handle.clone(), b.id());
        waiting.push(tokio::spawn(async move {
            handle.request(peer, &TaskRequest::Goodbye).await
        }));
    }
    let metrics = b.handle.metrics().clone();
    eventually("the queue to be full", || async {
        metrics.requests_received.get() == 4
    })
    .await;
    let answer = a.handle.request(b.id(), &TaskRequest::Goodbye).await;
    assert_eq!(answer, Ok(TaskResponse::Busy));
    assert_eq!(metrics.requests_refused.get(), 1);
    // What waited is still served.
    for _ in 0..4 {
        let (_, id, _) = b.next_request().await;
        b.handle.respond(id, &TaskResponse::Done).await.unwrap();
    }
    for call in waiting {
        assert_eq!(call.await.unwrap(), Ok(TaskResponse::Done));
    }
}

#[tokio::test]
async fn one_peer_does_not_take_all_the_room() {
    let limits = NetLimits {
        requests_per_peer: 3,
        ..NetLimits::default()
    };
    let mut b = start(NetConfig {
        limits: limits.clone(),
        ..loopback()
    })
    .await;
    let mut a = start_beside(&b, loopback()).await;
    a.until_connected(b.id()).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let (handle, peer) = (a.handle.clone(), b.id());
            tokio::spawn(async move { handle.request(peer, &TaskRequest::Goodbye).await })
        })
        .collect();
    let metrics = b.handle.metrics().clone();
    // More than twice three at a time do not even get their own stream.
    eventually("three to be taken", || async {
        metrics.requests_received.get() == 3
    })
    .await;
    for _ in 0..3 {
        let (_, id, _) = b.next_request().await;
        b.handle.respond(id, &TaskResponse::Done).await.unwrap();
    }
    let mut done = 0;
    for call in calls {
        let answer = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap();
        match answer {
            Ok(TaskResponse::Done) => done += 1,
            Ok(TaskResponse::Busy) | Err(CallError::Unreachable) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(done, 3);
}
