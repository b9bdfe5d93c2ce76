//! TLS of a broker's connection: the keys, and whether the files behind them can be used.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tidegate_tls::{Identity, Part, Role, Tls, TlsConfig, date};

use super::Purpose;
use super::report::Place;
use super::section::{At, Checker, Section};
use crate::{built, identity};

/// What `cert` says for the gateway's own key and certificate. A file of that name is `./identity`.
const OWN: &str = "identity";
/// The keys that speak of TLS.
const KEYS: [&str; 4] = ["ca", "cert", "key", "server-name"];
/// Time left to a certificate at which it is worth saying, in seconds: 30 days.
const SOON: i64 = 30 * 86_400;
/// The ports of MQTT in clear and over TLS, as registered.
pub(super) const PORTS: (u16, u16) = (1883, 8883);

/// Reads the keys of a connection in clear: there must be none.
pub(super) fn none(cx: &mut Checker, section: &mut Section<'_>, clear: &str, over_tls: &str) {
    for key in KEYS {
        if let Some(value) = section.text(cx, key) {
            let message = format!(
                "`{}` without TLS: the url begins with {clear}",
                section.path(key)
            );
            let help = format!("write {over_tls}, or remove the key");
            cx.error(value.place, message, help);
        }
    }
}

/// Reads the keys of a connection of which nothing is known: they are no unknown ones.
pub(super) fn unjudged(cx: &mut Checker, section: &mut Section<'_>) {
    for key in KEYS {
        section.text(cx, key);
    }
}

/// Reads the keys of a connection over TLS to `host`. `None` where an error was reported.
pub(super) fn tls(
    cx: &mut Checker,
    section: &mut Section<'_>,
    owner: String,
    host: &str,
    url: Option<Place>,
) -> Option<TlsConfig> {
    let [ca, cert, key, server_name] = KEYS.map(|name| section.text(cx, name));
    let identity = match (&cert, &key) {
        (None, None) => None,
        (Some(cert), None) if cert.value == OWN => Some(identity::files(&cx.state_dir)),
        (Some(cert), Some(key)) => Some(Identity {
            cert: cx.resolve(&cert.value),
            key: cx.resolve(&key.value),
        }),
        (Some(one), None) | (None, Some(one)) => {
            let (there, missing) = if cert.is_some() {
                ("cert", "key")
            } else {
                ("key", "cert")
            };
            let message = format!(
                "`{}` without `{missing}`: a broker is shown both or neither",
                section.path(there)
            );
            let help = format!(
                "add {missing} = \"FILE\", or remove `{there}`; cert = \"{OWN}\" is the gateway's own, which needs no key"
            );
            cx.missing(one.place, message, help);
            return None;
        }
    };
    let place_of = |part: Part| {
        let written = match part {
            Part::Ca => &ca,
            Part::Cert => &cert,
            Part::Key => &key,
            Part::ServerName => &server_name,
        };
        written.as_ref().and_then(|written| written.place).or(url)
    };
    let config = TlsConfig {
        owner,
        ca: ca.as_ref().map(|ca| cx.resolve(&ca.value)),
        identity,
        server_name: server_name
            .as_ref()
            .map_or_else(|| host.to_owned(), |name| name.value.clone()),
        clock: built::clock(),
    };
    // What starts reads the files again: they may be renewed until then.
    let loaded = match Tls::load(config.clone()) {
        Ok(loaded) => loaded,
        Err(error) if cx.purpose == Purpose::Start && error.part != Part::ServerName => {
            let message = format!(
                "{}: {} does not connect until the files can be used",
                error.what, config.owner
            );
            cx.warning(place_of(error.part), message, error.help);
            return Some(config);
        }
        Err(error) => {
            cx.error(place_of(error.part), error.what, error.help);
            return None;
        }
    };
    if let (Some(identity), Some(key)) = (&config.identity, &key) {
        check_key_mode(cx, key, &identity.key);
    }
    let now = config.clock.seconds();
    for (role, certificate) in loaded.status().certificates {
        let (part, path): (Part, Option<&PathBuf>) = match role {
            Role::Own => (
                Part::Cert,
                config.identity.as_ref().map(|identity| &identity.cert),
            ),
            Role::Ca => (Part::Ca, config.ca.as_ref()),
            Role::Server => continue,
        };
        let file = path.map_or_else(String::new, |path| path.display().to_string());
        let (subject, at) = (certificate.subject, date(certificate.not_after));
        let message = match certificate.not_after - now {
            ..0 => format!("the certificate of `{subject}` in `{file}` expired on {at}"),
            0..SOON => format!("the certificate of `{subject}` in `{file}` expires on {at}"),
            SOON.. => continue,
        };
        let help = "renew it; a running gateway takes the new file within a minute";
        cx.warning(place_of(part), message, help.to_owned());
    }
    Some(config)
}

fn check_key_mode(cx: &mut Checker, written: &At<String>, path: &Path) {
    // It was read a moment ago; whoever took it away meanwhile hears of it at the start.
    let Ok(metadata) = std::fs::metadata(path) else {
        return;
    };
    if metadata.permissions().mode() & 0o007 != 0 {
        let message = format!(
            "the private key `{}` can be read by every user of this machine",
            path.display()
        );
        let help = format!(
            "chmod 600 {}, and have a new one made if others could log in",
            path.display()
        );
        cx.warning(written.place, message, help);
    }
}
