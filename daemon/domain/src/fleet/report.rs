//! What gateways send up about epochs: `event` items of uplink payload version 1.

use serde::Deserialize;

use super::votes::Vote;
use crate::limits;

/// What a gateway says of an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who says it.
    pub gateway: String,
    /// The channel.
    pub channel: String,
    /// The epoch.
    pub epoch: u64,
    /// What became of it.
    pub vote: Vote,
    /// Its modules, by name: version and digest.
    pub modules: Vec<Module>,
    /// Why, for people.
    pub reason: String,
}

/// A module of an epoch, as a gateway names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Of its component.
    pub digest: String,
}

/// Why a message says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// No payload of ours.
    #[error("it is no uplink payload: {0}")]
    Json(#[from] serde_json::Error),
    /// Longer than what is read.
    #[error("it has {0} bytes, {most} are read", most = limits::FLEET_MESSAGE_BYTES)]
    Size(usize),
    /// A payload of a later version.
    #[error("it is a payload of version {0}, this is for version 1")]
    Version(u64),
    /// It came by the topic of another gateway.
    #[error("it says that it is of gateway `{says}`, and came by the topic of `{topic}`")]
    Gateway {
        /// Whose topic.
        topic: String,
        /// Who the payload says it is.
        says: String,
    },
}

#[derive(Deserialize)]
struct Payload {
    v: u64,
    gateway: String,
    #[serde(default)]
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: String,
    #[serde(default)]
    data: serde_json::Value,
}

#[derive(Deserialize)]
struct About {
    channel: String,
    epoch: u64,
    #[serde(default)]
    modules: Vec<Module>,
    #[serde(default)]
    reason: String,
}

/// The reports in a message that came by the topic of `gateway`; other events are passed over.
///
/// # Errors
/// It is no message of that gateway that can be read. Nothing of it counts.
pub fn reports(gateway: &str, payload: &[u8]) -> Result<Vec<Report>, ReportError> {
    if payload.len() > limits::FLEET_MESSAGE_BYTES {
        return Err(ReportError::Size(payload.len()));
    }
    let payload: Payload = serde_json::from_slice(payload)?;
    if payload.v != 1 {
        return Err(ReportError::Version(payload.v));
    }
    if payload.gateway != gateway || gateway.len() > limits::FLEET_GATEWAY_BYTES {
        return Err(ReportError::Gateway {
            topic: cut(gateway),
            says: cut(&payload.gateway),
        });
    }
    let mut reports = Vec::new();
    for item in payload.items {
        let Some(vote) = Vote::of_event(&item.code) else {
            continue;
        };
        let about: About = serde_json::from_value(item.data)?;
        if about.modules.len() > limits::CHANNEL_MODULES || about.channel.len() > limits::NAME_BYTES
        {
            continue;
        }
        reports.push(Report {
            gateway: gateway.to_owned(),
            channel: about.channel,
            epoch: about.epoch,
            vote,
            modules: about.modules,
            reason: cut(&about.reason),
        });
    }
    Ok(reports)
}

impl Report {
    /// Its modules in one line.
    #[must_use]
    pub fn inventory(&self) -> String {
        let mut modules: Vec<String> = self
            .modules
            .iter()
            .map(|module| format!("{} {}", module.name, module.version))
            .collect();
        modules.sort();
        cut(&modules.join(", "))
    }
}

/// The beginning of a text that others chose, without what would move a terminal's cursor.
fn cut(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    let end = clean.floor_char_boundary(limits::FLEET_TEXT_BYTES);
    clean[..end].to_owned()
}
