//! An instance of the Testground plan: a node that must come to know all others.
//!
//! Thin on purpose: Testground has been dormant since 2023. The instance that is first in line is the
//! others' bootstrap.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libp2p::identity::Keypair;
use p2pnode_node::net::{self, NetConfig, NetEvent};
use serde_json::Value;
use testground::client::Client;

/// Where instances announce themselves.
const TOPIC: &str = "p2pnode/addresses";

/// Runs the test case that Testground named.
pub async fn run() -> Result<()> {
    let client = Client::new_and_init()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let result = discovery(&client).await;
    match &result {
        Ok(took) => {
            client.record_message(format!("knows all others after {took:?}"));
            client.record_success().await?;
        }
        Err(error) => client.record_failure(error.to_string()).await?,
    }
    result.map(|_| ())
}

async fn discovery(client: &Client) -> Result<Duration> {
    let instances = client.run_parameters().test_instance_count as usize;
    let limit = client
        .run_parameters()
        .test_instance_params
        .get("limit_s")
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let mut config = NetConfig::new(Keypair::generate_ed25519(), "testground");
    config.mdns = false;
    let position = client.signal("started").await?;
    if position > 1 {
        let mut announced = client.subscribe(TOPIC, 1).await;
        let first = futures::StreamExt::next(&mut announced)
            .await
            .context("nobody announced an address")??;
        config.bootstrap = vec![first.as_str().context("not text")?.parse()?];
    }
    let (handle, mut events) = net::start(config).await?;
    if position == 1 {
        let address = handle
            .listen_addresses()
            .into_iter()
            .next()
            .context("no address")?;
        let full = format!("{address}/p2p/{}", handle.local_peer_id());
        let announced = Cow::Owned(Value::String(full));
        client.publish(TOPIC, announced).await?;
    }
    let began = Instant::now();
    let mut connected = 0;
    let everyone = async {
        while connected + 1 < instances {
            if let Some(NetEvent::Connected { .. }) = events.recv().await {
                connected += 1;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(limit), everyone)
        .await
        .with_context(|| format!("knows only some others after {limit} s"))?;
    let took = began.elapsed();
    client.signal_and_wait("done", instances as u64).await?;
    Ok(took)
}
