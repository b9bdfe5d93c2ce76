//! Where an uplink goes and how.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_domain::delivery::Window;
use tidegate_domain::item::ItemKind;
use tidegate_tls::Tls;

use crate::payload::Encoding;
use crate::status::Status;

/// One uplink over MQTT.
#[derive(Clone, Debug)]
pub struct MqttUplinkConfig {
    /// Its index in the configuration's order; the outbox knows it by this.
    pub index: usize,
    /// Its name in the configuration, for people.
    pub name: String,
    /// The gateway's id.
    pub gateway: String,
    /// The broker, and those that have their turn when it fails, in this order; at least one.
    pub brokers: Vec<Broker>,
    /// Away from the first broker: how long until it is looked for again.
    pub failback: Duration,
    /// The protocol's version.
    pub version: Version,
    /// The MQTT client id. It must differ from every other client's on that broker, ingest on the same broker
    /// included: two clients with one id close each other's connection for ever.
    pub client_id: String,
    /// User name and password, where the broker wants them.
    pub credentials: Option<Credentials>,
    /// The topic, with `{gateway}` and `{kind}` in it.
    pub topic: String,
    /// How long the line may be silent before the broker is asked whether it is there. A connection on which nothing
    /// was heard, or nothing acknowledged, for twice as long is given up. At least 1 s, on MQTT 5 at least 5 s, at
    /// most 65535 s.
    pub keep_alive: Duration,
    /// How much may wait for the broker's acknowledgement at once: the bound of the uplink's memory. What a line cannot
    /// carry within two keep-alives is given up and sent again, so that a slow line wants fewer bytes.
    pub in_flight: Window,
    /// Bytes a second that may leave, with the headers of MQTT; `None` for no cap. Alarms count and do not wait.
    pub rate_limit: Option<u64>,
    /// Live data's part of the bytes in thousandths, where a backlog waits as well.
    pub live_share: u16,
    /// How messages are written. The status is JSON in clear, for people.
    pub encoding: Encoding,
    /// The largest MQTT packet in bytes, and the largest message in clear. A message that needs a larger one is set aside; a broker that announces less
    /// (MQTT 5) counts instead.
    pub max_packet: usize,
    /// How long to wait between attempts to connect.
    pub reconnect: Reconnect,
    /// What the retained status says until [`crate::UplinkHandle::set_status`].
    pub status: Status,
}

/// Where a broker is.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What the MQTT connection runs over.
    pub transport: Transport,
}

/// What an MQTT connection runs over.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Transport {
    /// TCP, in clear.
    Plain,
    /// TLS over TCP. When the files that it is made of are renewed, the connection is made anew.
    Tls(Arc<Tls>),
}

/// The version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1: a broker cannot refuse a single message, it can only close the connection.
    V311,
    /// MQTT 5.
    V5,
}

/// Who we are to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The file with the password, where there is one. It is read for every connection, so that a new password needs
    /// no restart; line ends at its end do not belong to it.
    pub password_file: Option<PathBuf>,
}

/// Waits between attempts: exponential with jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The first wait.
    pub min: Duration,
    /// The longest. A connection that lived this long, or delivered something, starts over with the first.
    pub max: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
        }
    }
}

/// The window where nothing else is configured: 20 messages on MQTT 3.1.1, where brokers have no way to say what they
/// take, 64 on MQTT 5; 1 MiB on both.
#[must_use]
pub fn default_window(version: Version) -> Window {
    Window {
        messages: match version {
            Version::V311 => 20,
            Version::V5 => 64,
        },
        bytes: 1024 * 1024,
    }
}

/// A configuration that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The keep-alive is out of bounds.
    #[error("keep-alive of {found:?} is out of bounds; choose {least} s to 65535 s")]
    KeepAlive {
        /// What was given.
        found: Duration,
        /// The least, in seconds.
        least: u64,
    },
    /// A topic that MQTT does not allow, or that does not tell kinds apart.
    #[error("topic {topic:?} cannot be published to: {why}")]
    Topic {
        /// The topic, or the template.
        topic: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The window is out of bounds.
    #[error("{found} messages in flight are out of bounds; choose 1 to {MAX_IN_FLIGHT}")]
    InFlight {
        /// What was given.
        found: usize,
    },
    /// There is no broker.
    #[error("an uplink without a broker leads nowhere")]
    Broker,
    /// There is no client id.
    #[error("the MQTT client id is empty; a broker would invent one with every connection")]
    ClientId,
}

/// More messages in flight than this are more than packet ids have room for, with some to spare.
pub(crate) const MAX_IN_FLIGHT: usize = 16_384;

/// The topics of an uplink, filled in.
#[derive(Clone, Debug)]
pub(crate) struct Topics {
    kinds: [String; ItemKind::ALL.len()],
    pub(crate) status: String,
    pub(crate) command: String,
}

impl Topics {
    pub(crate) fn of(&self, kind: ItemKind) -> &str {
        &self.kinds[kind as usize]
    }

    /// Bytes of the longest.
    pub(crate) fn longest(&self) -> usize {
        let kinds = self.kinds.iter().chain([&self.status]);
        kinds.map(String::len).max().unwrap_or_default()
    }
}

impl MqttUplinkConfig {
    /// Checks what could never work, and fills in the topics.
    pub(crate) fn check(&self) -> Result<Topics, ConfigError> {
        let least = match self.version {
            Version::V311 => 1,
            Version::V5 => 5,
        };
        if !(least..=u64::from(u16::MAX)).contains(&self.keep_alive.as_secs()) {
            return Err(ConfigError::KeepAlive {
                found: self.keep_alive,
                least,
            });
        }
        if !(1..=MAX_IN_FLIGHT).contains(&self.in_flight.messages) {
            return Err(ConfigError::InFlight {
                found: self.in_flight.messages,
            });
        }
        if self.brokers.is_empty() {
            return Err(ConfigError::Broker);
        }
        if self.client_id.is_empty() {
            return Err(ConfigError::ClientId);
        }
        if !self.topic.contains("{kind}") {
            return Err(ConfigError::Topic {
                topic: self.topic.clone(),
                why: "without {kind} in it the retained status and the messages share a topic",
            });
        }
        let fill = |kind: &str| {
            let topic = self
                .topic
                .replace("{gateway}", &self.gateway)
                .replace("{kind}", kind);
            match topic_fault(&topic) {
                Some(why) => Err(ConfigError::Topic { topic, why }),
                None => Ok(topic),
            }
        };
        let mut kinds = [const { String::new() }; ItemKind::ALL.len()];
        for kind in ItemKind::ALL {
            kinds[kind as usize] = fill(kind.as_str())?;
        }
        Ok(Topics {
            kinds,
            status: fill("status")?,
            command: fill("command")?,
        })
    }
}

fn topic_fault(topic: &str) -> Option<&'static str> {
    if topic.contains(['+', '#']) {
        Some("'+' and '#' are wildcards")
    } else if topic.contains('\0') {
        Some("it holds a NUL character")
    } else if topic.starts_with('$') {
        Some("topics that begin with '$' are the broker's own")
    } else if topic.len() > usize::from(u16::MAX) {
        Some("it is longer than 65535 bytes")
    } else {
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::status::StatusState;

    /// A broker at `port` of the loopback address.
    pub(crate) fn broker(port: u16) -> Broker {
        Broker {
            host: "127.0.0.1".to_owned(),
            port,
            transport: Transport::Plain,
        }
    }

    /// A configuration for tests, at `port` of the loopback address.
    pub(crate) fn config(port: u16, version: Version) -> MqttUplinkConfig {
        MqttUplinkConfig {
            index: 0,
            name: "cloud".to_owned(),
            gateway: "gw-0042".to_owned(),
            brokers: vec![broker(port)],
            failback: Duration::from_secs(600),
            version,
            client_id: "gw-0042-up".to_owned(),
            credentials: None,
            topic: "tidegate/{gateway}/{kind}".to_owned(),
            keep_alive: Duration::from_secs(30),
            in_flight: default_window(version),
            rate_limit: None,
            live_share: 500,
            encoding: Encoding::default(),
            max_packet: 1024 * 1024,
            reconnect: Reconnect {
                min: Duration::from_millis(2),
                max: Duration::from_millis(20),
            },
            status: Status {
                state: StatusState::Online,
                store: "healthy",
                version: "0.1.0".to_owned(),
                boot: "b1".to_owned(),
                clock_synced: true,
                modules: serde_json::json!([]),
                audit: None,
            },
        }
    }

    fn check(change: impl FnOnce(&mut MqttUplinkConfig), expect: Result<&str, &str>) {
        let mut config = config(1883, Version::V5);
        change(&mut config);
        let topics = config.check().map_err(|error| error.to_string());
        let summary = topics
            .as_ref()
            .map(|topics| topics.of(ItemKind::Summary))
            .map_err(String::as_str);
        match (summary, expect) {
            (Err(found), Err(part)) => assert!(found.contains(part), "{found}"),
            (found, expect) => assert_eq!(found, expect),
        }
    }

    #[test]
    fn what_cannot_work_is_said_before_anything_starts() {
        check(|_| (), Ok("tidegate/gw-0042/summary"));
        check(
            |c| c.keep_alive = Duration::from_secs(4),
            Err("choose 5 s to 65535 s"),
        );
        check(
            |c| c.keep_alive = Duration::from_secs(65536),
            Err("out of bounds"),
        );
        check(|c| c.in_flight.messages = 0, Err("choose 1 to"));
        check(|c| c.client_id.clear(), Err("client id is empty"));
        check(|c| c.brokers.clear(), Err("leads nowhere"));
        check(
            |c| c.topic = "tidegate/{gateway}".to_owned(),
            Err("without {kind}"),
        );
        check(|c| c.gateway = "gw/#".to_owned(), Err("wildcards"));
    }
}
