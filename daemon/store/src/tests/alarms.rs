//! Alarms and silent series, through commits and crashes.

use std::sync::mpsc::{Receiver, sync_channel};

use tidegate_domain::alarm::{Selection, State};
use tidegate_domain::series::SeriesFilter;

use super::*;

const MINUTE: i64 = 60 * SECOND;

impl Bench {
    fn change(&mut self, series: &str, states: &[AlarmState]) {
        let mut outcome = self.outcome(&[]);
        outcome.pipelines[0].alarms = states.iter().map(|state| alarm(series, *state)).collect();
        self.apply(outcome);
        self.try_commit().unwrap().expect("an alarm does not wait");
    }

    fn hear(&mut self, series: &[&str]) {
        let outcome = BatchOutcome {
            heard: series.iter().map(|name| (*name).into()).collect(),
            ..self.outcome(&[])
        };
        self.apply(outcome);
        self.commit();
    }

    fn acknowledge(&mut self, glob: &str) -> Receiver<usize> {
        let (reply, done) = sync_channel(1);
        let at = self.wall;
        self.apply(AcknowledgeAlarms {
            selection: Selection {
                series: SeriesFilter::new(&[glob.to_owned()]).unwrap(),
                ..Selection::default()
            },
            by: "Anna".to_owned(),
            at,
            reply,
        });
        done
    }

    /// Lets time pass and the writer do what is due by it alone.
    fn wait(&mut self, nanoseconds: i64) {
        self.advance(nanoseconds);
        while self.try_commit().unwrap().is_some() {}
    }

    /// `series state[ flood][ suppressed]` of each alarm item that waits, and of floods of filters.
    fn told(&self) -> Vec<String> {
        let word = |item: &serde_json::Value| {
            if item["code"] == "alarm-flood" {
                return Some(format!("flood {}", item["data"]["flood"].as_str()?));
            }
            let mut words = format!("{} {}", item["series"].as_str()?, item["state"].as_str()?);
            for key in ["flood", "suppressed"] {
                if let Some(value) = item.get(key) {
                    words += &format!(" {}", value.to_string().trim_matches('"'));
                }
            }
            Some(words)
        };
        let items = self.items();
        items.iter().filter_map(|(_, item)| word(item)).collect()
    }
}

use AlarmState::{Cleared, Raised};

#[test]
fn an_alarm_is_acknowledged_by_somebody_until_it_is_cleared() {
    let mut bench = Bench::new();
    bench.change("a/temp", &[Raised]);
    let done = bench.acknowledge("a/*");
    assert!(done.try_recv().is_err(), "not before the commit");
    let committed = bench.try_commit().unwrap().expect("somebody waits");
    assert_eq!(done.try_recv(), Ok(1));
    let alarms = &committed.stats.alarms;
    assert_eq!((committed.stats.alarms_active, alarms.acknowledged), (1, 1));
    assert_eq!(alarms.active[0].alarm.state, State::Acknowledged);

    let recovered = bench.crash();
    let by = recovered.alarms[0].alarm.acknowledged.clone().unwrap();
    assert_eq!((by.by.as_str(), by.at), ("Anna", bench.wall));
    assert_eq!(bench.reader().alarms(9).unwrap(), recovered.alarms);
    // It is acknowledged, and raising what is raised is no news.
    bench.change("a/temp", &[Raised]);
    let done = bench.acknowledge("**");
    bench.try_commit().unwrap();
    assert_eq!(done.try_recv(), Ok(0));
    bench.change("a/temp", &[Cleared, Raised]);
    assert_eq!(
        bench.told(),
        [
            "a/temp raised",
            "a/temp acknowledged",
            "a/temp cleared",
            "a/temp raised"
        ]
    );
    // What was done is an event as well, which goes up among them.
    let items: Vec<_> = (bench.items().into_iter())
        .map(|(_, item)| item)
        .filter(|item| item.get("severity").is_some())
        .collect();
    assert_eq!(items[1]["acknowledged_by"], "Anna");
    assert_eq!(items[1]["severity"], "warning");
    assert_eq!(items[1]["generation"], generation().id);
    assert!(items[3].get("acknowledged_by").is_none());
    bench.check_balance();
}

#[test]
fn a_flood_is_counted_and_told_at_its_end_on_the_far_side_of_a_crash() {
    let mut bench = Bench::new();
    for _ in 0..20 {
        bench.change("a/temp", &[Raised, Cleared]);
    }
    bench.change("b/temp", &[Raised]);
    bench.crash();
    let mut expect = ["a/temp raised", "a/temp cleared"].repeat(5);
    expect.extend(["a/temp raised begin", "b/temp raised"]);
    assert_eq!(bench.told(), expect);
    bench.wait(59 * SECOND);
    assert_eq!(bench.told().len(), expect.len());
    bench.wait(SECOND);
    expect.push("a/temp cleared end 29");
    assert_eq!(bench.told(), expect);
    let stats = bench.writer().stats();
    assert_eq!((stats.alarms.suppressed, stats.alarms_active), (29, 1));
    let rows = bench.reader().alarms(9).unwrap();
    assert_eq!(rows.len(), 1);
    bench.check_balance();
}

#[test]
fn a_filter_in_a_flood_is_told_and_so_is_the_state_of_each_of_its_alarms() {
    let mut config = config();
    config.alarm_limits.filter = 5;
    let mut bench = Bench::with(config);
    for n in 0..12 {
        bench.change(&format!("s{n:02}"), &[Raised]);
    }
    bench.crash();
    assert_eq!(bench.told().len(), 6);
    for _ in 0..4 {
        bench.wait(MINUTE);
    }
    let told = bench.told();
    let count = |word: &str| told.iter().filter(|told| told.contains(word)).count();
    assert_eq!(
        (count("flood begin"), count("flood end")),
        (1, 1),
        "{told:?}"
    );
    for n in 0..12 {
        assert_eq!(count(&format!("s{n:02} raised")), 1, "{told:?}");
    }
    assert_eq!(bench.writer().stats().alarms.suppressed, 7);
    bench.check_balance();
}

/// Series of the source may be silent for ten seconds, which is a warning but for some.
fn silence() -> StoreConfig {
    let mut config = config();
    config.silence = SilenceConfig {
        sources: vec![SourceSilence {
            after: Duration::from_secs(10),
            alarm: Some(Severity::Warning),
            uplinks: vec![0],
        }],
        series: SeriesAlarms::new(vec![
            ("quiet/*".to_owned(), Some(None)),
            ("grave/*".to_owned(), Some(Some(Severity::Critical))),
            ("*/plain".to_owned(), None),
        ])
        .unwrap(),
    };
    config
}

#[test]
fn a_series_that_falls_silent_is_an_alarm_until_it_is_heard() {
    let mut bench = Bench::with(silence());
    bench.hear(&["a/x", "quiet/x", "grave/x"]);
    bench.wait(8 * SECOND);
    assert_eq!(bench.told(), [""; 0]);
    bench.hear(&["a/x"]);
    assert_eq!(bench.told(), ["grave/x raised"]);
    let item = bench.items()[0].1.clone();
    assert_eq!(item["source"], "plant");
    assert!(item.get("pipeline").is_none());
    assert_eq!(
        (&item["code"], &item["severity"]),
        (&"stale".into(), &"critical".into())
    );
    let stats = bench.writer().stats().alarms;
    assert_eq!((stats.series, stats.stale), (3, 2));
    assert_eq!(stats.stale_series.len(), 2);
    assert_eq!(stats.stale_series[0].heard, START);
    assert_eq!(bench.reader().stale_series(9).unwrap(), *stats.stale_series);
    bench.wait(9 * SECOND);
    bench.hear(&["grave/x", "quiet/x", "a/x"]);
    assert_eq!(
        bench.told(),
        [
            "grave/x raised",
            "a/x raised",
            "grave/x cleared",
            "a/x cleared"
        ]
    );
    assert_eq!(bench.writer().stats().alarms.stale, 0);
    bench.check_balance();
}

#[test]
fn a_restart_raises_nothing_for_series_that_were_heard_and_forgets_none_that_was_stale() {
    let mut bench = Bench::with(silence());
    bench.hear(&["a/x"]);
    bench.wait(10 * SECOND);
    bench.hear(&["b/x"]);
    let raised = ["a/x raised"];
    assert_eq!(bench.told(), raised);
    // Days pass while nobody listens.
    bench.advance(3 * 86_400 * SECOND);
    let recovered = bench.crash();
    assert_eq!(recovered.alarms.len(), 1);
    bench.wait(9 * SECOND);
    assert_eq!(bench.told(), raised);
    assert_eq!(bench.writer().stats().alarms.stale, 1);
    bench.wait(SECOND);
    assert_eq!(bench.told(), ["a/x raised", "b/x raised"]);
    bench.crash();
    bench.hear(&["a/x"]);
    assert_eq!(bench.told(), ["a/x raised", "b/x raised", "a/x cleared"]);
}

#[test]
fn a_step_of_the_wall_clock_makes_nothing_stale() {
    let mut bench = Bench::with(silence());
    bench.hear(&["a/x"]);
    let mut arrival = bench.arrival();
    let now = bench.now;
    for step in [86_400 * SECOND, -86_400 * SECOND, 1 << 60] {
        arrival.wall = bench.wall + step;
        bench.writer().commit_if_due(now, arrival).unwrap();
        assert_eq!(bench.told(), [""; 0]);
    }
}

#[test]
fn what_is_configured_otherwise_is_put_right_at_the_start() {
    let mut bench = Bench::with(silence());
    bench.hear(&["a/x", "quiet/x"]);
    bench.change("p/temp", &[Raised]);
    bench.wait(10 * SECOND);
    assert_eq!(bench.told(), ["p/temp raised", "a/x raised"]);
    bench.config.silence.sources[0].alarm = None;
    bench.config.silence.series =
        SeriesAlarms::new(vec![("quiet/*".to_owned(), Some(Some(Severity::Info)))]).unwrap();
    bench.config.pipelines[0].name = "renamed".to_owned();
    bench.crash();
    let mut told = bench.told();
    told.drain(..2);
    told.sort();
    assert_eq!(told, ["a/x cleared", "p/temp cleared", "quiet/x raised"]);
    // Once.
    bench.crash();
    assert_eq!(bench.told().len(), 5);
}

#[test]
fn a_whole_plant_that_falls_silent_falls_in_slices() {
    let mut bench = Bench::with(silence());
    let names: Vec<String> = (0..2_500).map(|n| format!("s/{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    bench.hear(&names);
    bench.advance(10 * SECOND);
    let mut stale = Vec::new();
    while let Some(committed) = bench.try_commit().unwrap() {
        stale.push(committed.stats.alarms.stale);
    }
    assert_eq!(stale, [1_000, 2_000, 2_500]);
    let stats = bench.writer().stats();
    assert_eq!(stats.alarms_active, 2_500);
    assert_eq!(stats.alarms.suppressed, 1_500);
    assert_eq!(stats.alarms.active.len(), 1_000);
    bench.check_balance();
}

#[test]
fn alarms_of_the_first_layout_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.execute_batch(include_str!("../../migrations/0001_initial.sql"))
        .unwrap();
    conn.execute_batch(
        "PRAGMA application_id = 0x54494445; PRAGMA user_version = 1;
         INSERT INTO alarm VALUES ('temperature', 'a/temp', 'spike', 'anomaly', 'critical', 7, 'too high')",
    )
    .unwrap();
    drop(conn);
    let mut config = config();
    config.path = path;
    let store = Store::open(config, Arrival::default()).unwrap();
    let [known] = store.recovered().alarms.as_slice() else {
        panic!("{:?}", store.recovered().alarms);
    };
    assert_eq!(known.alarm.state, State::Raised);
    assert_eq!(known.alarm.cause.severity, Severity::Critical);
    assert_eq!(&*known.key.series, "a/temp");
}
