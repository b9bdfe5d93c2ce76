//! Scripts of changes, and what is told of them.

use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

fn key(series: &str) -> Key {
    Key {
        owner: Owner::Pipeline("watch".into()),
        series: series.into(),
        code: "spike".into(),
    }
}

fn cause() -> Cause {
    Cause {
        filter: "anomaly".into(),
        severity: Severity::Warning,
        time: 5,
        text: "too high".to_owned(),
        value: Some(1.0),
        generation: None,
    }
}

fn by(name: &str) -> Acknowledgement {
    Acknowledgement {
        by: name.to_owned(),
        at: 7,
    }
}

/// `a raised`, `a cleared begin`, `flood end 3`, …
fn words(tell: &[Tell]) -> Vec<String> {
    let mark = |mark: &Option<Mark>| match mark {
        Some(Mark::Begin) => " begin",
        Some(Mark::End) => " end",
        None => "",
    };
    let count = |count: u64| match count {
        0 => String::new(),
        count => format!(" {count}"),
    };
    let word = |tell: &Tell| match tell {
        Tell::Alarm {
            key,
            alarm,
            flood,
            suppressed,
        } => format!(
            "{} {}{}{}",
            key.series,
            alarm.state.as_str(),
            mark(flood),
            count(*suppressed)
        ),
        Tell::Flood {
            mark: m,
            suppressed,
            ..
        } => format!("flood{}{}", mark(&Some(*m)), count(*suppressed)),
    };
    tell.iter().map(word).collect()
}

enum Do {
    Raise(&'static str),
    Clear(&'static str),
    Acknowledge(&'static str),
    Wait(i64),
    Restart,
}

#[track_caller]
fn check(script: &[Do], expect: &[&str]) -> Alarms {
    let mut alarms = Alarms::default();
    let mut tell = Vec::new();
    let mut now = 100 * SECOND;
    for step in script {
        match step {
            Do::Raise(series) => {
                alarms.raise(now, &key(series), cause(), &mut tell);
            }
            Do::Clear(series) => {
                alarms.clear(now, &key(series), cause(), &mut tell);
            }
            Do::Acknowledge(series) => {
                let selection = Selection {
                    series: SeriesFilter::new(&[(*series).to_owned()]).unwrap(),
                    ..Selection::default()
                };
                alarms.acknowledge(&selection, &by("Anna"), 10, &mut tell);
            }
            Do::Wait(seconds) => {
                now += seconds * SECOND;
                alarms.tick(now, &mut tell);
            }
            Do::Restart => alarms = restart(now, &mut alarms),
        }
    }
    assert_eq!(words(&tell), expect);
    alarms
}

/// What is written down, read again.
fn restart(now: i64, alarms: &mut Alarms) -> Alarms {
    let kept: Vec<(Key, Alarm)> = alarms
        .entries
        .iter()
        .filter(|(_, entry)| entry.alarm.is_kept())
        .map(|(key, entry)| (key.clone(), entry.alarm.clone()))
        .collect();
    let floods: Vec<(Owner, Arc<str>, Flood)> = alarms
        .floods()
        .map(|(owner, name, flood)| (owner.clone(), Arc::clone(name), flood.clone()))
        .collect();
    Alarms::restore(alarms.limits, now, kept, floods)
}

#[test]
fn a_life_is_raised_acknowledged_and_cleared() {
    use Do::{Acknowledge, Clear, Raise, Restart, Wait};
    check(
        &[
            Raise("a"),
            Raise("a"),
            Acknowledge("a"),
            Acknowledge("a"),
            Raise("a"),
            Clear("a"),
            Clear("a"),
        ],
        &["a raised", "a acknowledged", "a cleared"],
    );
    // A new life is not acknowledged; what does not hold cannot be.
    let alarms = check(
        &[
            Raise("a"),
            Acknowledge("*"),
            Clear("a"),
            Acknowledge("a"),
            Raise("a"),
        ],
        &["a raised", "a acknowledged", "a cleared", "a raised"],
    );
    assert_eq!(alarms.get(&key("a")).unwrap().acknowledged, None);
    assert_eq!((alarms.holding(), alarms.acknowledged()), (1, 0));
    let alarms = check(
        &[
            Raise("a"),
            Acknowledge("a"),
            Restart,
            Raise("a"),
            Wait(600),
            Clear("a"),
            Wait(61),
        ],
        &["a raised", "a acknowledged", "a cleared"],
    );
    assert!(alarms.entries.is_empty() && alarms.due.is_empty() && alarms.filters.is_empty());
}

fn flap(times: usize) -> Vec<Do> {
    let pair = || [Do::Raise("a"), Do::Clear("a")];
    (0..times).flat_map(|_| pair()).collect()
}

fn told(times: usize) -> Vec<&'static str> {
    ["a raised", "a cleared"].repeat(times)
}

#[test]
fn an_alarm_that_flaps_is_told_at_the_begin_and_at_the_end_with_the_count() {
    // Ten changes are told, the eleventh says that it floods.
    let mut script = flap(8);
    script.push(Do::Wait(59));
    script.push(Do::Wait(1));
    let mut expect = told(5);
    expect.push("a raised begin");
    // Sixteen changes: five were kept quiet, and too many in the minute, so that a second one passes.
    check(&script, &expect);
    script.push(Do::Wait(60));
    expect.push("a cleared end 5");
    let alarms = check(&script, &expect);
    assert!(
        alarms.entries.is_empty() && alarms.due.is_empty(),
        "{alarms:?}"
    );
}

#[test]
fn an_acknowledgement_is_told_in_a_flood_and_the_flood_survives_a_restart() {
    let mut script = flap(8);
    script.extend([
        Do::Raise("a"),
        Do::Acknowledge("a"),
        Do::Restart,
        Do::Wait(59),
    ]);
    let mut expect = told(5);
    expect.extend(["a raised begin", "a acknowledged 6"]);
    check(&script, &expect);
    script.push(Do::Wait(1));
    expect.push("a acknowledged end");
    check(&script, &expect);
}

#[test]
fn what_changes_slowly_is_never_kept_quiet() {
    let mut script = Vec::new();
    for _ in 0..50 {
        script.extend([Do::Raise("a"), Do::Wait(7), Do::Clear("a"), Do::Wait(7)]);
    }
    check(&script, &told(50));
}

#[test]
fn a_filter_that_raises_too_many_is_told_at_begin_and_end_and_each_state_after_it() {
    let limits = Limits {
        filter: 100,
        ..Limits::default()
    };
    let mut alarms = Alarms::restore(limits, 0, [], []);
    let mut tell = Vec::new();
    for n in 0..350 {
        alarms.raise(0, &key(&format!("s{n:03}")), cause(), &mut tell);
    }
    let first = words(&tell);
    assert_eq!(first.len(), 101);
    assert_eq!(first[100], "flood begin");
    tell.clear();
    // A minute with 350 is not calm.
    alarms.tick(MINUTE, &mut tell);
    assert!(tell.is_empty());
    let mut alarms = restart(MINUTE, &mut alarms);
    alarms.tick(2 * MINUTE, &mut tell);
    let end = words(&tell);
    assert_eq!(
        (end.len(), &*end[0], &*end[1]),
        (101, "flood end 250", "s100 raised 1")
    );
    // The rest follows at the same pace; one that changes meanwhile tells for itself.
    alarms.clear(2 * MINUTE, &key("s349"), cause(), &mut tell);
    assert_eq!(words(&tell).last().unwrap(), "s349 cleared 1");
    tell.clear();
    alarms.tick(3 * MINUTE, &mut tell);
    alarms.tick(4 * MINUTE, &mut tell);
    alarms.tick(5 * MINUTE, &mut tell);
    assert_eq!(words(&tell).len(), 149);
    assert_eq!(alarms.holding(), 349);
    assert!(alarms.filters.is_empty() && alarms.due.is_empty());
}

#[test]
fn one_that_flaps_does_not_silence_its_neighbours() {
    let mut alarms = Alarms::default();
    let mut tell = Vec::new();
    for _ in 0..1_000 {
        alarms.raise(0, &key("a"), cause(), &mut tell);
        alarms.clear(0, &key("a"), cause(), &mut tell);
    }
    tell.clear();
    alarms.raise(0, &key("b"), cause(), &mut tell);
    assert_eq!(words(&tell), ["b raised"]);
}

#[test]
fn alarms_are_bounded_and_what_is_beyond_is_counted() {
    let mut alarms = Alarms::default();
    let mut tell = Vec::new();
    for n in 0..ALARMS + 3 {
        alarms.raise(0, &key(&n.to_string()), cause(), &mut tell);
        tell.clear();
    }
    assert_eq!(alarms.holding(), ALARMS);
    let quiet = u64::try_from(ALARMS).unwrap() - u64::from(Limits::default().filter);
    assert_eq!(alarms.take_losses(), (3, quiet));
    assert_eq!(alarms.take_losses(), (0, 0));
}

#[test]
fn alarms_of_what_is_no_longer_configured_are_cleared() {
    let mut alarms = Alarms::default();
    let mut tell = Vec::new();
    alarms.raise(0, &key("a"), cause(), &mut tell);
    tell.clear();
    alarms.retire(0, |_| true, 9, &mut tell);
    assert!(tell.is_empty());
    alarms.retire(0, |_| false, 9, &mut tell);
    assert_eq!(words(&tell), ["a cleared"]);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let mut alarms = Alarms::default();
    let cause = Cause {
        text: format!("x{}", "é".repeat(TEXT_BYTES)),
        ..cause()
    };
    alarms.raise(0, &key("a"), cause, &mut Vec::new());
    let text = &alarms.get(&key("a")).unwrap().cause.text;
    assert_eq!(text.len(), TEXT_BYTES - 1);
}

#[derive(Clone, Debug)]
enum Op {
    Raise(u8),
    Clear(u8),
    Acknowledge(u8),
    Pass(u8),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..4).prop_map(Op::Raise),
        8 => (0u8..4).prop_map(Op::Clear),
        1 => (0u8..4).prop_map(Op::Acknowledge),
        2 => (0u8..90).prop_map(Op::Pass),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    /// Every change is told or counted exactly once; when it is calm a receiver knows every alarm's state; and
    /// what is written down is what is there.
    #[test]
    fn nothing_is_lost_silently(ops in prop::collection::vec(op(), 0..400)) {
        let mut alarms = Alarms::restore(Limits { alarm: 10, filter: 25 }, 0, [], []);
        let mut now = SECOND;
        let mut changes = 0u64;
        let mut accounted = 0u64;
        let mut receiver: BTreeMap<Key, State> = BTreeMap::new();
        let mut rows: BTreeMap<Key, Alarm> = BTreeMap::new();
        let mut floods: BTreeMap<(Owner, Arc<str>), Flood> = BTreeMap::new();
        let mut ops = ops;
        // A calm end: everything is told.
        ops.extend((0..10).map(|_| Op::Pass(60)));
        for op in ops {
            let mut tell = Vec::new();
            match op {
                Op::Raise(n) => changes += u64::from(alarms.raise(now, &key(&n.to_string()), cause(), &mut tell)),
                Op::Clear(n) => changes += u64::from(alarms.clear(now, &key(&n.to_string()), cause(), &mut tell)),
                Op::Acknowledge(n) => {
                    let series = SeriesFilter::new(&[n.to_string()]).unwrap();
                    let selection = Selection { series, ..Selection::default() };
                    let done = alarms.acknowledge(&selection, &by("x"), 10, &mut tell);
                    changes += u64::try_from(done).unwrap();
                }
                Op::Pass(seconds) => {
                    now += i64::from(seconds) * SECOND;
                    alarms.tick(now, &mut tell);
                }
                Op::Restart => {
                    let read = |((owner, name), flood): (&(Owner, Arc<str>), &Flood)| (owner.clone(), Arc::clone(name), flood.clone());
                    alarms = Alarms::restore(alarms.limits, now, rows.clone(), floods.iter().map(read));
                }
            }
            for tell in &tell {
                if let Tell::Alarm { key, alarm, flood, suppressed } = tell {
                    // The end of a flood and a state told late are no changes of their own.
                    accounted += suppressed;
                    let late = *flood == Some(Mark::End) || (*suppressed > 0 && matches!(op, Op::Pass(_)));
                    accounted += u64::from(!late);
                    receiver.insert(key.clone(), alarm.state);
                }
            }
            for (key, alarm) in alarms.take_changed() {
                match alarm {
                    Some(alarm) => { rows.insert(key, alarm); }
                    None => { rows.remove(&key); }
                }
            }
            for (owner, name, flood) in alarms.take_changed_floods() {
                match flood {
                    Some(flood) => { floods.insert((owner, name), flood); }
                    None => { floods.remove(&(owner, name)); }
                }
            }
            let kept: BTreeMap<Key, Alarm> = alarms.entries.iter()
                .filter(|(_, entry)| entry.alarm.is_kept())
                .map(|(key, entry)| (key.clone(), entry.alarm.clone()))
                .collect();
            prop_assert_eq!(&kept, &rows);
        }
        prop_assert_eq!(accounted, changes);
        for (key, state) in &receiver {
            let is = alarms.get(key).map_or(State::Cleared, |alarm| alarm.state);
            prop_assert_eq!(*state, is);
        }
        prop_assert_eq!(alarms.due.len(), 0);
    }
}
