//! `tidegate module update` and `tidegate module import`: a look at a repository, now.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::super::{DONE, Failure, Site, say, say_json};
use crate::control;

/// How long a look may take that somebody waits for. What came is kept when it takes longer, and the gateway goes on.
const PATIENCE: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
pub(in crate::cli) struct Update {
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    site: Site,
    /// The folder that holds metadata/ and targets/
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn update(arguments: &Update) -> Result<u8, Failure> {
    look(&arguments.site, None, arguments.json)
}

pub(super) fn import(arguments: &Import) -> Result<u8, Failure> {
    let path = &arguments.path;
    // The gateway has a working directory of its own.
    let path = path
        .canonicalize()
        .with_context(|| format!("{} cannot be read", path.display()))?;
    look(&arguments.site, Some(&path), arguments.json)
}

fn look(site: &Site, from: Option<&Path>, json: bool) -> Result<u8, Failure> {
    let config = site.load()?;
    let body = json!({ "from": from });
    let state = &config.gateway.state_dir;
    let answer = control::post_within(state, "/api/v1/modules/update", &body, PATIENCE)?;
    if json {
        say_json(&answer)?;
        return Ok(DONE);
    }
    say(format_args!(
        "channel {} has epoch {}{}",
        answer["channel"].as_str().unwrap_or_default(),
        answer["epoch"],
        match answer["news"].as_bool() {
            Some(true) => ", which is new; all of it is verified and here",
            Some(false) | None => ", which was here before",
        }
    ))?;
    for module in answer["modules"].as_array().into_iter().flatten() {
        let text = |key: &str| module[key].as_str().unwrap_or_default().to_owned();
        say(format_args!(
            "  {:<14} {:<8} {}",
            text("name"),
            text("version"),
            text("digest")
        ))?;
        for (what, key) in [("SBOM", "sbom"), ("provenance", "provenance")] {
            if let Value::String(digest) = &module[key] {
                say(format_args!("  {:<14} {what:<8} {digest}", ""))?;
            }
        }
    }
    Ok(DONE)
}
