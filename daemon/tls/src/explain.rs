//! What an error of TLS means to whoever has to do something about it.

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::TlsConfig;
use crate::certificate;
use crate::clock::Clock;

/// A clock so far past the program's build is taken to be wrong before the certificates are: 20 years, in seconds.
const FAR: u64 = 20 * 365 * 86_400;

/// What has to be known to give advice.
pub(crate) struct Circumstances<'a> {
    server_name: &'a str,
    /// Whose signature counts.
    trust: String,
    identity: bool,
    clock: &'a Clock,
}

impl<'a> Circumstances<'a> {
    pub(crate) fn of(config: &'a TlsConfig) -> Self {
        Self {
            server_name: &config.server_name,
            trust: match &config.ca {
                Some(path) => format!("`{}`", path.display()),
                None => "this system".to_owned(),
            },
            identity: config.identity.is_some(),
            clock: &config.clock,
        }
    }
}

/// An error of a connection, where TLS has to do with it.
pub(crate) fn io(error: &io::Error, at: &Circumstances<'_>) -> Option<String> {
    let error = error.get_ref()?.downcast_ref()?;
    Some(tls(error, at))
}

/// An error of the handshake, which always has.
pub(crate) fn handshake(error: &io::Error, at: &Circumstances<'_>) -> String {
    io(error, at)
        .unwrap_or_else(|| format!("the broker broke the handshake off ({error}); {PLAIN}"))
}

/// What brokers in clear do with a handshake is to hang up.
const PLAIN: &str = "perhaps the port is that of plain MQTT (TLS is usually on 8883)";

fn tls(error: &Error, at: &Circumstances<'_>) -> String {
    if let Error::InvalidCertificate(error) = error {
        return refused(error, at);
    }
    if let Error::AlertReceived(alert) = error
        && let Some(text) = alerted(*alert, at)
    {
        return text;
    }
    if let Error::InvalidMessage(_) = error {
        return format!("what answers there does not speak TLS; {PLAIN}");
    }
    if let Error::PeerIncompatible(
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
    ) = error
    {
        return TOO_OLD.to_owned();
    }
    format!("TLS failed: {error}")
}

const TOO_OLD: &str = "the broker speaks neither TLS 1.2 nor 1.3; older versions are not safe and not spoken here: update the broker, or allow them in its configuration";

fn refused(error: &CertificateError, at: &Circumstances<'_>) -> String {
    if let CertificateError::ExpiredContext { not_after, .. } = error {
        return format!(
            "the broker's certificate, or one that signed it, expired on {}; {}",
            show(*not_after),
            clock(at.clock, "renew it at the broker")
        );
    }
    if let CertificateError::NotValidYetContext { not_before, .. } = error {
        return format!(
            "the broker's certificate, or one that signed it, is not valid before {}; {}",
            show(*not_before),
            clock(at.clock, "look at the broker's certificate")
        );
    }
    if let CertificateError::NotValidForNameContext { presented, .. } = error {
        let presented = if presented.is_empty() {
            "no name at all (a common name does not count)".to_owned()
        } else {
            let names = presented.iter().map(|name| format!("`{}`", bare(name)));
            names.collect::<Vec<_>>().join(", ")
        };
        return format!(
            "the broker's certificate is not for `{}` but for {presented}: correct `url`, or name the one to expect with `server-name`",
            at.server_name
        );
    }
    if let CertificateError::UnknownIssuer = error {
        return format!(
            "nobody whom {} trusts has signed the broker's certificate: name the certificate of the CA that did with `ca`",
            at.trust
        );
    }
    format!("the broker's certificate is not accepted: {error}")
}

/// webpki shows names as it has them: `DnsName("broker.lan")`, `IpAddress(…)`. What they hold is the broker's text.
fn bare(name: &str) -> String {
    let inner = name
        .strip_prefix("DnsName(\"")
        .and_then(|rest| rest.strip_suffix("\")"));
    inner.unwrap_or(name).escape_debug().to_string()
}

/// Every judgement of time is one of the clock as well.
fn clock(clock: &Clock, otherwise: &str) -> String {
    let shows = show(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        clock.shows(),
    )));
    if clock.is_unset() {
        return format!(
            "this gateway's clock says {shows} and was never set, but that was before this program was built: {otherwise}"
        );
    }
    if clock.since_built() > FAR {
        let years = clock.since_built() / (365 * 86_400);
        return format!(
            "this gateway's clock says {shows}, {years} years after this program was built, and is probably wrong: set it"
        );
    }
    format!("this gateway's clock says {shows}: set it if that is wrong, otherwise {otherwise}")
}

/// What the broker says about us.
fn alerted(alert: AlertDescription, at: &Circumstances<'_>) -> Option<String> {
    let refusals = [
        AlertDescription::CertificateRequired,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
    ];
    if refusals.contains(&alert) {
        return Some(if at.identity {
            format!(
                "the broker refused this gateway's certificate ({alert:?}): `cert` must be valid and signed by a CA that the broker trusts"
            )
        } else {
            format!(
                "the broker wants a certificate of this gateway ({alert:?}): name it with `cert` and `key`"
            )
        });
    }
    if alert == AlertDescription::HandshakeFailure && !at.identity {
        return Some(
            "the broker broke the handshake off (HandshakeFailure): perhaps it wants a certificate; name it with `cert` and `key`"
                .to_owned(),
        );
    }
    (alert == AlertDescription::ProtocolVersion).then(|| TOO_OLD.to_owned())
}

fn show(at: UnixTime) -> String {
    certificate::date(i64::try_from(at.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use super::*;

    const BUILT: u64 = 1_800_000_000;

    fn check(change: impl FnOnce(&mut TlsConfig), error: Error, parts: &[&str]) {
        let mut config = TlsConfig {
            owner: "source plant".to_owned(),
            ca: Some(PathBuf::from("/etc/ca.pem")),
            identity: None,
            server_name: "broker.lan".to_owned(),
            clock: Clock::fixed(BUILT, || BUILT + 3600),
        };
        change(&mut config);
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        let text = io(&error, &Circumstances::of(&config)).unwrap();
        for part in parts {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
    }

    fn expired() -> Error {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        Error::InvalidCertificate(CertificateError::ExpiredContext {
            time: at(BUILT),
            not_after: at(1_795_737_600),
        })
    }

    #[test]
    fn who_has_to_do_what() {
        check(
            |_| (),
            expired(),
            &[
                "expired on 2026-11-27 00:00 UTC",
                "clock says 2027-01-15 09:00 UTC",
                "set it if that is wrong, otherwise renew",
            ],
        );
        check(
            |config| config.clock = Clock::fixed(BUILT, || 60),
            expired(),
            &["clock says 1970-01-01 00:01 UTC and was never set"],
        );
        check(
            |config| config.clock = Clock::fixed(BUILT, || BUILT * 2),
            expired(),
            &["clock says 2084-", "57 years after", "set it"],
        );
        let name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("broker.lan").unwrap(),
            presented: vec!["DnsName(\"other.lan\")".to_owned()],
        };
        check(
            |_| (),
            Error::InvalidCertificate(name),
            &["not for `broker.lan` but for `other.lan`", "`server-name`"],
        );
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        check(|_| (), unknown(), &["`/etc/ca.pem`", "`ca`"]);
        check(|config| config.ca = None, unknown(), &["this system"]);
        check(
            |_| (),
            Error::AlertReceived(AlertDescription::CertificateRequired),
            &["wants a certificate", "`cert` and `key`"],
        );
        check(
            |_| (),
            Error::AlertReceived(AlertDescription::ProtocolVersion),
            &["neither TLS 1.2 nor 1.3"],
        );
        check(
            |_| (),
            Error::AlertReceived(AlertDescription::InternalError),
            &["TLS failed", "InternalError"],
        );
    }

    #[test]
    fn an_error_of_the_line_is_left_alone() {
        let clock = Clock::new(BUILT);
        let at = Circumstances {
            server_name: "broker",
            trust: String::new(),
            identity: false,
            clock: &clock,
        };
        let reset = io::ErrorKind::ConnectionReset.into();
        assert_eq!(io(&reset, &at), None);
        // During the handshake it is the answer of a broker that does not know TLS.
        assert!(handshake(&reset, &at).contains("plain MQTT"));
    }
}
