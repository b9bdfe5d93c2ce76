//! `tidegate history`: what is kept on the device, beside a running daemon and without one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use support::{
    BEGIN, Broker, Daemon, Publisher, Site, configuration, numbered, tidegate, wait_for,
};

const REST: &str = "
[pipeline.count]
from = [\"plant\"]
series = [\"plant/line1/**\"]
filters = [{ module = \"range\", settings = { min = 0, max = 1000000 } }]
to = [{ uplink = \"cloud\", send = \"readings\" }]
[pipeline.all]
from = [\"plant\"]
to = [{ uplink = \"cloud\", send = \"readings\" }]
[series.\"plant/*/n\"]
measure = \"pieces, \\\"whole\\\"\"
";

fn history(config: &Path, arguments: &[&str]) -> Output {
    tidegate()
        .arg("history")
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

#[track_caller]
fn text(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(errors, "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn lines(config: &Path, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["--json"];
    all.extend(arguments);
    text(&history(config, &all))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn readings_are_read_by_series_pipeline_and_time_while_more_come_in() {
    const COUNT: u64 = 3_000;
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, REST);
    let mut daemon = Daemon::start(&config);
    let publisher = std::thread::spawn({
        let port = broker.port;
        move || {
            let mut publisher = Publisher::start(port, "plant/line1", &[]);
            for n in 0..COUNT {
                publisher.line(&numbered(n));
            }
            publisher.finish();
        }
    });
    // Beside the writer: whatever is there is whole and in its order.
    let mut seen = 0;
    while seen < COUNT {
        let found = lines(&config, &["--series", "plant/*/n", "--pipeline", "all"]);
        let numbers: Vec<u64> = found
            .iter()
            .map(|line| line["value"].as_u64().unwrap())
            .collect();
        let count = numbers.len() as u64;
        assert!(count >= seen, "what was there has gone");
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        seen = count;
    }
    publisher.join().unwrap();
    let odd =
        format!("{{\"ts\":{BEGIN},\"big\":9007199254740993,\"on\":true,\"say\":\"a, \\\"b\\\"\"}}");
    broker.publish("plant/line2", [odd]);
    daemon.wait_received("plant", COUNT + 1);
    wait_for("the last commit", || {
        let all = daemon.ledger()["pipelines"]["all"]["stored"].as_u64();
        (all == Some(COUNT + 3)).then_some(())
    });

    let check = |arguments: &[&str], expect: u64| {
        assert_eq!(
            lines(&config, arguments).len() as u64,
            expect,
            "{arguments:?}"
        );
    };
    check(&["--series", "**"], 2 * COUNT + 3);
    check(&["--series", "plant/line1/*", "--pipeline", "count"], COUNT);
    check(&["--series", "plant/line2/*", "--pipeline", "count"], 0);
    check(
        &["--series", "plant/line2/on", "--series", "plant/line2/say"],
        2,
    );
    check(&["--series", "**", "--limit", "7"], 7);
    check(&["--series", "**", "--pipeline", "nobody"], 0);
    // From included, to not: a second holds 100 readings.
    let from = ["--pipeline", "count", "--from", "2025-12-17T19:34:10Z"];
    check(
        &[
            &["--series", "**"][..],
            &from,
            &["--to", "2025-12-17T19:34:11Z"],
        ]
        .concat(),
        100,
    );
    check(&["--series", "**", "--from", "-2h"], 0);
    check(&["--series", "**", "--to", "now"], 2 * COUNT + 3);

    let first = &lines(
        &config,
        &[
            "--series",
            "plant/line1/n",
            "--limit",
            "1",
            "--pipeline",
            "count",
        ],
    )[0];
    assert_eq!(first["time"], "2025-12-17T19:34:00Z");
    assert_eq!(first["measure"], "pieces, \"whole\"");
    assert_eq!(first["quality"], "good");
    assert_eq!(first["generation"].as_str().map(str::len), Some(16));
    assert!(first["arrival"].is_string());

    // Without the daemon it is the same; CSV is quoted, and whole numbers are whole.
    assert_eq!(daemon.stop(), 0);
    check(&["--series", "**"], 2 * COUNT + 3);
    let csv = text(&history(&config, &["--series", "plant/line2/**", "--csv"]));
    let mut rows = csv.lines();
    assert_eq!(
        rows.next(),
        Some("time,arrival,pipeline,series,value,quality,measure,generation")
    );
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len(), 3, "{csv}");
    assert!(
        rows[0].contains(",all,plant/line2/big,9007199254740993,good,,"),
        "{csv}"
    );
    assert!(
        rows[2].contains(",plant/line2/say,\"a, \"\"b\"\"\",good,"),
        "{csv}"
    );
    let csv = text(&history(
        &config,
        &["--series", "plant/line1/n", "--csv", "--limit", "1"],
    ));
    assert!(csv.contains("\"pieces, \"\"whole\"\"\""), "{csv}");
}

#[test]
fn damage_is_named_and_a_closed_pipe_is_no_error() {
    let site = Site::new();
    let broker = Broker::start(&site, "broker");
    let config = configuration(&site, &broker, REST);
    let mut daemon = Daemon::start(&config);
    for part in 0..4 {
        broker.publish(
            "plant/line2",
            (part * 2_000..(part + 1) * 2_000).map(numbered),
        );
        daemon.wait_received("plant", (part + 1) * 2_000);
    }
    assert_eq!(daemon.stop(), 0);

    let mut child = tidegate()
        .args(["history", "--series", "**", "--config"])
        .arg(&config)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.contains("plant/line2/n = 0"), "{line}");
    drop(output);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");

    let conn = rusqlite::Connection::open(site.path("state/tidegate.db")).unwrap();
    let block: i64 = conn
        .query_row("SELECT max(id) FROM history", [], |row| row.get(0))
        .unwrap();
    let broken = conn.execute(
        "UPDATE history SET data = zeroblob(length(data)) WHERE id = ?1",
        [block],
    );
    assert_eq!(broken, Ok(1));
    drop(conn);
    let output = history(&config, &["--series", "**", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains(&format!("block {block} of pipeline all")),
        "{errors}"
    );
    let numbers: BTreeSet<u64> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["value"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert!(
        !numbers.is_empty() && numbers.len() < 8_000,
        "{}",
        numbers.len()
    );

    for (arguments, words) in [
        (&["--series", "**", "--from", "yesterday"][..], "is no time"),
        (&["--series", "[x"][..], "is no series glob"),
    ] {
        let output = history(&config, arguments);
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(words), "{errors}");
    }
}
