//! The judgement of a broker's certificate: that of webpki, at a time that can be relied on.

use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use crate::certificate::Certificate;
use crate::clock::Clock;
use crate::lock;

/// Certificates of one chain whose validity may begin after the last but one. Longer chains are none.
const MOVES: usize = 8;

/// Judges what brokers show, and remembers it.
#[derive(Debug)]
pub(crate) struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
    clock: Clock,
    seen: Arc<Mutex<Option<Certificate>>>,
}

impl Verifier {
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
        name: &ServerName<'static>,
        clock: &Clock,
        seen: &Arc<Mutex<Option<Certificate>>>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        Ok(Self {
            webpki: WebPkiServerVerifier::builder_with_provider(roots, provider).build()?,
            name: name.clone(),
            clock: clock.clone(),
            seen: Arc::clone(seen),
        })
    }
}

impl ServerCertVerifier for Verifier {
    /// `_name` is what the client library dialled. The certificate is for the configured name, which may be another.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = judge(now, self.clock.is_unset(), |at| {
            self.webpki
                .verify_server_cert(leaf, between, &self.name, ocsp, at)
        });
        // One that is refused for its age is worth showing; one that anybody may have made up is not.
        let authentic = match &judged {
            Ok(_) => true,
            Err(error) => matches!(
                error,
                Error::InvalidCertificate(
                    CertificateError::Expired | CertificateError::ExpiredContext { .. }
                )
            ),
        };
        if authentic {
            *lock(&self.seen) = Certificate::read(leaf);
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.webpki.root_hint_subjects()
    }
}

/// Verifies at `now`. Where that is only the earliest time that it can be, a certificate that begins later is judged at
/// its beginning: it is refused when it is certain that it has expired, not because nobody set the clock.
fn judge<T>(
    now: UnixTime,
    earliest: bool,
    verify: impl Fn(UnixTime) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut at = now;
    for _ in 0..MOVES {
        let judged = verify(at);
        if earliest
            && let Err(Error::InvalidCertificate(CertificateError::NotValidYetContext {
                not_before,
                ..
            })) = &judged
            && *not_before > at
        {
            at = *not_before;
        } else {
            return judged;
        }
    }
    verify(at)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn unix(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    /// Judges a chain of validities at a time, the way webpki reports it.
    fn check(now: u64, earliest: bool, chain: &[(u64, u64)], expect: Result<u64, &str>) {
        let judged = judge(unix(now), earliest, |at| {
            for &(from, to) in chain {
                let (not_before, not_after) = (unix(from), unix(to));
                if at < not_before {
                    let error = CertificateError::NotValidYetContext {
                        time: at,
                        not_before,
                    };
                    return Err(Error::InvalidCertificate(error));
                }
                if at > not_after {
                    let error = CertificateError::ExpiredContext {
                        time: at,
                        not_after,
                    };
                    return Err(Error::InvalidCertificate(error));
                }
            }
            Ok(at.as_secs())
        });
        match (judged, expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{chain:?}"),
            (Err(error), Err(part)) => {
                assert!(format!("{error:?}").contains(part), "{error:?}");
            }
            (got, expect) => panic!("{chain:?} at {now}: {got:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_clock_that_is_set_is_believed() {
        check(50, false, &[(10, 90)], Ok(50));
        check(5, false, &[(10, 90)], Err("NotValidYet"));
        check(91, false, &[(10, 90)], Err("Expired"));
    }

    #[test]
    fn a_clock_that_was_never_set_refuses_what_has_certainly_expired_alone() {
        check(50, true, &[(10, 90)], Ok(50));
        check(50, true, &[(60, 90)], Ok(60));
        check(50, true, &[(60, 90), (70, 100), (55, 200)], Ok(70));
        check(50, true, &[(10, 40)], Err("Expired"));
        // No time at which all of the chain is valid.
        check(50, true, &[(60, 90), (95, 100)], Err("Expired"));
        // More beginnings than a chain has certificates: refused, and not looked at for ever.
        let endless: Vec<(u64, u64)> = (60..100).map(|from| (from, 200)).collect();
        check(50, true, &endless, Err("NotValidYet"));
    }
}
