use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::channel::{Channel, OnFailure, Staged, StagedWave, WaveGate};
use crate::install::place;
use crate::limits;

const HOUR: i64 = 3_600_000;
/// When the document was published.
const PUBLISHED: i64 = 1_000_000;

/// Epoch 5 of `stable`: half of the gateways, then all; an hour each.
fn document() -> Channel {
    let digest = format!("sha256:{}", "a".repeat(64));
    let json = json!({
        "v": 1, "channel": "stable", "epoch": 5, "published": PUBLISHED,
        "modules": {"range": {"version": "1.1.0", "digest": digest}},
    });
    let mut channel = Channel::parse(&serde_json::to_vec(&json).unwrap()).unwrap();
    let staged = Staged {
        since: 5,
        wave: 0,
        waves: ["50", "100"]
            .map(|percent| StagedWave {
                percent: percent.parse().unwrap(),
                soak: Duration::from_hours(1),
            })
            .to_vec(),
        gate: WaveGate {
            failures: 0.1,
            taken: 0.5,
        },
        on_failure: OnFailure::Halt,
        replace: <_>::default(),
        former: <_>::default(),
        halted: None,
    };
    channel.waves = staged.open();
    channel.staged = Some(staged);
    channel.check().unwrap();
    channel
}

fn wider(document: &Channel) -> Channel {
    let mut wider = document.clone();
    wider.epoch += 1;
    let staged = wider.staged.as_mut().unwrap();
    staged.wave += 1;
    wider.waves = staged.open();
    wider.check().unwrap();
    wider
}

/// The n-th gateway whose place is in the first wave, or is not.
fn gateway(number: usize, first: bool) -> String {
    let mut names = (0..).map(|n| format!("gw-{n}"));
    names
        .by_ref()
        .filter(|name| (place(name, "stable", 5) < 5000) == first)
        .nth(number)
        .unwrap()
}

fn report(gateway: &str, epoch: u64, vote: Vote) -> Report {
    Report {
        gateway: gateway.to_owned(),
        channel: "stable".to_owned(),
        epoch,
        vote,
        modules: vec![report::Module {
            name: "range".to_owned(),
            version: "1.1.0".to_owned(),
            digest: format!("sha256:{}", "a".repeat(64)),
        }],
        reason: "it traps".to_owned(),
    }
}

fn hear(fleet: &mut Fleet, report: &Report, document: &Channel) -> bool {
    match fleet.hear(report, document, PUBLISHED) {
        Heard::News(note) => {
            // As it is stored.
            let stored = serde_json::to_string(&note).unwrap();
            fleet.apply(&serde_json::from_str(&stored).unwrap());
            true
        }
        Heard::Known => false,
        heard @ (Heard::Other | Heard::NeverMade | Heard::Full) => panic!("{heard:?}"),
    }
}

/// A fleet that ran epoch 4: so many gateways in the first wave, and so many in the second.
fn fleet(document: &Channel, first: usize, second: usize) -> Fleet {
    let mut fleet = Fleet::new("stable");
    fleet.follow(document, PUBLISHED);
    let names = (0..first).map(|n| gateway(n, true));
    for name in names.chain((0..second).map(|n| gateway(n, false))) {
        assert!(hear(&mut fleet, &report(&name, 4, Vote::Taken), document));
    }
    fleet
}

fn votes(fleet: &mut Fleet, document: &Channel, from: usize, count: usize, vote: Vote) {
    for n in from..from + count {
        hear(fleet, &report(&gateway(n, true), 5, vote), document);
    }
}

#[test]
fn a_wave_opens_after_its_time_when_enough_took_it() {
    let document = document();
    let mut fleet = fleet(&document, 20, 20);
    votes(&mut fleet, &document, 0, 9, Vote::Taken);
    let soak = Decision::Wait(Waiting::Soak {
        left: Duration::from_millis(1),
    });
    assert_eq!(fleet.decide(&document, PUBLISHED + HOUR - 1), soak);
    let now = PUBLISHED + HOUR;
    let taken = |taken, needed| Decision::Wait(Waiting::Taken { taken, needed });
    assert_eq!(fleet.decide(&document, now), taken(9, 10));
    votes(&mut fleet, &document, 9, 1, Vote::Begun);
    assert_eq!(fleet.decide(&document, now), taken(9, 10));
    votes(&mut fleet, &document, 9, 1, Vote::Taken);
    assert_eq!(fleet.decide(&document, now), Decision::Widen);
    // The last wave counts the votes of the first, and is through by itself.
    let wider = wider(&document);
    assert_eq!(fleet.decide(&wider, now), taken(10, 20));
    for n in 0..10 {
        hear(
            &mut fleet,
            &report(&gateway(n, false), 6, Vote::Taken),
            &wider,
        );
    }
    assert_eq!(fleet.decide(&wider, now), Decision::Idle(Idle::Through));
    // Through, and yet watched.
    votes(&mut fleet, &wider, 0, 5, Vote::Failed);
    assert!(matches!(fleet.decide(&wider, now), Decision::Halt { .. }));
}

#[test]
fn too_many_failures_halt_at_once_and_for_good() {
    let document = document();
    let mut fleet = fleet(&document, 20, 0);
    votes(&mut fleet, &document, 0, 2, Vote::Failed);
    assert!(matches!(
        fleet.decide(&document, PUBLISHED),
        Decision::Wait(_)
    ));
    votes(&mut fleet, &document, 2, 1, Vote::Failed);
    let Decision::Halt { why } = fleet.decide(&document, PUBLISHED) else {
        panic!("3 of 20 are more than a tenth");
    };
    assert!(
        why.contains("3 of the 20") && why.contains("it traps"),
        "{why}"
    );
    let since = 5;
    fleet.apply(&Note::Halt {
        since,
        why: why.clone(),
    });
    // More gateways come, and the part is smaller: what was decided stays.
    for n in 20..60 {
        hear(
            &mut fleet,
            &report(&gateway(n, true), 5, Vote::Taken),
            &document,
        );
    }
    assert_eq!(
        fleet.decide(&document, PUBLISHED + 9 * HOUR),
        Decision::Halt { why: why.clone() }
    );
    let mut halted = document.clone();
    halted.staged.as_mut().unwrap().halted = Some(why);
    assert_eq!(
        fleet.decide(&halted, PUBLISHED),
        Decision::Idle(Idle::Halted)
    );
    // The next release begins anew.
    let mut next = document;
    next.epoch = 7;
    next.staged.as_mut().unwrap().since = 7;
    fleet.follow(&next, PUBLISHED);
    assert!(matches!(
        fleet.decide(&next, PUBLISHED),
        Decision::Wait(Waiting::Soak { .. })
    ));
    next.staged = None;
    assert_eq!(
        fleet.decide(&next, PUBLISHED),
        Decision::Idle(Idle::NotStaged)
    );
}

#[test]
fn one_gateway_is_one_vote_whatever_it_says() {
    let document = document();
    let mut fleet = fleet(&document, 20, 20);
    let liar = gateway(3, true);
    for _ in 0..1000 {
        for vote in [Vote::Failed, Vote::Begun, Vote::Taken] {
            hear(&mut fleet, &report(&liar, 5, vote), &document);
        }
    }
    assert_eq!(fleet.tally(&document).failed, 1);
    assert!(matches!(
        fleet.decide(&document, PUBLISHED),
        Decision::Wait(_)
    ));
    // Those whose wave has not come have no vote at all.
    for n in 0..20 {
        hear(
            &mut fleet,
            &report(&gateway(n, false), 5, Vote::Failed),
            &document,
        );
    }
    let tally = fleet.tally(&document);
    assert_eq!((tally.failed, tally.outside, tally.wave), (1, 20, 20));
    // Neither has what is not about these modules, this channel, or an epoch that there is.
    let mut other = report(&gateway(4, true), 5, Vote::Failed);
    other.modules[0].digest = format!("sha256:{}", "b".repeat(64));
    hear(&mut fleet, &other, &document);
    assert_eq!(fleet.tally(&document).failed, 1);
    // It may still say what counts.
    hear(
        &mut fleet,
        &report(&gateway(4, true), 5, Vote::Failed),
        &document,
    );
    assert_eq!(fleet.tally(&document).failed, 2);
    let future = report(&liar, 6, Vote::Failed);
    assert_eq!(fleet.hear(&future, &document, 0), Heard::NeverMade);
    other.channel = "test".to_owned();
    assert_eq!(fleet.hear(&other, &document, 0), Heard::Other);
}

#[test]
fn a_wave_without_a_known_gateway_is_passed_and_a_fleet_without_any_is_waited_for() {
    let document = document();
    let now = PUBLISHED + HOUR;
    assert_eq!(
        fleet(&document, 0, 0).decide(&document, now),
        Decision::Wait(Waiting::Anybody)
    );
    assert_eq!(
        fleet(&document, 0, 3).decide(&document, now),
        Decision::Widen
    );
    // Of a fleet that nobody knew, those that say something are all that is known.
    let mut unknown = fleet(&document, 0, 0);
    votes(&mut unknown, &document, 0, 1, Vote::Failed);
    assert!(matches!(
        unknown.decide(&document, now),
        Decision::Halt { .. }
    ));
}

#[test]
fn a_gateway_that_was_not_heard_for_long_is_forgotten() {
    let document = document();
    let mut fleet = fleet(&document, 3, 0);
    let forget = i64::try_from(limits::FLEET_FORGET.as_millis()).unwrap();
    fleet.follow(&document, PUBLISHED + forget);
    assert_eq!(fleet.tally(&document).gateways, 3);
    fleet.follow(&document, PUBLISHED + forget + 1);
    assert_eq!(fleet.tally(&document).gateways, 0);
}

#[test]
fn there_is_a_bound_on_gateways() {
    let document = document();
    let mut fleet = Fleet::new("stable");
    for n in 0..limits::FLEET_GATEWAYS {
        fleet.apply(&Note::Gateway {
            name: format!("gw-{n}"),
            epoch: 4,
            vote: Vote::Taken,
            counts: true,
            runs: None,
            reason: String::new(),
            at: 0,
        });
    }
    let further = report("further", 5, Vote::Failed);
    assert_eq!(fleet.hear(&further, &document, 0), Heard::Full);
    let known = report("gw-1", 5, Vote::Failed);
    assert!(matches!(fleet.hear(&known, &document, 0), Heard::News(_)));
}

fn payload(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
    let mut json = json!({
        "v": 1, "gateway": "gw-1", "stream": "9f", "seq": 1, "kind": "event", "replayed": false,
        "items": [
            {"time": 1, "code": "clock-set", "text": "x", "data": {"offset": 1}},
            {"time": 1, "code": "epoch-put-back", "text": "x", "data": {
                "channel": "stable", "epoch": 5, "document": "d", "reason": "it\ntraps\u{1b}[31m",
                "modules": [{"name": "range", "version": "1.1.0", "digest": "sha256:aa"},
                            {"name": "deadband", "version": "2.0.0", "digest": "sha256:bb"}]}},
        ],
    });
    change(&mut json);
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn reports_are_read_out_of_what_an_uplink_sends() {
    let found = reports("gw-1", &payload(|_| ())).unwrap();
    let [report] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((report.epoch, report.vote), (5, Vote::Failed));
    assert_eq!(report.inventory(), "deadband 2.0.0, range 1.1.0");
    assert_eq!(report.reason, "it traps [31m", "no terminal obeys it");
    for (name, payload, says) in [
        ("gw-2", payload(|_| ()), "came by the topic of `gw-2`"),
        ("gw-1", payload(|json| json["v"] = 2.into()), "version 2"),
        (
            "gw-1",
            payload(|json| json["items"][1]["data"] = 1.into()),
            "no uplink payload",
        ),
        ("gw-1", b"{".to_vec(), "no uplink payload"),
        ("gw-1", vec![b' '; limits::FLEET_MESSAGE_BYTES + 1], "bytes"),
    ] {
        let refused = reports(name, &payload).unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let long = payload(|json| json["items"][1]["data"]["reason"] = "ä".repeat(1000).into());
    let long = reports("gw-1", &long).unwrap();
    assert_eq!(long[0].reason.len(), limits::FLEET_TEXT_BYTES);
    // What no gateway sends counts for nothing.
    let many = payload(|json| json["items"][1]["data"]["channel"] = "x".repeat(65).into());
    assert!(reports("gw-1", &many).unwrap().is_empty());
}

proptest! {
    #[test]
    fn the_order_and_repetition_of_reports_do_not_matter(
        said in prop::collection::vec((0_usize..12, 0_usize..3, 5_u64..7), 1..60),
        repeated in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let document = wider(&document());
        let vote = |index: usize| [Vote::Begun, Vote::Taken, Vote::Failed][index];
        let all: Vec<Report> = said
            .iter()
            .map(|(who, what, epoch)| report(&gateway(*who, true), *epoch, vote(*what)))
            .collect();
        let mut once = fleet(&document, 12, 0);
        for report in &all {
            hear(&mut once, report, &document);
        }
        let mut again = fleet(&document, 12, 0);
        let mixed = repeated.iter().map(|index| index.get(&all)).chain(all.iter().rev());
        for report in mixed {
            hear(&mut again, report, &document);
        }
        prop_assert_eq!(once.tally(&document), again.tally(&document));
        // And from what is stored.
        let mut stored = Fleet::new("stable");
        for note in again.notes() {
            stored.apply(&note);
        }
        stored.follow(&document, PUBLISHED);
        prop_assert_eq!(stored.tally(&document), again.tally(&document));
        prop_assert!(stored.gateways().eq(again.gateways()));
    }
}
