//! Why a publisher's command fails, and what to do next.

use std::io;
use std::path::PathBuf;

use tidegate_domain::channel::{BadWord, DocumentError};

use crate::metadata::Role;

/// See the crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else is at it.
    #[error("another publisher works on {}; wait until that command has ended, and try again", .0.display())]
    Locked(PathBuf),
    /// Nothing there.
    #[error(
        "{} is no repository, there is no metadata/1.root.json in it; `tidegate repo init` makes one",
        .0.display()
    )]
    None(PathBuf),
    /// One is there already.
    #[error(
        "{} is a repository already, and its gateways know it by its keys; name another directory, or go on with this one",
        .0.display()
    )]
    There(PathBuf),
    /// Bytes that nobody signed, or that are not there.
    #[error(
        "{} is damaged: {problem}; nothing was changed. Put the repository back from a copy that is not older than what \
         gateways have seen", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A role's metadata ran out.
    #[error("the repository's {role} metadata ran out at {at}: {next}")]
    Expired {
        /// The role.
        role: Role,
        /// When.
        at: jiff::Timestamp,
        /// What to do.
        next: &'static str,
    },
    /// Fewer keys than a role's threshold.
    #[error(
        "{threshold} of the keys of {role} have to sign, {found} of them lie in {dirs}; missing: {missing}. Name their \
         directory, too: --keys can be given more than once"
    )]
    TooFewKeys {
        /// The role.
        role: Role,
        /// How many it takes.
        threshold: usize,
        /// How many were found.
        found: usize,
        /// Where.
        dirs: String,
        /// Names of the files that are not there.
        missing: String,
    },
    /// A key's file.
    #[error("the key {}: {problem}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// A version that is out already.
    #[error(
        "{name} {version} is in the repository already with {what}; what was published under a version never changes: \
         raise the version in the manifest or by --version"
    )]
    VersionTaken {
        /// The module.
        name: String,
        /// The version.
        version: String,
        /// What differs.
        what: String,
    },
    /// Something that is not there.
    #[error("{what} is not in the repository; {next}")]
    Unknown {
        /// What.
        what: String,
        /// What is there, or what to do.
        next: String,
    },
    /// An epoch that gateways would refuse.
    #[error(
        "channel `{channel}` is at epoch {now}, and gateways take none that is not above it; leave out --epoch, or name one \
         above {now}"
    )]
    EpochBack {
        /// The channel.
        channel: String,
        /// Where it is.
        now: u64,
    },
    /// A module below what the channel allows.
    #[error("{problem}")]
    Minimum {
        /// Which, and what to do.
        problem: String,
    },
    /// A channel that is no longer where a step begins.
    #[error("channel `{channel}` {problem}: somebody published meanwhile")]
    Moved {
        /// The channel.
        channel: String,
        /// Where it is.
        problem: String,
    },
    /// A channel whose gateways somebody watches already.
    #[error("channel `{channel}` is watched by another `tidegate fleet run` with {}; one is enough, and two would not agree", .dir.display())]
    Watched {
        /// The channel.
        channel: String,
        /// Its state directory.
        dir: PathBuf,
    },
    /// A journal that says nothing sound.
    #[error(
        "{} is damaged at {problem}; to begin anew, move the file away: then only what gateways report from now on counts",
        .path.display()
    )]
    Journal {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        problem: String,
    },
    /// A name that is none.
    #[error(transparent)]
    Word(#[from] BadWord),
    /// A document that gateways would refuse.
    #[error("the document that this makes is not sound: {0}")]
    Document(#[from] DocumentError),
    /// A value that fits nowhere.
    #[error("{0}")]
    Value(String),
}

impl Error {
    /// An error of a file, for `map_err`.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    pub(crate) fn damaged(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        let (path, problem) = (path.into(), problem.to_string());
        Self::Damaged { path, problem }
    }

    pub(crate) fn key(path: impl Into<PathBuf>, problem: impl ToString) -> Self {
        let (path, problem) = (path.into(), problem.to_string());
        Self::Key { path, problem }
    }
}
