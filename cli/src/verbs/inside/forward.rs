//! `forward` and `forwards`.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

use hyper::Method;
use p2pnode_protocol::api::{CreateForward, ForwardInfo};

use crate::args::Global;
use crate::client::Client;
use crate::exit::Failure;
use crate::{here, output};

/// What `forward` and `run -p` take: `REMOTE`, `LOCAL:REMOTE` or `ADDRESS:LOCAL:REMOTE`.
#[derive(Debug, PartialEq, Eq)]
pub struct Ports {
    listen: String,
    remote: u16,
}

impl Ports {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!(
                "`{text}` is no forward: write PORT, LOCAL:REMOTE or ADDRESS:LOCAL:REMOTE, such as 8888 or 8080:80"
            ))
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let (listen, remote) = match text.rsplit_once(':') {
            None => (text.to_owned(), port(text)?),
            Some((listen, remote)) => (listen.to_owned(), port(remote)?),
        };
        // An address is the node's to judge; what stands alone must be a port.
        if !listen.contains(':') {
            port(&listen)?;
        }
        if remote == 0 {
            return Err(wrong());
        }
        Ok(Self { listen, remote })
    }

    /// Whether somebody listens there already is said before there is a task to forward to. What else may be
    /// wrong with the address, the node says.
    pub fn must_be_free(&self) -> Result<(), Failure> {
        let bound = match self.listen.parse::<u16>() {
            Ok(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, port)),
            Err(_) => TcpListener::bind(&*self.listen),
        };
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Failure::usage(format!(
                "cannot listen on {}: {error}; give another port, or 0 for any that is free",
                self.listen
            ))),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Opens it on the node.
    pub async fn open(
        self,
        client: &Client,
        task: &str,
        udp: bool,
        later: bool,
    ) -> Result<ForwardInfo, Failure> {
        let request = CreateForward {
            task: task.to_owned(),
            listen: self.listen,
            port: self.remote,
            udp,
            later,
        };
        client.ask(Method::POST, "/forwards", &request).await
    }
}

pub async fn forward(
    global: &Global,
    task: &str,
    ports: &str,
    udp: bool,
    later: bool,
) -> Result<ExitCode, Failure> {
    let ports = Ports::parse(ports)?;
    let client = here::must_run_for_jobs(global)?;
    let info = ports.open(&client, task, udp, later).await?;
    if global.json {
        output::line_json(&info);
    } else {
        output::line(sentence(&info));
    }
    Ok(ExitCode::SUCCESS)
}

/// A forward as people read it.
pub fn sentence(info: &ForwardInfo) -> String {
    let kind = if info.udp { " (UDP)" } else { "" };
    format!(
        "{} leads to port {} of task {}{kind}; `p2pnode forwards --close {}` closes it",
        info.listen, info.port, info.task, info.id
    )
}

/// Closes one.
pub async fn close_one(client: &Client, id: u32) -> Result<ForwardInfo, Failure> {
    let path = format!("/forwards/{id}");
    client.ask(Method::DELETE, &path, &()).await
}

pub async fn forwards(global: &Global, close: Option<u32>) -> Result<ExitCode, Failure> {
    let client = here::must_run_for_jobs(global)?;
    if let Some(id) = close {
        let closed = close_one(&client, id).await?;
        if global.json {
            output::line_json(&closed);
        } else {
            output::line(format!("{} is closed", closed.listen));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let all: Vec<ForwardInfo> = client.get("/forwards").await?;
    if global.json {
        output::line_json(&all);
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        output::note("no port is forwarded; forward one with: p2pnode forward TASK PORT");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|info| {
            vec![
                info.id.to_string(),
                info.listen.clone(),
                format!("{}:{}", info.task, info.port),
                if info.udp { "udp" } else { "tcp" }.to_owned(),
                info.connections.to_string(),
                info.trouble.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output::table(
        &["ID", "HERE", "TASK:PORT", "KIND", "OPEN", "LAST TROUBLE"],
        &rows,
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_people_write_them() {
        let ports = |listen: &str, remote| Ports {
            listen: listen.to_owned(),
            remote,
        };
        for (text, expected) in [
            ("8888", ports("8888", 8888)),
            ("0:22", ports("0", 22)),
            ("0.0.0.0:8080:80", ports("0.0.0.0:8080", 80)),
            ("[::1]:8080:80", ports("[::1]:8080", 80)),
        ] {
            assert_eq!(Ports::parse(text).ok(), Some(expected), "{text}");
        }
        for wrong in ["", "x", "80:", ":80", "1:0", "99999", "a:b:c"] {
            assert!(Ports::parse(wrong).is_err(), "{wrong}");
        }
    }
}
