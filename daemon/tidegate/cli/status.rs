//! `tidegate status`: what the page says, in a terminal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;

use super::{DONE, Failure, Site, say};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const ANSWER_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    site: Site,
    /// Print the whole state as JSON
    #[arg(long)]
    json: bool,
}

/// Exit code 0 when the daemon answered, whatever it said; 1 when it did not.
pub(super) fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let config = arguments.site.load()?;
    let body = ask(config.status.listen, "/api/v1/status")?;
    if arguments.json {
        say(&body)?;
    } else {
        let status: Value =
            serde_json::from_str(&body).context("the gateway's answer is not JSON")?;
        print(&status)?;
    }
    Ok(DONE)
}

/// What the running gateway answers at a path.
///
/// # Errors
/// None answers at the address.
pub(super) fn ask(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    get(address, path)
        .with_context(|| format!("no gateway answers on {address}: is `tidegate run` running?"))
}

fn print(status: &Value) -> Result<(), Failure> {
    let gateway = &status["gateway"];
    say(format_args!(
        "{} · tidegate {} · {} · up {} s",
        text(&gateway["id"]),
        text(&gateway["version"]),
        text(&gateway["state"]),
        gateway["uptime_seconds"]
    ))?;
    for source in items(&status["sources"]) {
        say(format_args!(
            "source    {:<16} {:<12} {} received, {} quarantined, {:.0}/s{}",
            text(&source["name"]),
            text(&source["state"]),
            source["received"],
            source["quarantined"],
            source["rate"].as_f64().unwrap_or_default(),
            error(source)
        ))?;
    }
    for pipeline in items(&status["pipelines"]) {
        say(format_args!(
            "pipeline  {:<16} {:<12} {} selected, {} stored, {} filtered, {} quarantined",
            text(&pipeline["name"]),
            "",
            pipeline["selected"],
            pipeline["stored"],
            pipeline["filtered"],
            pipeline["quarantined"]
        ))?;
        for filter in items(&pipeline["filters"]) {
            say(format_args!(
                "  filter  {:<16} {:<12} {} {}{}",
                text(&filter["name"]),
                text(&filter["state"]),
                text(&filter["module"]),
                text(&filter["version"]),
                error(filter)
            ))?;
        }
    }
    let store = &status["store"];
    say(format_args!(
        "store     {:<16} {:<12} {} of {} bytes, {} readings held{}",
        "",
        text(&store["state"]),
        store["bytes"],
        store["max_bytes"],
        store["history_rows"],
        error(store)
    ))?;
    for uplink in items(&status["uplinks"]) {
        let age = uplink["oldest_waiting_age_seconds"].as_f64();
        say(format_args!(
            "uplink    {:<16} {:<12} {} delivered, {} waiting{}{}",
            text(&uplink["name"]),
            text(&uplink["state"]),
            uplink["delivered"],
            uplink["waiting"],
            age.map(|seconds| format!(", {seconds:.0} s behind"))
                .unwrap_or_default(),
            error(uplink)
        ))?;
    }
    let deploy = &status["deploy"];
    if deploy.is_object() {
        let install = &deploy["install"];
        let number = |of: &Value| of.as_u64().map(|epoch| format!("epoch {epoch}"));
        say(format_args!(
            "modules   {:<16} {:<12} {} in force, {}{}",
            text(&deploy["channel"]),
            text(&deploy["state"]),
            number(&install["in_force"]).unwrap_or("nothing".to_owned()),
            text(&install["state"]),
            install["waiting"]["reason"]
                .as_str()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default()
        ))?;
    }
    Ok(())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn error(of: &Value) -> String {
    of["last_error"]
        .as_str()
        .map(|error| format!(" · last error: {error}"))
        .unwrap_or_default()
}

/// A GET as in HTTP/1.0: the answer ends with the connection.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES).read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is not HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(
        status.split(' ').nth(1) == Some("200"),
        "the gateway answered `{status}`"
    );
    Ok(body.to_owned())
}
