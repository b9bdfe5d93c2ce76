//! What sources and uplinks over MQTT have in common: the broker's address, who we are there, topics.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::model::{Broker, MqttVersion, Secret};
use super::report::Place;
use super::section::{At, Checker, Section};
use super::{tls, units};

/// Bytes of a topic filter; the protocol's bound on every string.
const TOPIC_BYTES: usize = 65_535;
/// Bytes of a client id. The protocol promises 23; brokers in use take far more.
const CLIENT_ID_BYTES: usize = 256;
/// Bytes of a secret's file. A longer one is not a secret.
const SECRET_BYTES: u64 = 64 * 1024;
/// Default silence before a ping: a dead line is noticed within 45 s.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Below it a busy machine looks like a dead one.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(5);
/// Brokers beside the first one.
const FAILOVERS_MAX: usize = 8;
/// The protocol counts it in 16 bits of seconds.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(65_535);

/// A client id, the broker it is used at and where that was written.
pub(super) struct Identity {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) client_id: String,
    pub(super) owner: String,
    pub(super) place: Option<Place>,
}

/// Reads the keys that say how to reach and greet a broker.
pub(super) fn broker(
    cx: &mut Checker,
    section: &mut Section<'_>,
    owner: String,
    default_version: &'static str,
    default_client_id: &str,
) -> Option<Broker> {
    let url = section.text_required(
        cx,
        "url",
        "write the broker's address, as in url = \"mqtt://127.0.0.1:1883\"",
    );
    let address = url.as_ref().and_then(|url| match parse_url(&url.value) {
        Ok(address) => Some(address),
        Err((message, help)) => {
            cx.error(url.place, message, help);
            None
        }
    });
    let place = url.as_ref().and_then(|url| url.place);
    // Without an address nothing is known of TLS, and a guess would only add to the errors.
    let tls = match &address {
        Some(address) if address.tls => tls::tls(cx, section, owner, &address.host, place),
        Some(_) => {
            tls::none(cx, section, "mqtt://", "mqtts:// in `url`");
            None
        }
        None => {
            tls::unjudged(cx, section);
            None
        }
    };
    if let Some(address) = &address {
        check_port(cx, address, place);
    }
    let version = section.choice(
        cx,
        "version",
        &[("3.1.1", MqttVersion::V311), ("5", MqttVersion::V5)],
        default_version,
    );
    let client_id = section.text_or(cx, "client-id", default_client_id);
    check_client_id(cx, &client_id);
    let username = section.text(cx, "username");
    if let Some(username) = username
        .as_ref()
        .filter(|username| username.value.is_empty())
    {
        let message = format!("`{}` is empty", section.path("username"));
        let help = "write the user's name, or remove the key";
        cx.error(username.place, message, help.to_owned());
    }
    let password = password(cx, section, username.is_some());
    let keep_alive = seconds(
        cx,
        section,
        "keep-alive",
        KEEP_ALIVE_MIN..=KEEP_ALIVE_MAX,
        KEEP_ALIVE,
    );
    let address = address?;
    if address.tls && tls.is_none() {
        return None;
    }
    let (password, password_file) = password.unzip();
    Some(Broker {
        host: address.host,
        port: address.port,
        tls,
        version: version?,
        client_id: client_id.value,
        username: username.map(|username| username.value),
        password,
        password_file,
        keep_alive: keep_alive.value,
    })
}

/// The addresses of further brokers for the same messages.
pub(super) fn failover(
    cx: &mut Checker,
    section: &mut Section<'_>,
    first: Option<&Broker>,
) -> Vec<(String, u16)> {
    let key = "failover";
    let path = section.path(key);
    let texts = section.texts(cx, key).unwrap_or_default();
    if texts.len() > FAILOVERS_MAX {
        let message = format!("`{path}` names more than {FAILOVERS_MAX} brokers");
        let help = "an outage is tried through all of them in turn: name the best";
        cx.missing(section.key_place(key), message, help.to_owned());
    }
    let mut addresses: Vec<(String, u16)> = Vec::new();
    for text in texts.into_iter().take(FAILOVERS_MAX) {
        match parse_url(&text.value) {
            Ok(address) => {
                if first.is_some_and(|first| first.tls.is_some() != address.tls) {
                    let message = format!("`{}` and `url` are not of one scheme", text.value);
                    let help = "user, password and files are the same for all brokers: write mqtts:// everywhere or nowhere";
                    cx.error(text.place, message, help.to_owned());
                }
                let address = (address.host, address.port);
                let is_first = first.is_some_and(|first| {
                    (first.host.as_str(), first.port) == (&address.0, address.1)
                });
                if is_first || addresses.contains(&address) {
                    let message = format!("`{}` is named twice", text.value);
                    let help = "a broker has one turn in each round: name another, or remove it";
                    cx.error(text.place, message, help.to_owned());
                } else {
                    addresses.push(address);
                }
            }
            Err((message, help)) => cx.error(text.place, message, help),
        }
    }
    addresses
}

/// A duration that the protocol counts in seconds.
pub(super) fn seconds(
    cx: &mut Checker,
    section: &mut Section<'_>,
    key: &'static str,
    range: std::ops::RangeInclusive<Duration>,
    default: Duration,
) -> At<Duration> {
    let value = section.duration_or(cx, key, range, default);
    if value.value.subsec_nanos() != 0 {
        let message = format!("`{}` is no whole number of seconds", section.path(key));
        let help = format!(
            "MQTT counts it in seconds: write \"{}s\"",
            value.value.as_secs() + 1
        );
        cx.error(value.place, message, help);
    }
    value
}

/// Two connections with one client id push each other off the broker for ever.
pub(super) fn check_identities(cx: &mut Checker, identities: &[Identity]) {
    for (index, one) in identities.iter().enumerate() {
        let same = identities.iter().take(index).find(|other| {
            other.client_id == one.client_id && other.host == one.host && other.port == one.port
        });
        if let Some(other) = same {
            let message = format!(
                "{} and {} have the same client id `{}` at the same broker",
                other.owner, one.owner, one.client_id
            );
            let help = "each would push the other off: give one of them another `client-id`";
            cx.error(one.place, message, help.to_owned());
        }
    }
}

/// Reads a file with a secret; a line end after it does not belong to it.
pub(super) fn secret_file(cx: &mut Checker, written: &At<String>) -> Option<Vec<u8>> {
    let path = cx.resolve(&written.value);
    let (bytes, mode) = match read_secret(&path) {
        Ok(read) => read,
        Err(error) => {
            let message = format!("cannot read `{}`: {error}", path.display());
            let help = "the file holds the secret alone and must be readable by the user that runs tidegate";
            cx.error(written.place, message, help.to_owned());
            return None;
        }
    };
    if bytes.is_empty() {
        let message = format!("`{}` is empty", path.display());
        cx.error(
            written.place,
            message,
            "write the secret into it".to_owned(),
        );
        return None;
    }
    if mode & 0o007 != 0 {
        let message = format!(
            "`{}` can be read by every user of this machine",
            path.display()
        );
        let help = format!("chmod 600 {}", path.display());
        cx.warning(written.place, message, help);
    }
    Some(bytes)
}

/// A topic filter of MQTT 3.1.1 and 5; what is wrong with it otherwise.
pub(super) fn check_filter(filter: &str) -> Result<(), String> {
    if filter.is_empty() {
        return Err("it is empty".to_owned());
    }
    if filter.len() > TOPIC_BYTES {
        return Err(format!("it is longer than {TOPIC_BYTES} bytes"));
    }
    if filter.contains('\0') {
        return Err("it holds the character U+0000".to_owned());
    }
    let filter = match filter.strip_prefix("$share/") {
        None => filter,
        Some(shared) => {
            let (group, filter) = shared.split_once('/').unwrap_or((shared, ""));
            if group.is_empty() || group.contains(['+', '#']) {
                return Err(
                    "a shared subscription is `$share/GROUP/FILTER`, without + and # in the group"
                        .to_owned(),
                );
            }
            if filter.is_empty() {
                return Err(
                    "a shared subscription is `$share/GROUP/FILTER`: the filter is missing"
                        .to_owned(),
                );
            }
            filter
        }
    };
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') {
            if level != "#" {
                return Err(format!(
                    "`#` must be a level of its own, but stands in `{level}`"
                ));
            }
            if levels.peek().is_some() {
                return Err("`#` must be the last level".to_owned());
            }
        }
        if level.contains('+') && level != "+" {
            return Err(format!(
                "`+` must be a level of its own, but stands in `{level}`"
            ));
        }
    }
    Ok(())
}

/// Whether a broker would deliver a topic to a subscription.
pub(super) fn filter_matches(filter: &str, topic: &str) -> bool {
    let filter = match filter.strip_prefix("$share/") {
        Some(shared) => shared.split_once('/').map_or("", |(_, filter)| filter),
        None => filter,
    };
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(name) if level == "+" || level == name => {}
            Some(_) | None => return false,
        }
    }
    topic.next().is_none()
}

/// Where a broker is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The broker's address in a url of the command line; otherwise what is wrong and what to do.
#[cfg(feature = "publish")]
pub(crate) fn broker_address(url: &str) -> Result<Address, String> {
    parse_url(url).map_err(|(message, help)| format!("{message}; {help}"))
}

/// A secret that a file holds alone.
#[cfg(feature = "publish")]
pub(crate) fn secret(path: &Path) -> std::io::Result<Vec<u8>> {
    Ok(read_secret(path)?.0)
}

/// The address in `mqtt://host[:port]` or `mqtts://host[:port]`; otherwise what is wrong and what to do.
fn parse_url(url: &str) -> Result<Address, (String, String)> {
    const FORM: &str =
        "write mqtt://HOST or mqtt://HOST:PORT, as in \"mqtt://127.0.0.1:1883\"; mqtts:// for TLS";
    let fail = |message: String, help: &str| Err((message, help.to_owned()));
    let Some((scheme, rest)) = url.split_once("://") else {
        return fail(format!("`{url}` is no broker's address"), FORM);
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "mqtt" | "tcp" => false,
        "mqtts" | "ssl" | "tls" => true,
        "ws" | "wss" => {
            return fail("MQTT over WebSocket is not supported".to_owned(), FORM);
        }
        _ => {
            return fail(
                format!("`{scheme}://` is no address of an MQTT broker"),
                FORM,
            );
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return fail(
            "user and password do not belong into the address, which is shown on pages and in logs"
                .to_owned(),
            "write username = \"…\" and password-file = \"…\" instead",
        );
    }
    if authority.contains(['/', '?', '#']) {
        return fail("a broker's address has no path".to_owned(), FORM);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once(']') else {
                return fail("the `]` of the IPv6 address is missing".to_owned(), FORM);
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return fail(format!("`{host}` is no IPv6 address"), FORM);
            }
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return fail(format!("`{port}` after the `]` is no port"), FORM),
            }
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return fail(
                    "an IPv6 address stands in brackets".to_owned(),
                    "write mqtt://[::1]:1883",
                );
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(known) {
        return fail(format!("`{host}` is no host name"), FORM);
    }
    let port = match port {
        None if tls => tls::PORTS.1,
        None => tls::PORTS.0,
        Some(text) => match text.parse() {
            Ok(port) if port != 0 => port,
            Ok(_) | Err(_) => {
                return fail(format!("`{text}` is no port"), "ports are 1 to 65535");
            }
        },
    };
    Ok(Address {
        tls,
        host: host.to_owned(),
        port,
    })
}

/// The one mistake that brokers answer with silence.
fn check_port(cx: &mut Checker, address: &Address, place: Option<Place>) {
    let (port, clear, tls) = (address.port, tls::PORTS.0, tls::PORTS.1);
    if address.tls && port == clear {
        let message = format!("mqtts:// on port {port}, where brokers speak MQTT in clear");
        let help = format!("TLS is usually on {tls}");
        cx.warning(place, message, help);
    } else if !address.tls && port == tls {
        let message = format!("mqtt:// on port {port}, where brokers speak TLS");
        let help = "write mqtts://".to_owned();
        cx.warning(place, message, help);
    }
}

fn check_client_id(cx: &mut Checker, id: &At<String>) {
    let help = "leave `client-id` out: the default is stable and unique";
    if id.value.is_empty() {
        let message = "without a client id the broker keeps no session, and messages are lost at every restart";
        cx.error(id.place, message, help.to_owned());
    } else if id.value.len() > CLIENT_ID_BYTES || id.value.chars().any(char::is_control) {
        let message =
            format!("a client id has at most {CLIENT_ID_BYTES} bytes and no control characters");
        cx.error(id.place, message, help.to_owned());
    }
}

/// The password and the file it is in.
fn password(
    cx: &mut Checker,
    section: &mut Section<'_>,
    username: bool,
) -> Option<(Secret<String>, PathBuf)> {
    let file = section.text(cx, "password-file")?;
    if !username {
        let message = format!("`{}` without `username`", section.path("password-file"));
        let help = "MQTT 3.1.1 allows no password without a user: add username = \"…\"";
        cx.missing(section.key_place("password-file"), message, help.to_owned());
    }
    let bytes = secret_file(cx, &file)?;
    let path = cx.resolve(&file.value);
    if let Ok(text) = String::from_utf8(bytes) {
        return Some((Secret::new(text), path));
    }
    let message = format!("`{}` holds no UTF-8 text", path.display());
    let help = "the file holds the password alone";
    cx.error(file.place, message, help.to_owned());
    None
}

fn read_secret(path: &Path) -> std::io::Result<(Vec<u8>, u32)> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > SECRET_BYTES {
        let message = format!("it is larger than {}", units::show_size(SECRET_BYTES));
        return Err(std::io::Error::other(message));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok((bytes, mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let check = |url: &str, expect: Result<(&str, u16), &str>| {
            let found = parse_url(url);
            if let Ok(address) = &found {
                assert_eq!(
                    address.tls,
                    !url.starts_with("mqtt:") && !url.starts_with("tcp:"),
                    "{url}"
                );
            }
            let found = found
                .as_ref()
                .map(|address| (address.host.as_str(), address.port))
                .map_err(|(message, _)| message.as_str());
            assert_eq!(found, expect, "{url}");
        };
        check("mqtt://127.0.0.1:1883", Ok(("127.0.0.1", 1883)));
        check("mqtt://broker.example", Ok(("broker.example", 1883)));
        check("tcp://broker:9/", Ok(("broker", 9)));
        check("mqtt://[::1]:1884", Ok(("::1", 1884)));
        check("mqtt://[fe80::1]", Ok(("fe80::1", 1883)));
        check("mqtts://broker", Ok(("broker", 8883)));
        check("ssl://broker:1883", Ok(("broker", 1883)));
        check("mqtts://[::1]", Ok(("::1", 8883)));
        check(
            "http://broker",
            Err("`http://` is no address of an MQTT broker"),
        );
        check(
            "127.0.0.1:1883",
            Err("`127.0.0.1:1883` is no broker's address"),
        );
        check("mqtt://", Err("`` is no host name"));
        check("mqtt://:1883", Err("`` is no host name"));
        check("mqtt://b:0", Err("`0` is no port"));
        check("mqtt://b:70000", Err("`70000` is no port"));
        check("mqtt://b:", Err("`` is no port"));
        check("mqtt://::1", Err("an IPv6 address stands in brackets"));
        check("mqtt://[::g]", Err("`::g` is no IPv6 address"));
        check("mqtt://[::1", Err("the `]` of the IPv6 address is missing"));
        check("mqtt://b/topic", Err("a broker's address has no path"));
        check("mqtt://a b", Err("`a b` is no host name"));
        check(
            "mqtt://u:p@b",
            Err(
                "user and password do not belong into the address, which is shown on pages and in logs",
            ),
        );
    }

    #[test]
    fn filters_match_as_brokers_match() {
        let check =
            |filter, topic, expect| assert_eq!(filter_matches(filter, topic), expect, "{filter}");
        check("#", "a/b", true);
        check("a/#", "a", true);
        check("a/+/c", "a/b/c", true);
        check("$share/g/a/+", "a/b", true);
        check("a/+", "a/b/c", false);
        check("a/b/c", "a/b", false);
        check("+", "a/b", false);
    }

    #[test]
    fn topic_filters() {
        for filter in [
            "#",
            "+",
            "/",
            "a/+/b/#",
            "$SYS/#",
            "$share/g/a/+",
            "a//b",
            "$share/g/#",
            " ",
        ] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for filter in [
            "",
            "a/#/b",
            "a#",
            "a/b+",
            "+a",
            "##",
            "$share/",
            "$share/g",
            "$share/g/",
            "$share//a",
            "$share/+/a",
            "$share/g/a#",
            "a\0",
        ] {
            assert!(check_filter(filter).is_err(), "{filter}");
        }
    }
}
