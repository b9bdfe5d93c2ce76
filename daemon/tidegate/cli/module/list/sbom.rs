//! `tidegate module list --sbom`: what the modules of the channel are made of.

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::Value;
use tidegate_deploy::{Device, DeviceConfig};

use super::super::super::{DONE, Failure, Site, say, say_json, status};
use super::{items, text};

/// A module with its bill of materials.
#[derive(Serialize)]
struct Billed<'a> {
    name: &'a str,
    version: &'a str,
    /// Of the component.
    digest: &'a str,
    /// Of the bill.
    sbom: &'a Value,
    /// The bill, CycloneDX; `null` where the module came without one.
    bill: Value,
}

pub(super) fn run(site: &Site, json: bool) -> Result<u8, Failure> {
    let config = site.load()?;
    let Some(deploy) = &config.deploy else {
        return Err(anyhow::anyhow!(
            "no channel is followed, and bills of materials come with its modules: [deploy] is not configured"
        )
        .into());
    };
    let device = Device::new(DeviceConfig {
        root: deploy.root.clone(),
        channel: deploy.channel.clone(),
        dir: config.gateway.state_dir.join("deploy"),
    });
    let answer = status::ask(config.status.listen, "/api/v1/status")?;
    let answer: Value =
        serde_json::from_str(&answer).context("the gateway's answer is not JSON")?;
    let modules = items(&answer["deploy"]["modules"]);
    let billed = modules
        .map(|module| {
            Ok(Billed {
                name: text(&module["name"]),
                version: text(&module["version"]),
                digest: text(&module["digest"]),
                sbom: &module["sbom"],
                bill: match module["sbom"].as_str() {
                    Some(digest) => read(&device, digest)?,
                    None => Value::Null,
                },
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if json {
        say_json(&serde_json::json!({ "items": billed }))?;
        return Ok(DONE);
    }
    if billed.is_empty() {
        say("nothing of the channel is here yet")?;
    }
    for module in &billed {
        print(module)?;
    }
    Ok(DONE)
}

/// A bill by its digest, which it is held to.
fn read(device: &Device, digest: &str) -> anyhow::Result<Value> {
    let bytes = device
        .read(digest)
        .map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let Some(bytes) = bytes else {
        bail!("the bill of materials {digest} is gone or damaged; the next poll fetches it again");
    };
    serde_json::from_slice(&bytes).with_context(|| format!("the bill of materials {digest}"))
}

fn print(module: &Billed<'_>) -> Result<(), Failure> {
    let Billed {
        name,
        version,
        digest,
        bill,
        ..
    } = module;
    say(format_args!("{name} {version}  {digest}"))?;
    if bill.is_null() {
        return say("  came without a bill of materials");
    }
    let about = &bill["metadata"]["component"];
    for license in items(&about["licenses"]) {
        let license = [&license["expression"], &license["license"]["id"]];
        let words = license.into_iter().find_map(Value::as_str);
        say(format_args!("  license   {}", plain(words.unwrap_or("?"))))?;
    }
    for property in items(&about["properties"]) {
        let (name, value) = (text(&property["name"]), text(&property["value"]));
        let name = name.strip_prefix("tidegate:").unwrap_or(name);
        say(format_args!("  {:<9} {}", plain(name), plain(value)))?;
    }
    for part in items(&bill["components"]) {
        // What is excluded made the module and is not in it.
        let role = match text(&part["scope"]) {
            "excluded" => "made by",
            _ => "contains",
        };
        let hash = items(&part["hashes"]).map(|hash| {
            let (kind, value) = (text(&hash["alg"]), text(&hash["content"]));
            format!("  {}:{}", kind.to_lowercase().replace('-', ""), value)
        });
        let hashes: String = hash.collect();
        let of_part = format!("{} {}{hashes}", text(&part["name"]), text(&part["version"]));
        say(format_args!("  {role:<9} {}", plain(of_part.trim_end())))?;
    }
    Ok(())
}

/// Without what a terminal would take for an order: a bill is the publisher's text.
fn plain(text: &str) -> String {
    let shown = |letter: char| {
        if letter.is_control() {
            '\u{fffd}'
        } else {
            letter
        }
    };
    text.chars().map(shown).collect()
}
