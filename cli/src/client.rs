//! A client of a node's local API.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use p2pnode_node::home::ApiEndpoint;
use p2pnode_protocol::TaskKey;
use p2pnode_protocol::api::{ApiError, Event, TaskInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::exit::Failure;
use crate::select::JobSelector;

/// What a connection to the node is upgraded to.
const TUNNEL: &str = "p2pnode-tunnel";

/// The longest event that is read, in bytes: far more than any node sends.
const MAX_EVENT_BYTES: usize = 8 << 20;

/// A stream to a task's provider: what is said on it is the tunnel protocol.
pub struct TaskStream {
    /// The task's whole name.
    pub name: String,
    pub stream: TcpStream,
    /// Where the provider may be reached without the node here.
    pub shortcut: Option<SocketAddr>,
}

/// One connection for each request: on loopback that costs a tenth of a millisecond.
#[derive(Clone)]
pub struct Client {
    endpoint: ApiEndpoint,
}

impl Client {
    /// A client of the node at `endpoint`.
    pub const fn new(endpoint: ApiEndpoint) -> Self {
        Self { endpoint }
    }

    /// `GET path`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, &()).await
    }

    /// `method path` with a JSON body, and a JSON answer.
    pub async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        let answer = self.request(method, path, body, "application/json").await?;
        let bytes = read_all(answer).await?;
        // An answer without content reads as `null`.
        let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(text).map_err(|error| {
            Failure::internal(format!(
                "the node's answer to {path} is not understood: {error}"
            ))
        })
    }

    /// `method path`, answered with events.
    pub async fn events<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<EventStream, Failure> {
        let answer = self
            .request(method, path, body, "text/event-stream")
            .await?;
        Ok(EventStream {
            body: answer.into_body(),
            buffer: Vec::new(),
            read: 0,
        })
    }

    /// What is known of a task; of the first of its job unless another is named.
    pub async fn task(&self, task: &JobSelector) -> Result<TaskInfo, Failure> {
        let index = task.task.unwrap_or(0);
        let path = format!("{}/tasks?from={index}&count=1", task.path());
        let found: Vec<TaskInfo> = self.get(&path).await?;
        found.into_iter().next().ok_or_else(|| {
            Failure::usage(format!(
                "there is no task {index}: `p2pnode job` lists a job's tasks"
            ))
        })
    }

    /// The name of that task.
    pub async fn task_key(&self, task: &JobSelector) -> Result<TaskKey, Failure> {
        let info = self.task(task).await?;
        let strange = || Failure::internal(format!("`{}` is not the name of a task", info.task));
        info.task.parse().map_err(|_| strange())
    }

    /// Joins this process to a stream that leads to the task's provider; with `resume` also when the task has
    /// ended.
    pub async fn tunnel(&self, task: &JobSelector, resume: bool) -> Result<TaskStream, Failure> {
        let index = task.task.unwrap_or(0);
        let path = format!("{}/tunnel?task={index}&resume={resume}", task.path());
        let request = self
            .builder(Method::POST, &path)
            .header(UPGRADE, TUNNEL)
            .header(CONNECTION, "upgrade")
            .body(Full::new(Bytes::new()))
            .map_err(|error| Failure::internal(error.to_string()))?;
        let answer = self.send(request).await?;
        let header = |name| answer.headers().get(name)?.to_str().ok();
        let name = header("p2pnode-task").map(str::to_owned);
        let shortcut = header("p2pnode-shortcut").and_then(|address| address.parse().ok());
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|error| gone(&error))?;
        let parts = upgraded.downcast::<TokioIo<TcpStream>>();
        match (parts, name) {
            // The provider says nothing before it is asked.
            (Ok(parts), Some(name)) if parts.read_buf.is_empty() => Ok(TaskStream {
                name,
                stream: parts.io.into_inner(),
                shortcut,
            }),
            _ => Err(Failure::internal("the node's answer is not a tunnel's")),
        }
    }

    async fn request<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: &B,
        accept: &str,
    ) -> Result<Response<Incoming>, Failure> {
        let content = match method {
            Method::GET => Vec::new(),
            _ => serde_json::to_vec(body).map_err(|error| Failure::internal(error.to_string()))?,
        };
        let request = self
            .builder(method, path)
            .header(ACCEPT, accept)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(content)))
            .map_err(|error| Failure::internal(error.to_string()))?;
        self.send(request).await
    }

    fn builder(&self, method: Method, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(HOST, self.endpoint.addr.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.endpoint.token))
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let stream = TcpStream::connect(self.endpoint.addr)
            .await
            .map_err(|error| gone(&error))?;
        stream.set_nodelay(true).map_err(|error| gone(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| gone(&error))?;
        tokio::spawn(connection.with_upgrades());
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| gone(&error))?;
        if answer.status().is_success() || answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = read_all(answer).await?;
        Err(match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => error.into(),
            Err(_) => Failure::internal(format!("{status}: {}", String::from_utf8_lossy(&bytes))),
        })
    }
}

fn gone(error: &dyn std::fmt::Display) -> Failure {
    Failure::nobody(format!("the node does not answer: {error}"))
}

async fn read_all(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    let read = answer.into_body().collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| gone(&error))
}

/// Events as they come.
pub struct EventStream {
    body: Incoming,
    buffer: Vec<u8>,
    read: usize,
}

impl EventStream {
    /// The next event; `None` when the stream ended. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.take()? {
                return Ok(Some(event));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.drain(..self.read);
                        self.read = 0;
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::nobody(format!("the node is gone: {error}")));
                }
            }
        }
    }

    /// A whole event that was received already.
    fn take(&mut self) -> Result<Option<Event>, Failure> {
        let waiting = &self.buffer[self.read..];
        let Some(end) = waiting.windows(2).position(|pair| pair == b"\n\n") else {
            if waiting.len() > MAX_EVENT_BYTES {
                return Err(Failure::internal("the node sends an event without end"));
            }
            return Ok(None);
        };
        let text = waiting[..end]
            .strip_prefix(b"data: ")
            .unwrap_or(&waiting[..end]);
        let event = serde_json::from_slice(text)
            .map_err(|error| Failure::internal(format!("an event is not understood: {error}")))?;
        self.read += end + 2;
        Ok(Some(event))
    }
}
