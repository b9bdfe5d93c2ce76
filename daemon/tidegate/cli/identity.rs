//! `tidegate identity`: the gateway's key pair, a request for a certificate of it, and the certificate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_audit::Key;
use tidegate_tls::{Certificate, date};

use super::{DONE, Failure, Site, say, say_json};
use crate::audit::identity_dir;
use crate::{control, identity};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print the gateway's name, the fingerprint of its key, and its certificate
    Show(Show),
    /// Print a certificate request (PKCS#10, PEM), which a CA signs
    Request(Request),
    /// Put a certificate in place; a running gateway takes it for its next connections, and makes those it has anew
    Install(Install),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    site: Site,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Request {
    #[command(flatten)]
    site: Site,
    /// Whose certificate it will be, as its common name; by default `gateway.id`
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Install {
    #[command(flatten)]
    site: Site,
    /// The certificate in PEM, then those between it and the CA
    #[arg(value_name = "CERT.pem")]
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Show(arguments) => show(arguments),
        Command::Request(arguments) => request(arguments),
        Command::Install(arguments) => install(arguments),
    }
}

fn show(arguments: &Show) -> Result<u8, Failure> {
    let config = arguments.site.load_with_faults()?;
    let dir = identity_dir(&config.gateway.state_dir);
    let Some(key) = Key::load(&dir)? else {
        return Err(none(&dir));
    };
    let public = key.public();
    let identity = identity::files(&config.gateway.state_dir);
    let certificate = match identity.cert.exists() {
        true => tidegate_tls::check_identity(&identity)?.into_iter().next(),
        false => None,
    };
    if arguments.json {
        say_json(&json!({
            "gateway": config.gateway.id,
            "fingerprint": public.fingerprint(),
            "key": public.to_hex(),
            "key_pem": public.to_pem(),
            "certificate": certificate.as_ref().map(shown),
        }))?;
        return Ok(DONE);
    }
    say(format_args!("gateway      {}", config.gateway.id))?;
    say(format_args!("fingerprint  {}", public.fingerprint()))?;
    say(format_args!("key          {}", public.to_hex()))?;
    match &certificate {
        Some(certificate) => say(format_args!(
            "certificate  of `{}`, until {}",
            certificate.subject,
            date(certificate.not_after)
        )),
        None => say("certificate  none: `tidegate identity request` makes what a CA signs"),
    }?;
    Ok(DONE)
}

fn shown(certificate: &Certificate) -> Value {
    json!({
        "subject": certificate.subject,
        "not_before": certificate.not_before * 1000,
        "not_after": certificate.not_after * 1000,
    })
}

fn request(arguments: &Request) -> Result<u8, Failure> {
    let config = arguments.site.load_with_faults()?;
    let dir = identity_dir(&config.gateway.state_dir);
    // The request may be made before the first boot.
    crate::wiring::make_state_dir(&config.gateway.state_dir)?;
    let (key, is_new) = Key::load_or_make(&dir)?;
    if is_new {
        // Whoever runs this, it is the gateway's.
        for path in [&dir, &Key::path(&dir)] {
            identity::give(&config.gateway.state_dir, path).with_context(|| {
                format!("{} cannot be given to the gateway's user", path.display())
            })?;
        }
    }
    let name = arguments.name.as_ref().unwrap_or(&config.gateway.id);
    // RFC 5280, upper bounds: a common name has 64 letters at most.
    if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        return Err(anyhow::anyhow!(
            "`{name}` is no common name, which has 1 to 64 letters; give another with --name"
        )
        .into());
    }
    let pem = key.request(name);
    if arguments.json {
        let fingerprint = key.public().fingerprint();
        say_json(&json!({ "name": name, "fingerprint": fingerprint, "request": pem }))?;
    } else {
        say(pem.trim_end())?;
    }
    Ok(DONE)
}

fn install(arguments: &Install) -> Result<u8, Failure> {
    let config = arguments.site.load_with_faults()?;
    let state_dir = &config.gateway.state_dir;
    let dir = identity_dir(state_dir);
    if Key::load(&dir)?.is_none() {
        return Err(none(&dir));
    }
    let certificate = identity::judge(state_dir, &arguments.file)?;
    let pem = fs::read_to_string(&arguments.file)
        .with_context(|| format!("{} cannot be read", arguments.file.display()))?;
    // A gateway that runs does it itself, and has it on record before.
    if control::listens(state_dir) {
        control::post(
            state_dir,
            "/api/v1/identity/certificate",
            &json!({ "certificate": pem }),
        )?;
    } else {
        identity::install(state_dir, pem.as_bytes(), || {})?;
    }
    if arguments.json {
        let place = identity::files(state_dir).cert;
        say_json(&json!({ "installed": place, "certificate": shown(&certificate) }))?;
    } else {
        say(format_args!(
            "the certificate of `{}` is installed until {}; connections with cert = \"identity\" show it within a minute",
            certificate.subject,
            date(certificate.not_after)
        ))?;
    }
    Ok(DONE)
}

fn none(dir: &Path) -> Failure {
    Failure::from(anyhow::anyhow!(
        "there is no key in {}: it is made at the first start of the gateway, or by `tidegate identity request`",
        dir.display()
    ))
}
