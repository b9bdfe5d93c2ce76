//! `tidegate module list`: what stands in every slot of the running gateway, and what is built into the binary.

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use tidegate_pipeline::Manifest;

use super::super::{DONE, Failure, Site, say, say_json, status};
use crate::factory::FACTORY;
use crate::time;

mod sbom;

const PATH: &str = "/api/v1/modules";

#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// The running gateway's slots alone; a failure where none answers
    #[arg(long)]
    running: bool,
    /// What the modules of the channel are made of: the bills of materials (CycloneDX) that came with them
    #[arg(long, conflicts_with = "running")]
    sbom: bool,
    /// Print JSON: the manifests of the factory modules, or with --running what /api/v1/modules answers
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments {
        site,
        running,
        sbom,
        json,
    } = arguments;
    if *sbom {
        return sbom::run(site, *json);
    }
    if *running {
        let body = ask(site)?;
        match json {
            true => say(&body)?,
            false => print(&parse(&body)?)?,
        }
        return Ok(DONE);
    }
    let manifests = factory()?;
    if *json {
        say_json(&manifests)?;
        return Ok(DONE);
    }
    if site.config.exists() {
        match ask(site) {
            Ok(body) => print(&parse(&body)?)?,
            Err(failure) => say(format_args!("{:#}", failure.error))?,
        }
        say("")?;
    }
    say("built in")?;
    for manifest in manifests {
        say(format_args!(
            "  {:<14} {:<8} {}",
            manifest.name, manifest.version, manifest.description
        ))?;
    }
    Ok(DONE)
}

fn factory() -> anyhow::Result<Vec<Manifest>> {
    let modules = FACTORY.iter();
    modules
        .map(|module| {
            Manifest::parse(module.manifest.as_bytes())
                .with_context(|| format!("factory module `{}`", module.name))
        })
        .collect()
}

fn ask(site: &Site) -> Result<String, Failure> {
    let config = site.load()?;
    Ok(status::ask(config.status.listen, PATH)?)
}

fn parse(body: &str) -> anyhow::Result<Value> {
    serde_json::from_str(body).context("the gateway's answer is not JSON")
}

fn print(modules: &Value) -> Result<(), Failure> {
    let origin = |digest: &Value| {
        let mut known = items(&modules["items"]);
        let known = known.find(|module| module["digest"] == *digest);
        known.map_or_else(String::new, origin_words)
    };
    let slots = items(&modules["slots"]);
    for slot in slots.filter(|slot| slot["pipeline"].is_null()) {
        say(format_args!("source {}", text(&slot["source"])))?;
        print_slot(slot, &origin)?;
    }
    for pipeline in items(&modules["rollouts"]) {
        let (name, rollout) = (&pipeline["pipeline"], &pipeline["rollout"]);
        let generation = match text(&pipeline["generation"]) {
            "" => "no filter",
            generation => generation,
        };
        say(format_args!(
            "pipeline {}  {generation}  {}",
            text(name),
            text(&rollout["state"])
        ))?;
        let slots = items(&modules["slots"]);
        for slot in slots.filter(|slot| slot["pipeline"] == *name) {
            print_slot(slot, &origin)?;
        }
        print_rollout(rollout)?;
    }
    Ok(())
}

/// Who answers for a module that is not built in.
fn origin_words(module: &Value) -> String {
    match (text(&module["origin"]), module["signed_by"].as_str()) {
        ("signed", Some(key)) => format!("  signed by {key}"),
        ("local", Some(key)) => format!("  UNSIGNED: {key} is trusted no longer"),
        ("local", None) => "  UNSIGNED".to_owned(),
        ("channel", _) => "  from the channel".to_owned(),
        _ => String::new(),
    }
}

fn print_slot(slot: &Value, origin: &impl Fn(&Value) -> String) -> Result<(), Failure> {
    let name = text(&slot["filter"]);
    let module = |of: &str, module: &Value| {
        (!module.is_null()).then(|| {
            format!(
                "  {name:<14} {of:<10} {} {}  {}{}",
                text(&module["module"]),
                text(&module["version"]),
                text(&module["digest"]),
                origin(&module["digest"])
            )
        })
    };
    let breaker = text(&slot["breaker"]);
    for line in [
        module(breaker, &slot["active"]),
        module(text(&slot["state"]), &slot["candidate"]),
        module("last-good", &slot["last_good"]),
    ] {
        line.map_or(Ok(()), say)?;
    }
    if let Some(error) = slot["last_error"].as_str() {
        let at = slot["last_error_time"].as_i64().map(at);
        say(format_args!(
            "  {name:<14} failed     {}  {error}",
            at.unwrap_or_default()
        ))?;
    }
    Ok(())
}

fn print_rollout(rollout: &Value) -> Result<(), Failure> {
    let candidate = &rollout["candidate"];
    if !candidate.is_null() {
        let heard = match candidate["share"].as_f64() {
            Some(share) => format!(
                "speaks for {} % of the series",
                (share * 1000.0).round() / 10.0
            ),
            None => "heard by nobody".to_owned(),
        };
        say(format_args!(
            "  candidate {}: {heard}; {} of {} readings, {} of {} came out otherwise, {} calls failed (active: {}); {} s left",
            text(&candidate["generation"]),
            candidate["samples"],
            candidate["min_samples"],
            candidate["differing"],
            candidate["compared"],
            total(&candidate["failures"]),
            total(&candidate["active_failures"]),
            candidate["seconds_left"],
        ))?;
    }
    if let Some(good) = rollout["last_good"].as_str() {
        say(format_args!("  last known good {good}"))?;
    }
    let decision = &rollout["decision"];
    if !decision.is_null() {
        let verdict = match decision["reason"].as_str() {
            None => "promoted".to_owned(),
            Some(reason) => format!("put back ({reason})"),
        };
        say(format_args!(
            "  last rollout {} {verdict} {}: {}",
            text(&decision["generation"]),
            decision["time"].as_i64().map(at).unwrap_or_default(),
            text(&decision["why"])
        ))?;
    }
    Ok(())
}

/// A moment given in milliseconds.
fn at(millis: i64) -> String {
    time::show(millis.saturating_mul(1_000_000))
}

fn total(failures: &Value) -> u64 {
    let kinds = failures.as_object().into_iter().flatten();
    kinds.filter_map(|(_, count)| count.as_u64()).sum()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
