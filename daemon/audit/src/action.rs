//! What can be recorded, by stable names, and which control of IEC 62443-4-2 each record shows.

use serde::{Serialize, Serializer};

/// What was done, or was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The log begins, with the reason where one was there before.
    AuditBegun,
    /// What a power cut had torn off the log's end was removed.
    AuditRecovered,
    /// The oldest segment made room; its last hash is named.
    AuditTrimmed,
    /// Entries that could not be written, by number.
    AuditLost,
    /// The daemon started.
    DaemonStarted,
    /// The daemon ended, and why.
    DaemonStopped,
    /// A configuration is in force, by its digest.
    ConfigInForce,
    /// A configuration was not taken, and the one before is kept.
    ConfigRefused,
    /// A module from a local file that nobody signed was loaded.
    ModuleUnsigned,
    /// A module from a local file was loaded by the signature of a key that the site trusts.
    ModuleSigned,
    /// A candidate is on trial beside the active generation.
    GenerationTrial,
    /// A generation has become active.
    GenerationActive,
    /// A generation was put back.
    GenerationRolledBack,
    /// A generation was not tried.
    GenerationRefused,
    /// A generation was given other grants than the one before.
    GrantsChanged,
    /// Somebody goes back on a module.
    ModuleRollBack,
    /// Somebody tries a module on copies of live input.
    ModuleTry,
    /// Somebody has the repository looked at, or a folder.
    ModuleUpdate,
    /// Somebody replays rows of quarantine.
    QuarantineReplay,
    /// Somebody discards rows of quarantine.
    QuarantineDrop,
    /// Somebody acknowledges alarms.
    AlarmAcknowledge,
    /// A command came from the cloud.
    Command,
    /// What a channel names was fetched and verified.
    DeployFetched,
    /// What a channel names was not taken.
    DeployRefused,
    /// An epoch of a channel passed its rehearsal, and the pipelines try it.
    EpochBegun,
    /// An epoch is in force everywhere.
    EpochSettled,
    /// An epoch was put back everywhere.
    EpochPutBack,
    /// An epoch did not pass its rehearsal.
    EpochRefused,
    /// An epoch could not be rehearsed by the device's fault, and is tried again; once a reason.
    EpochDelayed,
    /// A request that the page or the control socket refused.
    RequestRefused,
    /// A driver reached for a bus, an address or a line that its source does not hand it.
    DriverRefused,
    /// A key pair was made.
    IdentityMade,
    /// The gateway has a certificate, another one, or none any more.
    IdentityCertificate,
}

/// The kinds of events that CR 2.8 names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// Who may, and who may not.
    AccessControl,
    /// Requests that make no sense.
    RequestErrors,
    /// What the gateway does.
    ControlSystemEvents,
    /// What it is told to be.
    ConfigurationChanges,
    /// What happens to the log itself.
    AuditLogEvents,
}

/// A requirement, and what of this log meets it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Control {
    /// Its number in IEC 62443-4-2.
    pub id: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// How this log meets it, and where it does not.
    pub how: &'static str,
    /// The actions whose records show it; all of them where none is named.
    pub shown_by: &'static [Action],
}

/// Every control that this log is evidence for.
pub const CONTROLS: [Control; 7] = [
    Control {
        id: "CR 2.8",
        name: "Auditable events",
        how: "every entry has time, actor, action (with its category), object, outcome and reason; reading the page and its \
              API is not recorded, and what never reached the gateway (a refused TLS handshake at a broker) is in that \
              broker's log",
        shown_by: &[],
    },
    Control {
        id: "CR 2.9",
        name: "Audit storage capacity",
        how: "16 segments of 512 KiB; the oldest goes when a new one is needed, which is recorded with the hash on which the \
              rest stands; refusals from outside are written at a bounded pace, with the number of those left out",
        shown_by: &[Action::AuditTrimmed],
    },
    Control {
        id: "CR 2.10",
        name: "Response to audit processing failures",
        how: "a log that cannot be written is shown on the page and in metrics; entries wait in memory, what somebody asks \
              for is refused, and the data path and its automatic rollbacks go on; what was lost is recorded by number",
        shown_by: &[
            Action::AuditLost,
            Action::AuditRecovered,
            Action::AuditBegun,
        ],
    },
    Control {
        id: "CR 2.11",
        name: "Timestamps",
        how: "every entry has the wall clock, the monotonic clock with the boot it belongs to, and whether the wall clock was \
              set; order is by number, never by time",
        shown_by: &[],
    },
    Control {
        id: "CR 2.12",
        name: "Non-repudiation",
        how: "every entry is signed by the gateway's key and bound to the one before; an operator is named by the user id that \
              the kernel gives of the control socket's peer and by who logged in; several people who share a user of the \
              machine are one",
        shown_by: &[
            Action::ModuleRollBack,
            Action::ModuleTry,
            Action::ModuleUpdate,
            Action::QuarantineReplay,
            Action::QuarantineDrop,
            Action::AlarmAcknowledge,
            Action::Command,
        ],
    },
    Control {
        id: "EDR 2.4",
        name: "Mobile code",
        how: "every generation of modules that runs, is tried, refused or put back is recorded with versions and digests, and \
              with its grants where they changed; a local file is named with the key that signed it, or as unsigned",
        shown_by: &[
            Action::ModuleUnsigned,
            Action::ModuleSigned,
            Action::ModuleTry,
            Action::GenerationTrial,
            Action::GenerationActive,
            Action::GenerationRolledBack,
            Action::GenerationRefused,
            Action::GrantsChanged,
        ],
    },
    Control {
        id: "EDR 3.10",
        name: "Support for updates",
        how: "what was fetched and verified, and what was refused and why; what its rehearsal and its trial came to, as one epoch; and \
              the generation that came of it",
        shown_by: &[
            Action::DeployFetched,
            Action::DeployRefused,
            Action::EpochBegun,
            Action::EpochSettled,
            Action::EpochPutBack,
            Action::EpochRefused,
            Action::EpochDelayed,
            Action::GenerationActive,
            Action::GenerationRolledBack,
        ],
    },
];

impl Action {
    /// All of them.
    pub const ALL: [Self; 33] = [
        Self::AuditBegun,
        Self::AuditRecovered,
        Self::AuditTrimmed,
        Self::AuditLost,
        Self::DaemonStarted,
        Self::DaemonStopped,
        Self::ConfigInForce,
        Self::ConfigRefused,
        Self::ModuleUnsigned,
        Self::ModuleSigned,
        Self::GenerationTrial,
        Self::GenerationActive,
        Self::GenerationRolledBack,
        Self::GenerationRefused,
        Self::GrantsChanged,
        Self::ModuleRollBack,
        Self::ModuleTry,
        Self::ModuleUpdate,
        Self::QuarantineReplay,
        Self::QuarantineDrop,
        Self::AlarmAcknowledge,
        Self::Command,
        Self::DeployFetched,
        Self::DeployRefused,
        Self::EpochBegun,
        Self::EpochSettled,
        Self::EpochPutBack,
        Self::EpochRefused,
        Self::EpochDelayed,
        Self::RequestRefused,
        Self::DriverRefused,
        Self::IdentityMade,
        Self::IdentityCertificate,
    ];

    /// The name in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// Which kind of event it is.
    #[must_use]
    pub fn category(self) -> Category {
        self.facts().1
    }

    fn facts(self) -> (&'static str, Category) {
        use Category::{
            AccessControl, AuditLogEvents, ConfigurationChanges, ControlSystemEvents, RequestErrors,
        };
        match self {
            Self::AuditBegun => ("audit.begun", AuditLogEvents),
            Self::AuditRecovered => ("audit.recovered", AuditLogEvents),
            Self::AuditTrimmed => ("audit.trimmed", AuditLogEvents),
            Self::AuditLost => ("audit.lost", AuditLogEvents),
            Self::DaemonStarted => ("daemon.started", ControlSystemEvents),
            Self::DaemonStopped => ("daemon.stopped", ControlSystemEvents),
            Self::ConfigInForce => ("config.in-force", ConfigurationChanges),
            Self::ConfigRefused => ("config.refused", ConfigurationChanges),
            Self::ModuleUnsigned => ("module.unsigned", AccessControl),
            Self::ModuleSigned => ("module.signed", AccessControl),
            Self::GenerationTrial => ("generation.trial", ConfigurationChanges),
            Self::GenerationActive => ("generation.active", ConfigurationChanges),
            Self::GenerationRolledBack => ("generation.rolled-back", ConfigurationChanges),
            Self::GenerationRefused => ("generation.refused", ConfigurationChanges),
            Self::GrantsChanged => ("grants.changed", AccessControl),
            Self::ModuleRollBack => ("module.roll-back", ConfigurationChanges),
            Self::ModuleTry => ("module.try", ConfigurationChanges),
            Self::ModuleUpdate => ("module.update", ConfigurationChanges),
            Self::QuarantineReplay => ("quarantine.replay", ControlSystemEvents),
            Self::QuarantineDrop => ("quarantine.drop", ControlSystemEvents),
            Self::AlarmAcknowledge => ("alarm.acknowledge", ControlSystemEvents),
            Self::Command => ("command", ControlSystemEvents),
            Self::DeployFetched => ("deploy.fetched", ConfigurationChanges),
            Self::DeployRefused => ("deploy.refused", AccessControl),
            Self::EpochBegun => ("epoch.begun", ConfigurationChanges),
            Self::EpochSettled => ("epoch.settled", ConfigurationChanges),
            Self::EpochPutBack => ("epoch.put-back", ConfigurationChanges),
            Self::EpochRefused => ("epoch.refused", ConfigurationChanges),
            Self::EpochDelayed => ("epoch.delayed", ConfigurationChanges),
            Self::RequestRefused => ("request.refused", RequestErrors),
            Self::DriverRefused => ("driver.refused", AccessControl),
            Self::IdentityMade => ("identity.made", AccessControl),
            Self::IdentityCertificate => ("identity.certificate", AccessControl),
        }
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
