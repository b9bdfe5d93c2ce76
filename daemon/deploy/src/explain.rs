//! What tough's errors mean, which file they are about, and what to do.

use std::error::Error as _;

use jiff::Timestamp as Time;
use tough::error::Error;
use tough::schema::RoleType;

use crate::refusal::{Kind, Refusal};
use crate::verify::Now;

const PUBLISH: &str =
    "what runs goes on running; the publisher or the server has to put the right file back";

pub(crate) fn rollback(role: &str, found: u64, before: u64) -> Refusal {
    Refusal::new(
        Kind::Rollback,
        &format!("metadata/{role}.json"),
        format!("rollback: its version is {found}, and version {before} was verified before"),
        "an old copy is being served, by mistake or by somebody who wants an old fault back: publish anew with higher versions",
    )
}

pub(crate) fn expired(role: &str, at: Time, now: Now) -> Refusal {
    let clock = if now.set {
        format!("the clock shows {:.0}", now.time)
    } else {
        format!(
            "the clock is not set, and this program was built on {:.0}",
            now.time
        )
    };
    let help = if role == "timestamp" {
        "what runs goes on running; `tidegate repo refresh` by the publisher renews it, and where that was done an old copy \
         is being served"
    } else {
        "what runs goes on running; the publisher has to sign and publish it anew"
    };
    Refusal::new(
        Kind::Expired,
        &format!("metadata/{role}.json"),
        format!("it expired on {at:.0}, so that nothing new is installed ({clock})"),
        help,
    )
}

/// What an error of tough means.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "of its hundred errors those that a repository can cause are named"
)]
pub(crate) fn tough(error: &Error) -> Refusal {
    match error {
        Error::OlderMetadata {
            role: RoleType::Root,
            current_version,
            new_version,
            ..
        } => Refusal::new(
            Kind::Mixed,
            "metadata/root.json",
            format!(
                "the root after version {current_version} has version {new_version}: one was left out"
            ),
            "every N.root.json has to stay in the repository; put them all back",
        ),
        Error::OlderMetadata {
            role,
            current_version,
            new_version,
            ..
        } => rollback(name(*role), *new_version, *current_version),
        Error::OlderSnapshotInTimestamp {
            snapshot_new,
            snapshot_old,
            ..
        } => rollback("snapshot", *snapshot_new, *snapshot_old),
        Error::SnapshotRoleRollback {
            role,
            old_role_version,
            new_role_version,
            ..
        } => rollback(
            role.trim_end_matches(".json"),
            *new_role_version,
            *old_role_version,
        ),
        Error::SnapshotRoleMissing { role, .. } => Refusal::new(
            Kind::Rollback,
            "metadata/snapshot.json",
            format!("it no longer names {role}, which it named before"),
            PUBLISH,
        ),
        Error::VersionMismatch {
            role,
            fetched,
            expected,
            ..
        } => Refusal::new(
            Kind::Mixed,
            &format!("metadata/{}.json", name(*role)),
            format!(
                "its version is {fetched}, and version {expected} was signed: files of two publications are mixed"
            ),
            PUBLISH,
        ),
        Error::VerifyMetadata { role, source, .. } => Refusal::new(
            Kind::Signatures,
            &format!("metadata/{}.json", name(*role)),
            format!("it is not signed as it has to be: {source}"),
            "nothing of it is believed: it was changed, or signed with keys that this device was never told of",
        ),
        Error::VerifyTrustedMetadata { source, .. } => Refusal::new(
            Kind::Local,
            "root.json",
            format!("the trusted root does not bear its own signatures: {source}"),
            "put the publisher's root.json where `deploy.root` says",
        ),
        Error::MaxUpdatesExceeded { .. } => Refusal::new(
            Kind::Fetch,
            "metadata/root.json",
            error.to_string(),
            "give the device a newer `deploy.root`",
        ),
        Error::ParseMetadata { role, source, .. } => Refusal::new(
            Kind::Malformed,
            &format!("metadata/{}.json", name(*role)),
            format!("it is no metadata: {source}"),
            PUBLISH,
        ),
        Error::Transport { url, source, .. } => transport(url, source),
        other => Refusal::new(Kind::Malformed, "metadata", other.to_string(), PUBLISH),
    }
}

/// Our own errors were taken before: what is left are files that are missing, and bounds and digests that tough judges.
fn transport(url: &url::Url, error: &tough::TransportError) -> Refusal {
    let file = url.path().trim_start_matches('/');
    if error.kind() == tough::TransportErrorKind::FileNotFound {
        return Refusal::new(
            Kind::Fetch,
            file,
            "there is no such file",
            "look at `deploy.repository`: it names the folder that holds metadata/ and targets/",
        );
    }
    let cause = error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string);
    let what = match error.source().and_then(|cause| cause.downcast_ref()) {
        Some(Error::HashMismatch {
            calculated,
            expected,
            ..
        }) => format!("its digest is {calculated}, and {expected} was signed"),
        Some(Error::MaxSizeExceeded { max_size, .. }) => {
            format!("its length is above the {max_size} bytes that were signed")
        }
        Some(_) | None => cause,
    };
    Refusal::new(Kind::Content, file, what, PUBLISH)
}

fn name(role: RoleType) -> &'static str {
    match role {
        RoleType::Root => "root",
        RoleType::Snapshot => "snapshot",
        RoleType::Targets | RoleType::DelegatedTargets => "targets",
        RoleType::Timestamp => "timestamp",
    }
}
