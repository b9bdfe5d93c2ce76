//! `[deploy]`: where modules come from over the air.

use std::time::Duration;

use tidegate_deploy::Url;
use tidegate_domain::channel::Name;
use tidegate_domain::install::DailyWindow;
use tidegate_domain::limits;

use super::model::{Deploy, Repository, SettingsOf};
use super::pipeline::check_glob;
use super::section::{At, Checker, Section};
use super::tls;
use super::validate::check_path;

const ROOT: &str = "/etc/tidegate/root.json";
const POLL: Duration = Duration::from_mins(15);
const POLL_MIN: Duration = Duration::from_mins(1);
const POLL_MAX: Duration = Duration::from_hours(7 * 24);
const SETTINGS: [(&str, SettingsOf); 2] =
    [("channel", SettingsOf::Channel), ("site", SettingsOf::Site)];
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_mins(10);
/// Below it a poll would not be through before the next.
const RATE_MIN: u64 = 1024;
const RATE_MAX: u64 = 1 << 30;
const HELP: &str =
    "write repository = \"https://updates.example/repo/\" or \"file:///media/usb/repo\"";

/// Reads the section, where there is one.
pub(super) fn deploy(cx: &mut Checker, root: &mut Section<'_>) -> Option<Deploy> {
    let mut section = root.section(cx, "deploy");
    if !section.exists() {
        return None;
    }
    let written = section.text_required(cx, "repository", HELP);
    let repository = match &written {
        Some(written) => repository(cx, &mut section, written),
        None => {
            tls::unjudged(cx, &mut section);
            None
        }
    };
    let root_file = section.text_or(cx, "root", ROOT);
    check_path(cx, &root_file);
    let channel = section.text_or(cx, "channel", "stable");
    let name = channel.value.parse::<Name>();
    if let Err(error) = &name {
        cx.error(channel.place, error.to_string(), None);
    }
    let poll = section.duration_or(cx, "poll", POLL_MIN..=POLL_MAX, POLL);
    let timeout = section.duration_or(
        cx,
        "timeout",
        TIMEOUT_MIN..=TIMEOUT_MAX,
        limits::DEPLOY_SILENCE,
    );
    let rate_limit = section.size(cx, "rate-limit", RATE_MIN..=RATE_MAX);
    let hold = section.flag(cx, "hold", false);
    let window = section.text(cx, "install-window");
    let window = window.and_then(|written| {
        let window = DailyWindow::parse(&written.value);
        if window.is_none() {
            let message = format!("`{}` is no time of the day", written.value);
            let help = "write install-window = \"22:00-04:00\", in UTC".to_owned();
            cx.error(written.place, message, Some(help));
        }
        window
    });
    let modules = section.texts(cx, "modules");
    if modules.as_ref().is_some_and(Vec::is_empty) {
        let message = "an empty list takes no module".to_owned();
        let help = "write hold = true to install nothing, or remove the key".to_owned();
        cx.error(section.key_place("modules"), message, Some(help));
    }
    for glob in modules.iter().flatten() {
        check_glob(cx, glob);
    }
    let modules = modules
        .into_iter()
        .flatten()
        .map(|glob| glob.value)
        .collect();
    let settings = section.choice(cx, "settings", &SETTINGS, "channel");
    section.finish(cx);
    Some(Deploy {
        repository: repository?,
        root: cx.resolve(&root_file.value),
        channel: name.ok()?,
        poll: poll.value,
        timeout: timeout.value,
        rate_limit: rate_limit.map(|rate| rate.value),
        hold: hold.value,
        window,
        modules,
        settings: settings.unwrap_or(SettingsOf::Channel),
    })
}

fn repository(
    cx: &mut Checker,
    section: &mut Section<'_>,
    written: &At<String>,
) -> Option<Repository> {
    let refuse = |cx: &mut Checker, section: &mut Section<'_>, why: &str| {
        tls::unjudged(cx, section);
        let message = format!("`{}` is no repository{why}", written.value);
        cx.error(written.place, message, HELP.to_owned());
        None
    };
    let Ok(url) = Url::parse(&written.value) else {
        return refuse(cx, section, "");
    };
    if url.query().is_some() || url.fragment().is_some() {
        return refuse(cx, section, ": it is a folder, without `?` and `#`");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(cx, section, ": who we are is said by `cert` and `key`");
    }
    let host = url.host_str().map(str::to_owned);
    match (url.scheme(), host) {
        ("https", Some(host)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let owner = "[deploy]".to_owned();
            let tls = tls::tls(cx, section, owner, host, written.place)?;
            Some(Repository::Http {
                url,
                tls: Some(tls),
            })
        }
        ("http", Some(_)) => {
            tls::none(cx, section, "http://", "https:// in `repository`");
            Some(Repository::Http { url, tls: None })
        }
        ("file", None) => {
            tls::none(cx, section, "file://", "https:// in `repository`");
            let path = url.to_file_path();
            path.ok().map(Repository::Directory)
        }
        _ => refuse(cx, section, ""),
    }
}
