//! Where gateways' reports come from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use tidegate_domain::channel::Name;
use tidegate_ingest::{Credentials, MqttConfig, Qos, Subscription, Transport, Version};
use tidegate_tls::{Identity, Tls, TlsConfig};

use crate::{built, config};

/// How long the broker keeps what comes while nobody watches: a week.
const SESSION: Duration = Duration::from_hours(7 * 24);
/// Silence before a ping.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// On MQTT 3.1.1, mosquitto's default.
const IN_FLIGHT: u16 = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The broker that the gateways' uplinks send to: mqtt://HOST[:PORT], or mqtts:// for TLS
    #[arg(long, value_name = "URL")]
    broker: String,
    /// The uplinks' topic, with {gateway} and {kind} as levels of it
    ///
    /// Who may publish on a gateway's topic speaks for it: let the broker allow each gateway its own alone (mosquitto: `pattern
    /// write tidegate/%u/#`).
    #[arg(long, default_value = "tidegate/{gateway}/{kind}")]
    topic: String,
    /// Name of our session at the broker, which keeps reports while this does not run; default: tidegate-fleet-CHANNEL
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Version of MQTT: 5 or 3.1.1
    #[arg(long, value_name = "VERSION", default_value = "5", value_parser = version)]
    mqtt: Version,
    /// User name
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file that holds the password alone
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// The certificates that may sign the broker's, as PEM; default: those that the system trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate, where the broker wants one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The name that the broker's certificate is for; default: the host of the url
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

/// Which level of a topic names the gateway.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topic(usize);

impl Topic {
    /// The gateway of a message.
    pub(super) fn gateway(self, topic: &str) -> Option<&str> {
        topic.split('/').nth(self.0)
    }
}

impl Arguments {
    /// What the source is told, and how its topics are read.
    pub(super) fn source(
        &self,
        channel: &Name,
        had_session: bool,
    ) -> anyhow::Result<(MqttConfig, Topic)> {
        let (filter, topic) = filter(&self.topic)?;
        let address = config::broker_address(&self.broker).map_err(|problem| anyhow!(problem))?;
        let transport = match (address.tls, self.tls_is_asked_for()) {
            (true, _) => Transport::Tls(Arc::new(self.tls(&address.host)?)),
            (false, true) => bail!("{} is in clear; write mqtts:// for TLS", self.broker),
            (false, false) => Transport::Tcp,
        };
        let password = match &self.password_file {
            Some(path) => {
                let read = config::secret(path);
                Some(read.with_context(|| format!("the password in {}", path.display()))?)
            }
            None => None,
        };
        let client_id = self.client_id.clone();
        let config = MqttConfig {
            index: 0,
            name: "fleet".to_owned(),
            host: address.host,
            port: address.port,
            transport,
            version: self.mqtt,
            client_id: client_id.unwrap_or_else(|| format!("tidegate-fleet-{channel}")),
            subscribe: vec![Subscription {
                filter,
                qos: Qos::AtLeastOnce,
            }],
            credentials: self
                .username
                .as_ref()
                .map(|username| Credentials::new(username.clone(), password)),
            in_flight: IN_FLIGHT,
            keep_alive: KEEP_ALIVE,
            session_expiry: SESSION,
            had_session,
            identity: None,
        };
        Ok((config, topic))
    }

    fn tls_is_asked_for(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.server_name.is_some()
    }

    fn tls(&self, host: &str) -> anyhow::Result<Tls> {
        let identity = self.cert.clone().zip(self.key.clone());
        let config = TlsConfig {
            owner: "fleet".to_owned(),
            ca: self.ca.clone(),
            identity: identity.map(|(cert, key)| Identity { cert, key }),
            server_name: self.server_name.clone().unwrap_or_else(|| host.to_owned()),
            clock: built::clock(),
        };
        // Now, where somebody sees it, and not at the first connection.
        Tls::load(config).map_err(|error| anyhow!("{}: {}", error.what, error.help))
    }
}

/// The filter of all gateways' events, and where their name stands in a topic.
fn filter(topic: &str) -> anyhow::Result<(String, Topic)> {
    let levels: Vec<&str> = topic.split('/').collect();
    let gateway = levels.iter().position(|level| *level == "{gateway}");
    let Some(gateway) = gateway.filter(|_| levels.contains(&"{kind}")) else {
        bail!(
            "`{topic}` must have {{gateway}} and {{kind}} as levels of their own, as in tidegate/{{gateway}}/{{kind}}"
        );
    };
    let levels = levels.iter().map(|level| match *level {
        "{gateway}" => "+",
        "{kind}" => "event",
        other => other,
    });
    let filter = levels.collect::<Vec<_>>().join("/");
    Ok((filter, Topic(gateway)))
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "5" => Ok(Version::V5),
        "3.1.1" => Ok(Version::V311),
        _ => Err("versions are 5 and 3.1.1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_topic_says_whose_events_to_ask_for_and_who_sent_one() {
        let (filter, topic) = super::filter("a/{kind}/x/{gateway}").unwrap();
        assert_eq!(filter, "a/event/x/+");
        assert_eq!(topic.gateway("a/event/x/gw-1"), Some("gw-1"));
        assert_eq!(topic.gateway("a"), None);
        for bad in ["a/b", "a/{gateway}", "{kind}", "a/gw-{gateway}/{kind}"] {
            assert!(super::filter(bad).is_err(), "{bad}");
        }
    }
}
