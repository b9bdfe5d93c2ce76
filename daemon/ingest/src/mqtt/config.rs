//! What a source is told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidegate_tls::Tls;

/// Unacknowledged messages that we announce to take on MQTT 5 (Receive Maximum).
pub const RECEIVE_MAXIMUM: u16 = 1024;

/// The longest string that MQTT can carry, in bytes.
const STRING_BYTES: usize = 65_535;

/// The shortest keep-alive: below it, a busy machine looks like a dead one.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// An MQTT source.
#[derive(Clone, Debug)]
pub struct MqttConfig {
    /// Index of the source in the configuration's order.
    pub index: usize,
    /// The source's name, for messages to people.
    pub name: String,
    /// Host name or address of the broker.
    pub host: String,
    /// Port of the broker.
    pub port: u16,
    /// How the broker is reached.
    pub transport: Transport,
    /// The version of the protocol.
    pub version: Version,
    /// The name of the session at the broker. It must be the same on every start, and nobody else's: the broker
    /// keeps our unacknowledged messages under it.
    pub client_id: String,
    /// What to subscribe to. Sent on every connect, so that a changed list takes effect with a session that lasts.
    /// The broker keeps filters that were taken off the list until the session ends, and on MQTT 3.1.1 it repeats
    /// retained messages.
    pub subscribe: Vec<Subscription>,
    /// User name and password.
    pub credentials: Option<Credentials>,
    /// MQTT 3.1.1 alone: how many unacknowledged messages the broker sends, as it is configured there (mosquitto:
    /// `max_inflight_messages`, 20). On MQTT 5 it is [`RECEIVE_MAXIMUM`].
    pub in_flight: u16,
    /// The broker may take us for dead after one and a half times as long without a packet. From 5 s to 65,535 s.
    pub keep_alive: Duration,
    /// MQTT 5 alone: how long the broker keeps the session while we are away. Make it short for `$share` groups: the
    /// session of a member that is gone keeps its share of the messages. MQTT 3.1.1 sessions never expire.
    pub session_expiry: Duration,
    /// Whether the broker is expected to have a session of ours: true once this source has ever received. Where it
    /// then has none, [`Occurrence::SessionLost`](crate::Occurrence::SessionLost) is reported.
    pub had_session: bool,
    /// MQTT 5 alone: the property by which a message that comes twice is known.
    pub identity: Option<Property>,
}

/// A property of MQTT 5 that senders fill as they like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// The value of the first user property of this name.
    User(String),
    /// The correlation data.
    CorrelationData,
}

/// How a broker is reached.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Transport {
    /// Plain TCP.
    #[default]
    Tcp,
    /// TLS over TCP. When the files that it is made of are renewed, the connection is made anew.
    Tls(Arc<Tls>),
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1 (OASIS, 2014).
    #[default]
    V311,
    /// MQTT 5.0 (OASIS, 2019).
    V5,
}

/// What to subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// A topic filter: `plant/+/temp`, `plant/#`, `$share/group/plant/#`.
    pub filter: String,
    /// The quality of service.
    pub qos: Qos,
}

/// A quality of service. There is no 2: it needs receive state that survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Qos {
    /// At most once: what is sent while we are away or behind is lost.
    AtMostOnce = 0,
    /// At least once: kept by the broker until we acknowledge.
    AtLeastOnce = 1,
}

/// User name and password. Never printed.
#[derive(Clone)]
pub struct Credentials {
    username: String,
    password: Option<Vec<u8>>,
}

impl Credentials {
    /// The user name, and the password where there is one.
    #[must_use]
    pub fn new(username: impl Into<String>, password: Option<Vec<u8>>) -> Self {
        Self {
            username: username.into(),
            password,
        }
    }

    pub(super) fn username(&self) -> &str {
        &self.username
    }

    pub(super) fn password(&self) -> Option<&[u8]> {
        self.password.as_deref()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .finish()
    }
}

/// A source that cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Nothing to subscribe to.
    #[error("source `{source_name}` subscribes to nothing; name at least one topic")]
    NoSubscription {
        /// The source's name.
        source_name: String,
    },
    /// A topic filter that no broker can grant.
    #[error("source `{source_name}`: `{filter}` is no topic filter: {reason}")]
    Filter {
        /// The source's name.
        source_name: String,
        /// The filter.
        filter: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A string that is empty, or too long for the protocol.
    #[error("source `{source_name}`: the {what} must have 1 to {max} bytes, and has {got}")]
    Length {
        /// The source's name.
        source_name: String,
        /// Which string.
        what: &'static str,
        /// Its length in bytes.
        got: usize,
        /// The most it may have.
        max: usize,
    },
    /// A keep-alive out of range.
    #[error("source `{source_name}`: keep-alive is {got:?}; it must be from 5 s to 65535 s")]
    KeepAlive {
        /// The source's name.
        source_name: String,
        /// As configured.
        got: Duration,
    },
    /// A window of no message.
    #[error(
        "source `{source_name}`: in-flight is 0; it must be what the broker allows, at least 1"
    )]
    InFlight {
        /// The source's name.
        source_name: String,
    },
}

impl Subscription {
    /// Whether the filter is one.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let filter = self.filter.as_str();
        if filter.len() > STRING_BYTES {
            return Err("it is longer than 65535 bytes");
        }
        if filter.contains('\0') {
            return Err("it contains a zero byte");
        }
        let levels = match filter.strip_prefix("$share/") {
            Some(shared) => {
                let (group, levels) = shared
                    .split_once('/')
                    .ok_or("a shared subscription is `$share/group/filter`")?;
                if group.is_empty() || group.contains(['+', '#']) {
                    return Err("the group of a shared subscription is a plain word");
                }
                levels
            }
            None => filter,
        };
        if levels.is_empty() {
            return Err("it is empty");
        }
        let mut rest = levels.split('/').peekable();
        while let Some(level) = rest.next() {
            if level.contains('#') && (level != "#" || rest.peek().is_some()) {
                return Err("`#` stands alone, as the last level");
            }
            if level.contains('+') && level != "+" {
                return Err("`+` stands alone in its level");
            }
        }
        Ok(())
    }
}

impl MqttConfig {
    /// How many unacknowledged messages the broker sends.
    #[must_use]
    pub fn receive_window(&self) -> u16 {
        match self.version {
            Version::V311 => self.in_flight,
            Version::V5 => RECEIVE_MAXIMUM,
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let source_name = || self.name.clone();
        if self.subscribe.is_empty() {
            return Err(ConfigError::NoSubscription {
                source_name: source_name(),
            });
        }
        for subscription in &self.subscribe {
            subscription.check().map_err(|reason| ConfigError::Filter {
                source_name: source_name(),
                filter: subscription.filter.clone(),
                reason,
            })?;
        }
        let credentials = self.credentials.as_ref();
        for (what, got) in [
            ("client id", Some(self.client_id.len())),
            ("host", Some(self.host.len())),
            ("user name", credentials.map(|c| c.username.len())),
            (
                "password",
                credentials.and_then(|c| c.password.as_ref()).map(Vec::len),
            ),
        ] {
            if let Some(got) = got
                && !(1..=STRING_BYTES).contains(&got)
            {
                return Err(ConfigError::Length {
                    source_name: source_name(),
                    what,
                    got,
                    max: STRING_BYTES,
                });
            }
        }
        if self.keep_alive < SHORTEST_KEEP_ALIVE || self.keep_alive.as_secs() > u64::from(u16::MAX)
        {
            return Err(ConfigError::KeepAlive {
                source_name: source_name(),
                got: self.keep_alive,
            });
        }
        if self.in_flight == 0 {
            return Err(ConfigError::InFlight {
                source_name: source_name(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, expect: Result<(), &str>) {
        let subscription = Subscription {
            filter: filter.to_owned(),
            qos: Qos::AtLeastOnce,
        };
        match (subscription.check(), expect) {
            (Ok(()), Ok(())) => {}
            (Err(got), Err(part)) if got.contains(part) => {}
            (got, _) => panic!("{filter:?}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn topic_filters() {
        for good in [
            "#",
            "+",
            "/",
            "a//b",
            "plant/+/#",
            "$share/g/a/#",
            "$SYS/#",
            "a b",
        ] {
            check(good, Ok(()));
        }
        check("", Err("empty"));
        check("a\0", Err("zero byte"));
        check("a/#/b", Err("last level"));
        check("a#", Err("last level"));
        check("a/b+", Err("alone in its level"));
        check("$share/g", Err("$share/group/filter"));
        check("$share/g/", Err("empty"));
        check("$share/+/a", Err("plain word"));
    }

    #[test]
    fn a_password_is_never_printed() {
        let credentials = Credentials::new("ann", Some(b"secret".to_vec()));
        let text = format!("{credentials:?}");
        assert!(text.contains("ann") && !text.contains("secret"), "{text}");
        assert!(!text.contains("115"), "{text}");
    }
}
