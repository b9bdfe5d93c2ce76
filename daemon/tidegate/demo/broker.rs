//! The demo's broker: rumqttd inside the process, on loopback.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

/// How long the broker may take to listen.
const START: Duration = Duration::from_secs(5);

/// Starts a broker that lives as long as the process, on a free loopback port.
pub(crate) fn start() -> anyhow::Result<u16> {
    // rumqttd does not tell the port it bound, so that a free one is chosen for it.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("no free loopback port for the demo's broker")?
        .port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut broker = Broker::new(configuration(address));
    std::thread::Builder::new()
        .name("demo-broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the demo's broker ended");
            }
        })
        .context("cannot start a thread for the demo's broker")?;
    let begin = Instant::now();
    while TcpStream::connect(address).is_err() {
        anyhow::ensure!(
            begin.elapsed() < START,
            "the demo's broker does not listen on {address}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(port)
}

fn configuration(listen: SocketAddr) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5_000,
        max_payload_size: 1024 * 1024,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "demo-broker-v4".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    Config {
        router: RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: 1024 * 1024,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        ..Config::default()
    }
}
