//! `[pipeline.NAME]`

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_domain::item::Priority;
use tidegate_domain::limits::{TICK_MAX, TICK_MIN};
use tidegate_domain::series::SeriesFilter;

use super::bounds::limits;
use super::model::{Filter, OnFailure, Pipeline, Route, Secret, Send, Summary, join};
use super::mqtt;
use super::raw::{Entry, Node, Value};
use super::section::{At, Checker, Section, suggest, wrong_type};
use super::validate::check_name;

/// Below it a window holds nothing that is worth a summary.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// Readings of an open window cannot be evicted: longer ones would fill the disk.
const WINDOW_MAX: Duration = Duration::from_hours(24);
const WINDOW: Duration = Duration::from_mins(1);
const KEEP_MIN: Duration = Duration::from_secs(1);
const KEEP_MAX: Duration = Duration::from_hours(24 * 7);
/// Filters in a chain. Each copies the batch in and out.
const FILTERS: usize = 32;
/// Characters of a module's name.
const MODULE_CHARS: usize = 64;

/// The names that a pipeline may refer to, in their order.
pub(super) struct Names<'a> {
    pub(super) sources: Vec<&'a str>,
    pub(super) uplinks: Vec<&'a str>,
}

/// Reads a pipeline.
pub(super) fn pipeline(cx: &mut Checker, entry: &Entry, names: &Names<'_>) -> Pipeline {
    let path = join("pipeline", &entry.key);
    let mut section = Section::at(cx, path, &entry.node);
    let from = from(cx, &mut section, names);
    let series = series(cx, &mut section);
    let filters = filters(cx, &mut section);
    let summary = section.node("summary").and_then(|node| {
        let mut summary = Section::at(cx, section.path("summary"), node);
        let window = summary
            .exists()
            .then(|| summary.duration_or(cx, "window", WINDOW_MIN..=WINDOW_MAX, WINDOW));
        summary.finish(cx);
        Some(Summary {
            window: window?.value,
        })
    });
    let has_summary = section.key_place("summary").is_some();
    let (to, written) = routes(cx, &mut section, names, has_summary);
    if written == 0 {
        let message = format!(
            "pipeline `{}` has no uplink: its results stay in history",
            entry.key
        );
        let help = "add to = [{ uplink = \"NAME\" }]";
        cx.warning(
            section.key_place("to").or(Some(entry.place)),
            message,
            help.to_owned(),
        );
    } else if has_summary
        && to.len() == written
        && to.iter().all(|route| route.send == Send::Readings)
    {
        let message = format!("nobody sends the summaries of pipeline `{}`", entry.key);
        let help = "write send = \"summary\" or \"both\" in one of its routes, or remove `summary`";
        cx.warning(section.key_place("summary"), message, help.to_owned());
    }
    let keep_input = section
        .duration(cx, "keep-input", KEEP_MIN..=KEEP_MAX)
        .map(|keep| keep.value);
    section.finish(cx);
    Pipeline {
        keep_input,
        name: entry.key.clone(),
        from,
        series,
        filters,
        summary,
        to,
    }
}

/// A TOML value as the module will see it.
pub(super) fn json(cx: &mut Checker, node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) | Value::Time(text) => text.as_str().into(),
        Value::Integer(number) => (*number).into(),
        Value::Float(number) => serde_json::Number::from_f64(*number).map_or_else(
            || {
                let message = "settings travel as JSON, which has no infinity and no NaN";
                cx.error(
                    Some(node.place),
                    message,
                    "write a finite number".to_owned(),
                );
                serde_json::Value::Null
            },
            serde_json::Value::Number,
        ),
        Value::Boolean(flag) => (*flag).into(),
        Value::Array(items) => items.iter().map(|item| json(cx, item)).collect(),
        Value::Table(table) => table
            .entries
            .iter()
            .map(|entry| (entry.key.clone(), json(cx, &entry.node)))
            .collect(),
    }
}

fn from(cx: &mut Checker, section: &mut Section<'_>, names: &Names<'_>) -> Vec<usize> {
    const FORM: &str = "name the sources it reads, as in from = [\"plant\"]";
    let written = section.texts(cx, "from");
    let place = section.key_place("from");
    if place.is_none() {
        section.required(cx, "from", FORM);
    }
    if written.as_ref().is_some_and(Vec::is_empty) {
        let message = format!(
            "`{}` is empty: the pipeline would read nothing",
            section.path("from")
        );
        cx.error(place, message, FORM.to_owned());
    }
    let mut found = Vec::new();
    for name in written.unwrap_or_default() {
        match names
            .sources
            .iter()
            .position(|source| *source == name.value)
        {
            None => {
                cx.dangling = true;
                let message = format!("there is no source `{}`", name.value);
                cx.missing(
                    name.place,
                    message,
                    suggest_section("source", &name.value, &names.sources),
                );
            }
            Some(index) if found.contains(&index) => {
                let message = format!("`{}` is named twice", name.value);
                cx.error(
                    name.place,
                    message,
                    "each source is read once: remove one".to_owned(),
                );
            }
            Some(index) => found.push(index),
        }
    }
    found
}

fn series(cx: &mut Checker, section: &mut Section<'_>) -> Vec<String> {
    let written = section.texts(cx, "series");
    if let Some([]) = written.as_deref() {
        let message = format!(
            "`{}` is empty, which selects every series",
            section.path("series")
        );
        cx.warning(
            section.key_place("series"),
            message,
            "remove the key, or name a glob".to_owned(),
        );
    }
    if written.is_none() {
        section.default(cx, "series", "all");
    }
    let globs = written.unwrap_or_default();
    for glob in &globs {
        check_glob(cx, glob);
    }
    globs.into_iter().map(|glob| glob.value).collect()
}

/// Reports a glob that is none.
pub(super) fn check_glob(cx: &mut Checker, glob: &At<String>) {
    let fault = if glob.value.is_empty() {
        Some("an empty glob selects nothing".to_owned())
    } else {
        SeriesFilter::new(std::slice::from_ref(&glob.value))
            .err()
            .map(|error| error.to_string())
    };
    if let Some(message) = fault {
        let help = "`*` stands for a part of one level, `**` for any number of levels, as in \"plant/*/temp\" and \"plant/**\"";
        cx.error(glob.place, message, help.to_owned());
    }
}

fn filters(cx: &mut Checker, section: &mut Section<'_>) -> Vec<Filter> {
    let path = section.path("filters");
    let items = section.array(cx, "filters").unwrap_or_default();
    if items.len() > FILTERS {
        let message = format!(
            "`{path}` has {} filters: at most {FILTERS} are run",
            items.len()
        );
        cx.error(
            section.key_place("filters"),
            message,
            "split the pipeline".to_owned(),
        );
    }
    let mut names: Vec<At<String>> = Vec::new();
    let filters: Vec<Option<Filter>> = items
        .iter()
        .enumerate()
        .map(|(index, node)| filter(cx, format!("{path}[{index}]"), node, &mut names))
        .collect();
    let taken: Vec<String> = names.into_iter().map(|name| name.value).collect();
    let mut filters: Vec<Filter> = filters.into_iter().flatten().collect();
    name_filters(&mut filters, taken);
    filters
}

/// Gives a name to every filter that has none: its module's, with -2, -3 and so on where that is taken.
fn name_filters(filters: &mut [Filter], mut taken: Vec<String>) {
    for filter in filters.iter_mut().filter(|filter| filter.name.is_empty()) {
        let mut name = filter.module.clone();
        let mut number = 2;
        while taken.contains(&name) {
            name = format!("{}-{number}", filter.module);
            number += 1;
        }
        taken.push(name.clone());
        filter.name = name;
    }
}

fn filter(
    cx: &mut Checker,
    path: String,
    node: &Node,
    names: &mut Vec<At<String>>,
) -> Option<Filter> {
    let mut section = Section::at(cx, path, node);
    if !section.exists() {
        return None;
    }
    let module = section.text_required(
        cx,
        "module",
        "say which module runs, as in { module = \"range\" }",
    );
    if let Some(module) = &module {
        check_module(cx, module);
    }
    let name = section.text(cx, "name");
    if let Some(name) = &name {
        check_name(cx, "filter", &name.value, name.place);
        if names.iter().any(|other| other.value == name.value) {
            let message = format!("two filters of this pipeline are named `{}`", name.value);
            let help = "state and quarantine are kept by this name: choose another";
            cx.error(name.place, message, help.to_owned());
        }
        names.push(name.clone());
    }
    let settings = settings(cx, &mut section);
    let on_failure = section.choice(
        cx,
        "on-failure",
        &[
            ("pass", OnFailure::Pass),
            ("drop", OnFailure::Drop),
            ("quarantine", OnFailure::Quarantine),
        ],
        "quarantine",
    );
    let limits = limits(cx, &mut section);
    let tick = section.duration(cx, "tick", TICK_MIN..=TICK_MAX);
    let secrets = secrets(cx, &mut section);
    section.finish(cx);
    Some(Filter {
        name: name.map(|name| name.value).unwrap_or_default(),
        module: module?.value,
        settings,
        on_failure: on_failure?,
        limits,
        tick: tick.map(|tick| tick.value),
        secrets,
    })
}

/// A module's `settings`.
pub(super) fn settings(cx: &mut Checker, section: &mut Section<'_>) -> serde_json::Value {
    let path = section.path("settings");
    let Some(node) = section.node("settings") else {
        return serde_json::Value::Object(serde_json::Map::new());
    };
    if !matches!(node.value, Value::Table(_)) {
        wrong_type(cx, &path, node, "a table, as in { min = -40, max = 125 }");
    }
    let settings = json(cx, node);
    cx.list(path, &settings.to_string(), Some(node.place));
    settings
}

/// A module's `secrets`: names, and the files that they are read from.
pub(super) fn secrets(
    cx: &mut Checker,
    section: &mut Section<'_>,
) -> BTreeMap<String, Secret<Vec<u8>>> {
    let path = section.path("secrets");
    let Some(node) = section.node("secrets") else {
        return BTreeMap::new();
    };
    let Value::Table(table) = &node.value else {
        wrong_type(
            cx,
            &path,
            node,
            "a table of names and files, as in { key = \"secrets/redact\" }",
        );
        return BTreeMap::new();
    };
    let mut found = BTreeMap::new();
    for entry in &table.entries {
        let path = join(&path, &entry.key);
        let Some(file) = super::section::text_of(cx, &path, &entry.node) else {
            continue;
        };
        cx.list(path, &file.value, file.place);
        if let Some(bytes) = mqtt::secret_file(cx, &file) {
            found.insert(entry.key.clone(), Secret::new(bytes));
        }
    }
    found
}

/// Reports a module's name that is none.
pub(super) fn check_module(cx: &mut Checker, module: &At<String>) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let name = module.value.as_str();
    if name.is_empty() || name.len() > MODULE_CHARS || !name.chars().all(plain) {
        let message = format!("`{name}` is no module's name");
        let help = "write the name alone, in small letters, digits and dashes, without path and .wasm; local files are found in [modules] dir";
        cx.error(module.place, message, help.to_owned());
    }
}

/// The routes, and how many were written.
fn routes(
    cx: &mut Checker,
    section: &mut Section<'_>,
    names: &Names<'_>,
    has_summary: bool,
) -> (Vec<Route>, usize) {
    let path = section.path("to");
    let items = section.array(cx, "to").unwrap_or_default();
    let mut found: Vec<Route> = Vec::new();
    for (index, node) in items.iter().enumerate() {
        let mut item = Section::at(cx, format!("{path}[{index}]"), node);
        if !item.exists() {
            continue;
        }
        let uplink = item.text_required(
            cx,
            "uplink",
            "name the uplink, as in { uplink = \"cloud\" }",
        );
        let send = item.choice(
            cx,
            "send",
            &[
                ("summary", Send::Summary),
                ("readings", Send::Readings),
                ("both", Send::Both),
            ],
            if has_summary { "summary" } else { "readings" },
        );
        let priority = item.choice(
            cx,
            "priority",
            &[
                ("low", Priority::Low),
                ("normal", Priority::Normal),
                ("high", Priority::High),
            ],
            "normal",
        );
        let send_place = item.key_place("send");
        item.finish(cx);
        if !has_summary && send.is_some_and(|send| send != Send::Readings) {
            cx.missing(
                send_place,
                "the pipeline makes no summaries that could be sent",
                "add summary = { window = \"60s\" } to it, or write send = \"readings\"".to_owned(),
            );
        }
        let Some(uplink) = uplink else { continue };
        let Some(position) = names.uplinks.iter().position(|name| *name == uplink.value) else {
            cx.dangling = true;
            let message = format!("there is no uplink `{}`", uplink.value);
            cx.missing(
                uplink.place,
                message,
                suggest_section("uplink", &uplink.value, &names.uplinks),
            );
            continue;
        };
        let (Some(send), Some(priority)) = (send, priority) else {
            continue;
        };
        let twice = found.iter().any(|other| {
            other.uplink == position
                && (other.send == send || other.send == Send::Both || send == Send::Both)
        });
        if twice {
            let message = format!("uplink `{}` would get the same twice", uplink.value);
            cx.error(uplink.place, message, "join the two routes".to_owned());
        }
        found.push(Route {
            uplink: position,
            send,
            priority,
        });
    }
    (found, items.len())
}

fn suggest_section(kind: &str, written: &str, names: &[&str]) -> String {
    if names.is_empty() {
        format!("add a section [{kind}.{written}]")
    } else {
        suggest(written, names)
    }
}
