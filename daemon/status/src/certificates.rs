//! Certificates judged: what runs out, what has run out, and what to do about it.

use crate::format::{absolute, relative};
use crate::verdict::{Finding, Level};
use crate::view::{CertificateRole, CertificateStatus, Snapshot, TlsStatus};

/// Time left to a certificate from which on it is a finding, in milliseconds: 30 days.
const SOON: i64 = 30 * 86_400_000;

/// What is no broker.
const REPOSITORY: &str = "repository";

/// TLS of every source and uplink and of the repository, with what it belongs to and where the page shows it.
pub(crate) fn connections(
    snapshot: &Snapshot,
) -> impl Iterator<Item = (&'static str, &str, String, &TlsStatus)> {
    let sources = snapshot.sources.iter().enumerate().filter_map(|(at, s)| {
        let tls = s.tls.as_ref()?;
        Some(("source", s.name.as_str(), format!("#source-{at}"), tls))
    });
    let uplinks = snapshot.uplinks.iter().enumerate().filter_map(|(at, u)| {
        let tls = u.tls.as_ref()?;
        Some(("uplink", u.name.as_str(), format!("#uplink-{at}"), tls))
    });
    let repository = snapshot.deploy.iter().filter_map(|deploy| {
        let tls = deploy.tls.as_ref()?;
        Some((
            REPOSITORY,
            deploy.repository.as_str(),
            "#deploy".to_owned(),
            tls,
        ))
    });
    sources.chain(uplinks).chain(repository)
}

/// What is wrong at `now`, milliseconds since the epoch.
pub(crate) fn findings(snapshot: &Snapshot, now: i64) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (kind, name, anchor, tls) in connections(snapshot) {
        if let Some(error) = &tls.error {
            findings.push(Finding {
                level: Level::Warn,
                what: format!("The renewed TLS files of {kind} {name} are not used"),
                detail: format!("{error}."),
                hint: "The earlier ones still are, until the next start. Correct the files; they are taken within a minute."
                    .to_owned(),
                anchor: anchor.clone(),
            });
        }
        for role in CertificateRole::ALL {
            findings.extend(expiry(tls, *role, now).map(|(level, expired, certificate)| {
                let whose = whose(kind, *role);
                let verb = if expired { "has expired" } else { "expires soon" };
                let until = certificate.not_after;
                Finding {
                    level,
                    what: format!("{whose} of {kind} {name} {verb}"),
                    detail: format!(
                        "“{}” is valid until {}, {}.",
                        certificate.subject,
                        absolute(until),
                        relative(until, now)
                    ),
                    hint: match role {
                        CertificateRole::Own => "Renew it and put it, with its key, into the files of “cert” and “key”: they are taken within a minute.",
                        CertificateRole::Ca => "Add its successor to the file of “ca” before it expires, and take it out afterwards.",
                        CertificateRole::Server if kind == REPOSITORY => "Renew it at the server.",
                        CertificateRole::Server => "Renew it at the broker.",
                    }
                    .to_owned(),
                    anchor: anchor.clone(),
                }
            }));
        }
    }
    findings
}

/// The certificate of a role that runs out first, if it is time to speak of it, and whether it has run out.
fn expiry(
    tls: &TlsStatus,
    role: CertificateRole,
    now: i64,
) -> Option<(Level, bool, &CertificateStatus)> {
    let of_role = || tls.certificates.iter().filter(|c| c.role == role);
    let first = of_role().min_by_key(|certificate| certificate.not_after)?;
    let left = first.not_after.saturating_sub(now);
    if left >= SOON {
        return None;
    }
    let expired = |certificate: &CertificateStatus| certificate.not_after < now;
    // One CA of several that has expired was perhaps replaced by another.
    let useless = match role {
        CertificateRole::Own | CertificateRole::Server => expired(first),
        CertificateRole::Ca => of_role().all(expired),
    };
    let level = if useless { Level::Bad } else { Level::Warn };
    Some((level, expired(first), first))
}

fn whose(kind: &str, role: CertificateRole) -> &'static str {
    match role {
        CertificateRole::Own => "The gateway's certificate",
        CertificateRole::Ca => "A CA certificate",
        CertificateRole::Server if kind == REPOSITORY => "The server's certificate",
        CertificateRole::Server => "The broker's certificate",
    }
}

impl TlsStatus {
    /// `TLS · own certificate until 2027-01-31 · broker's until 2026-12-24`: of each role the one that expires first.
    pub(crate) fn words(&self) -> String {
        let mut words = "TLS".to_owned();
        for role in CertificateRole::ALL {
            let of_role = self.certificates.iter().filter(|c| c.role == *role);
            if let Some(first) = of_role.map(|c| c.not_after).min() {
                let name = match role {
                    CertificateRole::Own => "own certificate",
                    CertificateRole::Ca => "CA",
                    CertificateRole::Server => "broker's",
                };
                let until = absolute(first);
                let day = until.split(' ').next().unwrap_or_default();
                words.push_str(&format!(" · {name} until {day}"));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::SourceStatus;

    const DAY: i64 = 86_400_000;

    /// Certificates by role and days left; findings by level and beginning.
    fn check(certificates: &[(CertificateRole, i64)], expect: &[(Level, &str)]) {
        let now = 20_000 * DAY;
        let certificates = certificates.iter().map(|(role, days)| CertificateStatus {
            role: *role,
            subject: "gw".to_owned(),
            not_after: now + days * DAY,
        });
        let snapshot = Snapshot {
            sources: vec![SourceStatus {
                name: "plant".to_owned(),
                tls: Some(TlsStatus {
                    certificates: certificates.collect(),
                    error: None,
                }),
                ..SourceStatus::default()
            }],
            ..Snapshot::default()
        };
        let found = findings(&snapshot, now);
        let found: Vec<_> = found.iter().map(|f| (f.level, f.what.as_str())).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn thirty_days_ahead_and_when_it_is_too_late() {
        use CertificateRole::{Ca, Own, Server};
        check(&[(Own, 30), (Ca, 3000), (Server, 31)], &[]);
        check(
            &[(Own, 29), (Server, 0)],
            &[
                (
                    Level::Warn,
                    "The gateway's certificate of source plant expires soon",
                ),
                (
                    Level::Warn,
                    "The broker's certificate of source plant expires soon",
                ),
            ],
        );
        check(
            &[(Own, 90), (Own, -1)],
            &[(
                Level::Bad,
                "The gateway's certificate of source plant has expired",
            )],
        );
        check(
            &[(Server, -400)],
            &[(
                Level::Bad,
                "The broker's certificate of source plant has expired",
            )],
        );
        let ca = "A CA certificate of source plant has expired";
        check(&[(Ca, -1), (Ca, 400)], &[(Level::Warn, ca)]);
        check(&[(Ca, -1), (Ca, -2)], &[(Level::Bad, ca)]);
    }

    #[test]
    fn the_repositorys_are_judged_like_a_brokers() {
        let now = 20_000 * DAY;
        let certificate = |role, days: i64| CertificateStatus {
            role,
            subject: "updates".to_owned(),
            not_after: now + days * DAY,
        };
        let snapshot = Snapshot {
            deploy: Some(crate::view::DeployStatus {
                repository: "https://updates.example/".to_owned(),
                tls: Some(TlsStatus {
                    certificates: vec![
                        certificate(CertificateRole::Own, 3),
                        certificate(CertificateRole::Server, -1),
                    ],
                    error: None,
                }),
                ..crate::view::DeployStatus::default()
            }),
            ..Snapshot::default()
        };
        let found = findings(&snapshot, now);
        let found: Vec<_> = found.iter().map(|f| (f.level, f.what.as_str())).collect();
        let whose = |text| format!("{text} of repository https://updates.example/");
        let (own, server) = (
            whose("The gateway's certificate"),
            whose("The server's certificate"),
        );
        assert_eq!(
            found,
            [
                (Level::Warn, format!("{own} expires soon").as_str()),
                (Level::Bad, format!("{server} has expired").as_str())
            ]
        );
    }
}
