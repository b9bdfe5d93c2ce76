//! `tidegate repo publish`, `promote` and `revoke`

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value};
use tidegate_domain::channel::{
    Canary, Name, OnFailure, Release, StagedWave, Version, Wave, WaveGate,
};
use tidegate_pipeline::Manifest;
use tidegate_publish::{Order, Promotion, Published, Revocation, Spread, Stages};

use super::super::Failure;
use super::Common;
use crate::modules;

#[derive(Debug, Args)]
pub(in crate::cli) struct Publish {
    #[command(flatten)]
    common: Common,
    /// The channel; it begins with its first document
    #[arg(long)]
    channel: Name,
    /// A module and its version (repeatable), beside what the channel has; default: the newest of every module in the
    /// repository, pre-releases aside
    #[arg(long = "module", value_name = "NAME=VERSION", value_parser = pair::<Version>)]
    modules: Vec<(Name, Version)>,
    /// A module that the channel has no more (repeatable)
    #[arg(long, value_name = "NAME")]
    without: Vec<Name>,
    /// Settings of a module, a file of JSON (repeatable); default: as before, else the site's own
    #[arg(long, value_name = "NAME=FILE", value_parser = pair::<PathBuf>)]
    settings: Vec<(Name, PathBuf)>,
    #[command(flatten)]
    rollout: Rollout,
    /// Number of the document, above that of the one before; default: the next
    #[arg(long)]
    epoch: Option<u64>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Promote {
    #[command(flatten)]
    common: Common,
    /// The channel to copy
    #[arg(long)]
    from: Name,
    /// The channel that gets it
    #[arg(long)]
    to: Name,
    #[command(flatten)]
    rollout: Rollout,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Revoke {
    #[command(flatten)]
    common: Common,
    /// The channel
    #[arg(long)]
    channel: Name,
    /// The module
    #[arg(long)]
    module: Name,
    /// The least version that may run
    #[arg(long, value_name = "VERSION")]
    minimum: Version,
    /// The version that the gateways go to; default: the channel's, where it is no lower
    #[arg(long, value_name = "VERSION")]
    to: Option<Version>,
}

/// How a document spreads.
#[derive(Debug, Args)]
struct Rollout {
    /// From when on which part of the gateways may take it (repeatable), as in --wave 5%@0s --wave 100%@36h; default: all
    /// at once
    #[arg(long = "wave", value_name = "PERCENT%@TIME", value_parser = wave)]
    waves: Vec<Wave>,
    /// The same by what gateways report (repeatable), as in --staged 0.1%@2h --staged 10%@6h --staged 100%@1d: part of the gateways,
    /// and how long they try at least before `tidegate fleet run` opens the next wave
    #[arg(long = "staged", value_name = "PERCENT%@SOAK", value_parser = staged, conflicts_with = "waves")]
    staged: Vec<StagedWave>,
    /// How many of a wave's gateways may refuse it; more halt it
    #[arg(long, value_name = "PERCENT%", default_value = "2%", value_parser = part, requires = "staged")]
    failures: f64,
    /// How many of a wave's gateways must have taken it before there is a next one
    #[arg(long, value_name = "PERCENT%", default_value = "50%", value_parser = part, requires = "staged")]
    taken: f64,
    /// What follows where it is halted: halt (those that took it keep it), roll-back (all go back to what the channel gave
    /// before), revoke (likewise, and what --replace names takes the place of what was bad, which runs nowhere any more)
    #[arg(long, value_name = "WHAT", default_value = "halt", value_parser = on_failure, requires = "staged")]
    on_failure: OnFailure,
    /// With --on-failure revoke: a version above the published one that is in the repository already and is good (repeatable)
    #[arg(long, value_name = "NAME=VERSION", value_parser = pair::<Version>, requires = "staged")]
    replace: Vec<(Name, Version)>,
    /// How modules are tried, a file of JSON: {"gate":{"mode":"canary","share":0.05,"min_samples":1000,
    /// "time_limit_seconds":3600,"differences":0.01,"latency_factor":4,"memory_factor":2}}, each optional; default: as before, else as
    /// the site says
    #[arg(long, value_name = "FILE")]
    canary: Option<PathBuf>,
}

pub(super) fn publish(arguments: &Publish) -> Result<u8, Failure> {
    let common = &arguments.common;
    let mut repository = common.open()?;
    let mut settings = Vec::new();
    for (name, path) in &arguments.settings {
        settings.push((name.clone(), object(path)?));
    }
    let order = Order {
        channel: arguments.channel.clone(),
        modules: arguments.modules.clone(),
        without: arguments.without.clone(),
        settings,
        spread: arguments.rollout.spread(),
        canary: arguments.rollout.canary()?,
        epoch: arguments.epoch,
    };
    let published = repository.publish(order, &check, &common.keys()?)?;
    common.report(&repository, &published, || words(&published))
}

pub(super) fn promote(arguments: &Promote) -> Result<u8, Failure> {
    let common = &arguments.common;
    let mut repository = common.open()?;
    let order = Promotion {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        spread: arguments.rollout.spread(),
        canary: arguments.rollout.canary()?,
    };
    let published = repository.promote(order, &check, &common.keys()?)?;
    common.report(&repository, &published, || words(&published))
}

pub(super) fn revoke(arguments: &Revoke) -> Result<u8, Failure> {
    let common = &arguments.common;
    let mut repository = common.open()?;
    let order = Revocation {
        channel: arguments.channel.clone(),
        module: arguments.module.clone(),
        minimum: arguments.minimum.clone(),
        to: arguments.to.clone(),
    };
    let published = repository.revoke(order, &common.keys()?)?;
    common.report(&repository, &published, || words(&published))
}

fn words(published: &Published) -> String {
    let mut words = format!("channel {} epoch {}", published.channel, published.epoch);
    for (name, pinned) in &published.modules {
        words.push_str(&format!("\n  {name} {}", pinned.version));
        if let Some(minimum) = &pinned.minimum {
            words.push_str(&format!(", at least {minimum}"));
        }
    }
    words
}

impl Rollout {
    fn spread(&self) -> Spread {
        if self.staged.is_empty() {
            return Spread::Timed(self.waves.clone());
        }
        Spread::Staged(Stages {
            waves: self.staged.clone(),
            gate: WaveGate {
                failures: self.failures,
                taken: self.taken,
            },
            on_failure: self.on_failure,
            replace: self.replace.iter().cloned().collect(),
        })
    }

    fn canary(&self) -> Result<Option<Canary>, Failure> {
        let Some(path) = &self.canary else {
            return Ok(None);
        };
        let bytes = modules::read_bounded(path)?;
        let canary = serde_json::from_slice(&bytes);
        Ok(Some(canary.with_context(|| format!("{}", path.display()))?))
    }
}

/// As a gateway would judge them.
fn check(release: &Release, settings: &Map<String, Value>) -> Result<(), String> {
    let manifest = Value::Object(release.manifest.clone()).to_string();
    let manifest = Manifest::parse(manifest.as_bytes()).map_err(|error| error.to_string())?;
    let problems = manifest.settings_problems(&Value::Object(settings.clone()));
    if problems.is_empty() {
        return Ok(());
    }
    Err(problems.join("; "))
}

fn object(path: &std::path::Path) -> Result<Map<String, Value>, Failure> {
    let bytes = modules::read_bounded(path)?;
    let settings = serde_json::from_slice(&bytes);
    Ok(settings.with_context(|| format!("{}: settings are a JSON object", path.display()))?)
}

fn pair<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(Name, T), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let name = name.parse().map_err(|error| format!("{error}"))?;
    Ok((name, value.parse().map_err(|error| format!("{error}"))?))
}

fn wave(text: &str) -> Result<Wave, String> {
    let parts = text.split_once("%@");
    let wave = parts.and_then(|(percent, after)| {
        let percent = percent.parse().ok()?;
        let after = Wave::time(after)?;
        Some(Wave { percent, after })
    });
    wave.ok_or_else(|| {
        "a wave is 0.01 to 100 percent and a time in s, m, h or d of at most 90 days, as in 5%@36h"
            .to_owned()
    })
}

fn staged(text: &str) -> Result<StagedWave, String> {
    let Wave { percent, after } = wave(text)?;
    Ok(StagedWave {
        percent,
        soak: after,
    })
}

/// A part of 1, written in percent.
fn part(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.strip_suffix('%').and_then(|text| text.parse().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Ok(percent / 100.0),
        Some(_) | None => Err("a part is 0% to 100%, as in 2%".to_owned()),
    }
}

fn on_failure(text: &str) -> Result<OnFailure, String> {
    let all = [OnFailure::Halt, OnFailure::RollBack, OnFailure::Revoke];
    let mut found = all.into_iter().filter(|one| one.as_str() == text);
    found
        .next()
        .ok_or_else(|| "what follows is halt, roll-back or revoke".to_owned())
}
