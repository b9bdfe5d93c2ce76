use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::channel::{Channel, OnFailure, Staged, StagedWave, WaveGate};

const HOUR: Duration = Duration::from_hours(1);

/// A channel's document with `range` at a version, and its epoch.
fn here(epoch: u64, version: &str, minimum: Option<&str>, waves: &str) -> (Epoch, Channel) {
    let digest = format!("sha256:{}", "a".repeat(64));
    let minimum = minimum.map_or("null".to_owned(), |minimum| format!("{minimum:?}"));
    let text = format!(
        r#"{{"v": 1, "channel": "stable", "epoch": {epoch}, "published": 0, "waves": {waves}, "modules":
            {{"range": {{"version": "{version}", "digest": "{digest}", "minimum": {minimum}}}}}}}"#
    );
    let channel = Channel::parse(text.as_bytes()).unwrap();
    let module = EpochModule {
        name: "range".to_owned(),
        version: version.to_owned(),
        digest: digest.clone(),
        bytes: 1,
        world: "filter".to_owned(),
        release: digest,
        vectors: None,
        sbom: None,
        provenance: None,
        minimum: None,
        settings: None,
    };
    let epoch = Epoch {
        channel: "stable".to_owned(),
        epoch,
        document: format!("document {epoch}"),
        modules: vec![module],
    };
    (epoch, channel)
}

fn free() -> Conditions {
    Conditions {
        hold: false,
        place: 5000,
        elapsed: Elapsed::SincePublished(Duration::ZERO),
        window: None,
        now: Some(0),
        revoked: false,
        rested: Duration::ZERO,
    }
}

fn failure(blame: Blame, why: &str) -> Failure {
    Failure {
        stage: Stage::Loading,
        blame,
        why: why.to_owned(),
    }
}

fn next(install: &Install, here: &(Epoch, Channel), conditions: &Conditions) -> Next {
    install.next(Some((&here.0, &here.1)), conditions)
}

#[test]
fn an_epoch_is_rehearsed_tried_and_settled() {
    let one = here(1, "1.0.0", None, "[]");
    let mut install = Install::default();
    assert_eq!(install.next(None, &free()), Next::Rest);
    assert_eq!(next(&install, &one, &free()), Next::Rehearse);
    install.begin(one.0.clone());
    assert_eq!(install.phase, Phase::Trying);
    assert_eq!(next(&install, &one, &free()), Next::Watch);
    assert!(install.settle(7));
    assert!(!install.settle(8), "it is settled once");
    assert_eq!(install.decision.as_ref().unwrap().at, 7);
    // Settled is not the end: a pipeline may put it back later.
    assert_eq!(next(&install, &one, &free()), Next::Watch);
}

#[test]
fn what_fails_is_not_tried_again_until_something_else_comes() {
    let (one, two, three) = (
        here(1, "1.0.0", None, "[]"),
        here(2, "1.1.0", None, "[]"),
        here(3, "1.2.0", None, "[]"),
    );
    let mut install = Install::default();
    install.begin(one.0.clone());
    install.settle(1);
    let bad = Failure {
        stage: Stage::Vectors,
        ..failure(Blame::Module, "no")
    };
    assert_eq!(install.fail(&two.0, bad, 2, 0), Failed::Refused);
    assert_eq!(install.in_force.as_ref(), Some(&one.0));
    assert_eq!(next(&install, &two, &free()), Next::Watch);
    assert_eq!(next(&install, &three, &free()), Next::Rehearse);
    install.begin(three.0.clone());
    assert!(install.go_back("it traps".to_owned(), 3));
    assert_eq!(install.in_force.as_ref(), Some(&one.0));
    assert_eq!(next(&install, &three, &free()), Next::PutBack);
    install.went_back();
    assert_eq!(next(&install, &three, &free()), Next::Watch);
    let refused = install.refused.as_ref().unwrap();
    assert_eq!((refused.epoch, refused.stage), (3, Stage::Trial));
}

#[test]
fn the_first_epoch_goes_back_to_nothing() {
    let one = here(1, "1.0.0", None, "[]");
    let mut install = Install::default();
    assert!(!install.clone().go_back("nothing is in force".to_owned(), 1));
    install.begin(one.0.clone());
    assert!(install.go_back("it traps".to_owned(), 1));
    assert_eq!(install.in_force, None);
    install.went_back();
    assert_eq!(next(&install, &one, &free()), Next::Rest);
}

#[test]
fn a_hold_a_wave_and_a_window_are_waited_for() {
    let waves = r#"[{"percent": 5, "after": "0s"}, {"percent": 60, "after": "1h"}]"#;
    let one = here(1, "1.0.0", None, waves);
    let install = Install::default();
    let hold = Conditions {
        hold: true,
        ..free()
    };
    assert_eq!(next(&install, &one, &hold), Next::Wait(Wait::Hold));
    let wave = |place, left| Next::Wait(Wait::Wave { place, left });
    assert_eq!(next(&install, &one, &free()), wave(5000, Some(HOUR)));
    let later = Conditions {
        elapsed: Elapsed::SincePublished(HOUR),
        ..free()
    };
    assert_eq!(next(&install, &one, &later), Next::Rehearse);
    // A place in no wave, and the place that begins one.
    let last = Conditions {
        place: 6000,
        ..later
    };
    assert_eq!(next(&install, &one, &last), wave(6000, None));
    let first = Conditions {
        place: 499,
        ..free()
    };
    assert_eq!(next(&install, &one, &first), Next::Rehearse);
    let window = |now| Conditions {
        window: DailyWindow::parse("22:00-04:00"),
        now,
        ..later
    };
    let wait = |left| Next::Wait(Wait::Window { left });
    assert_eq!(next(&install, &one, &window(Some(0))), Next::Rehearse);
    let noon = Some(12 * 3_600_000);
    assert_eq!(next(&install, &one, &window(noon)), wait(Some(10 * HOUR)));
    assert_eq!(next(&install, &one, &window(None)), wait(None));
}

#[test]
fn a_revocation_waits_for_nothing_and_is_never_gone_back_on() {
    let one = here(1, "1.0.0", None, "[]");
    let two = here(
        2,
        "1.1.0",
        Some("1.1.0"),
        r#"[{"percent": 1, "after": "90d"}]"#,
    );
    let mut install = Install::default();
    install.begin(one.0.clone());
    install.settle(1);
    assert!(install.raise_minimums(&two.1));
    assert!(!install.raise_minimums(&two.1), "it rose once");
    assert!(!install.raise_minimums(&one.1), "it never falls");
    assert!(install.revoked("range", "1.0.9").unwrap().contains("1.1.0"));
    assert!(install.revoked("range", "no version").is_some());
    assert_eq!(install.revoked("range", "1.1.0"), None);
    assert_eq!(install.revoked("other", "0.0.1"), None);
    let held = Conditions {
        hold: true,
        revoked: true,
        ..free()
    };
    assert_eq!(next(&install, &two, &held), Next::Rehearse);
    install.begin(two.0.clone());
    assert!(!install.go_back("it traps".to_owned(), 2));
    assert_eq!(install.in_force.as_ref(), Some(&two.0));
}

#[test]
fn a_newer_epoch_waits_for_a_trial_under_way_and_what_was_never_proven_is_not_gone_back_to() {
    let (one, two, three) = (
        here(1, "1.0.0", None, "[]"),
        here(2, "1.1.0", None, "[]"),
        here(3, "1.2.0", None, "[]"),
    );
    let mut install = Install::default();
    install.begin(one.0.clone());
    install.settle(1);
    install.begin(two.0.clone());
    assert_eq!(next(&install, &three, &free()), Next::Watch);
    // A revocation does not wait, and finds the trial under way.
    install.begin(three.0.clone());
    assert!(install.go_back("it traps".to_owned(), 2));
    assert_eq!(install.in_force.as_ref(), Some(&one.0));
}

/// A document that gives `range` 1.1.0 from epoch 2 on, to more and more.
fn going_on(epoch: u64, wave: usize, halted: bool) -> (Epoch, Channel) {
    let (epoch, mut channel) = here(epoch, "1.1.0", None, "[]");
    let waves = ["1", "100"].map(|percent| StagedWave {
        percent: percent.parse().unwrap(),
        soak: HOUR,
    });
    let staged = Staged {
        since: 2,
        wave,
        waves: waves.to_vec(),
        gate: WaveGate::default(),
        on_failure: OnFailure::Halt,
        replace: <_>::default(),
        former: <_>::default(),
        halted: halted.then(|| "it is bad".to_owned()),
    };
    channel.waves = staged.open();
    channel.staged = Some(staged);
    channel.check().unwrap();
    (epoch, channel)
}

#[test]
fn what_took_or_refused_a_document_does_not_begin_again_when_it_goes_on_to_more_gateways() {
    let (one, first, wider) = (
        here(1, "1.0.0", None, "[]"),
        going_on(2, 0, false),
        going_on(3, 1, false),
    );
    let mut settled = Install::default();
    settled.begin(one.0.clone());
    settled.settle(1);
    let early = Conditions {
        place: 99,
        ..free()
    };
    let late = Conditions {
        place: 100,
        ..free()
    };
    assert_eq!(next(&settled, &first, &early), Next::Rehearse);
    assert!(matches!(
        next(&settled, &first, &late),
        Next::Wait(Wait::Wave { .. })
    ));
    let mut refused = settled.clone();
    settled.begin(first.0.clone());
    assert_eq!(
        next(&settled, &wider, &early),
        Next::Watch,
        "it is still tried"
    );
    settled.settle(2);
    assert_eq!(next(&settled, &wider, &early), Next::Watch);
    refused.fail(&first.0, failure(Blame::Module, "no"), 2, 0);
    assert_eq!(next(&refused, &wider, &early), Next::Watch);
    // Who had neither takes the wider one; who has something else in force, whatever its number, as well.
    let mut other = Install::default();
    other.begin(one.0.clone());
    other.settle(1);
    assert_eq!(next(&other, &wider, &late), Next::Rehearse);
    let halted = going_on(4, 1, true);
    assert_eq!(next(&other, &halted, &early), Next::Wait(Wait::Halted));
    assert_eq!(
        next(&settled, &halted, &early),
        Next::Watch,
        "what took it keeps it"
    );
    let revoked = Conditions {
        revoked: true,
        ..late
    };
    assert_eq!(next(&other, &halted, &revoked), Next::Rehearse);
}

#[test]
fn a_window_is_read_and_goes_over_midnight() {
    for bad in [
        "",
        "22:00",
        "24:00-01:00",
        "1:00-2:00",
        "22:60-23:00",
        "22:00-22:00",
        "a-b",
    ] {
        assert_eq!(DailyWindow::parse(bad), None, "{bad}");
    }
    let minutes = |count: i64| count * 60_000;
    let night = DailyWindow::parse("22:00-04:00").unwrap();
    assert_eq!(night.opens_in(minutes(22 * 60)), 0);
    assert_eq!(night.opens_in(minutes(22 * 60) - 1), 1);
    assert_eq!(night.opens_in(minutes(4 * 60) - 1), 0);
    assert_eq!(night.opens_in(minutes(4 * 60)), minutes(18 * 60));
    let day = DailyWindow::parse("08:00-09:30").unwrap();
    assert_eq!(day.opens_in(minutes(9 * 60 + 30)), minutes(22 * 60 + 30));
    assert_eq!(day.opens_in(-1), minutes(8 * 60) + 1);
}

#[test]
fn places_are_spread_and_are_others_for_another_epoch() {
    let mut counts = [0_u32; 100];
    for gateway in 0..100_000 {
        counts[usize::from(place(&format!("gw-{gateway:06}"), "stable", 7) / 100)] += 1;
    }
    assert!(
        counts.iter().all(|count| (850..1150).contains(count)),
        "{counts:?}"
    );
    let first = |epoch| (0..1000).filter(move |g| place(&format!("gw-{g}"), "stable", epoch) < 500);
    let (one, two): (Vec<u32>, Vec<u32>) = (first(1).collect(), first(2).collect());
    let both = one.iter().filter(|gateway| two.contains(gateway)).count();
    assert!(both < one.len() / 4, "{both} of {}", one.len());
}

#[test]
fn what_the_device_is_to_blame_for_is_tried_again_for_ever_after_waits_that_grow_and_is_told_once()
{
    let (one, two) = (here(1, "1.0.0", None, "[]"), here(2, "1.1.0", None, "[]"));
    let mut install = Install::default();
    let full = || failure(Blame::Device, "the disk is full");
    let rested = |rested| Conditions { rested, ..free() };
    let mut waits = Vec::new();
    for turn in 0..100 {
        assert_eq!(next(&install, &one, &rested(2 * HOUR)), Next::Rehearse);
        let news = turn == 0;
        assert_eq!(
            install.fail(&one.0, full(), 1, u64::MAX),
            Failed::Again { news }
        );
        // A restart forgets nothing of it.
        let stored = serde_json::to_vec(&install).unwrap();
        install = serde_json::from_slice(&stored).unwrap();
        let Next::Wait(Wait::Again { left }) = next(&install, &one, &rested(Duration::ZERO)) else {
            panic!("it waits");
        };
        assert_eq!(next(&install, &one, &rested(left)), Next::Rehearse);
        waits.push(left.as_secs());
    }
    assert_eq!(waits[..8], [30, 60, 120, 240, 480, 960, 1920, 3600]);
    assert_eq!(waits[99], 3600);
    assert_eq!(install.retry_of(&one.0).unwrap().tries, 100);
    assert_eq!(install.refused, None);
    // Each reason is news once, and there is an end to that.
    let told = (0..20).filter(|turn| {
        let why = format!("reason {}", turn % 12);
        install.fail(&one.0, failure(Blame::Device, &why), 1, 0) == Failed::Again { news: true }
    });
    assert_eq!(told.count(), 7);
    // What the site waits for is waited for as before, and another epoch begins anew.
    let hold = Conditions {
        hold: true,
        ..free()
    };
    assert_eq!(next(&install, &one, &hold), Next::Wait(Wait::Hold));
    assert_eq!(next(&install, &two, &free()), Next::Rehearse);
    assert_eq!(
        install.fail(&two.0, full(), 1, 0),
        Failed::Again { news: true }
    );
    assert_eq!(install.retry_of(&two.0).unwrap().tries, 1);
    // A document that only goes on to more gateways is the same to it.
    let wider = going_on(3, 1, false);
    assert_eq!(install.retry_of(&wider.0).unwrap().tries, 1);
    install.begin(two.0.clone());
    assert_eq!(install.retry, None);
}

#[test]
fn what_may_be_the_modules_fault_is_refused_after_a_bounded_number_of_tries() {
    let one = here(1, "1.0.0", None, "[]");
    let mut install = Install::default();
    let slow = || failure(Blame::Unclear, "the compiler took too long");
    for _ in 1..UNCLEAR_TRIES {
        assert!(matches!(
            install.fail(&one.0, slow(), 1, 0),
            Failed::Again { .. }
        ));
        // The device's own failures between do not count.
        let full = failure(Blame::Device, "the disk is full");
        assert!(matches!(
            install.fail(&one.0, full, 1, 0),
            Failed::Again { .. }
        ));
    }
    assert_eq!(install.fail(&one.0, slow(), 7, 0), Failed::Refused);
    let refused = install.refused.as_ref().unwrap();
    assert_eq!(
        (refused.stage, refused.at, refused.why.as_str()),
        (
            Stage::Loading,
            7,
            "the compiler took too long; it was tried 8 times"
        )
    );
    assert_eq!(install.retry, None);
    assert_eq!(next(&install, &one, &free()), Next::Rest);
}

#[test]
fn a_revocation_that_fails_by_the_devices_fault_waits_for_that_alone() {
    let one = here(1, "1.0.0", None, "[]");
    let two = here(
        2,
        "1.1.0",
        Some("1.1.0"),
        r#"[{"percent": 1, "after": "90d"}]"#,
    );
    let mut install = Install::default();
    install.begin(one.0.clone());
    install.settle(1);
    install.fail(&two.0, failure(Blame::Device, "no memory"), 1, u64::MAX);
    let revoked = |rested| Conditions {
        hold: true,
        revoked: true,
        rested,
        ..free()
    };
    assert!(matches!(
        next(&install, &two, &revoked(Duration::ZERO)),
        Next::Wait(Wait::Again { .. })
    ));
    assert_eq!(next(&install, &two, &revoked(HOUR)), Next::Rehearse);
    // A trial goes on to be looked at meanwhile.
    install.phase = Phase::Trying;
    assert_eq!(next(&install, &two, &revoked(Duration::ZERO)), Next::Watch);
}

/// What can happen to an installation.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        minimum: bool,
    },
    Advance {
        sound: bool,
        blame: u8,
        rested: bool,
    },
    Verdict {
        good: bool,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<bool>().prop_map(|minimum| Step::Publish { minimum }),
        (any::<bool>(), 0..3_u8, any::<bool>()).prop_map(|(sound, blame, rested)| Step::Advance {
            sound,
            blame,
            rested
        }),
        any::<bool>().prop_map(|good| Step::Verdict { good }),
        Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #[test]
    fn whatever_happens_nothing_refused_comes_back_and_nothing_revoked_is_gone_back_to(steps in steps()) {
        let mut install = Install::default();
        let mut newest: Option<(Epoch, Channel)> = None;
        let mut number = 0;
        for step in steps {
            let before = install.clone();
            match step {
                Step::Publish { minimum } => {
                    number += 1;
                    let version = format!("1.{number}.0");
                    newest = Some(here(number, &version, minimum.then_some(version.as_str()), "[]"));
                }
                Step::Advance { sound, blame, rested } => {
                    let Some(newest) = &newest else { continue };
                    install.raise_minimums(&newest.1);
                    let active = install.in_force.as_ref().and_then(|epoch| epoch.module("range"));
                    let revoked = active
                        .is_some_and(|module| install.revoked("range", &module.version).is_some());
                    match next(&install, newest, &Conditions { revoked, rested: if rested { 2 * HOUR } else { Duration::ZERO }, ..free() }) {
                        Next::Rehearse if sound => install.begin(newest.0.clone()),
                        Next::Rehearse => {
                            let blame = [Blame::Module, Blame::Device, Blame::Unclear][usize::from(blame)];
                            let failed = install.fail(&newest.0, failure(blame, "no"), 1, u64::MAX);
                            prop_assert_eq!(failed == Failed::Refused, install.retry.is_none());
                            if blame == Blame::Device {
                                prop_assert_ne!(failed, Failed::Refused);
                            }
                        }
                        Next::PutBack => install.went_back(),
                        Next::Rest | Next::Wait(_) | Next::Watch => {}
                    }
                }
                Step::Verdict { good } if install.in_force.is_some() && install.phase != Phase::GoingBack => {
                    if good {
                        install.settle(1);
                    } else if install.go_back("it traps".to_owned(), 1) {
                        let back = install.in_force.as_ref().and_then(|epoch| epoch.module("range"));
                        let revoked = back.and_then(|module| install.revoked("range", &module.version));
                        prop_assert_eq!(revoked, None);
                    }
                }
                Step::Verdict { .. } => {}
                Step::Restart => {
                    let stored = serde_json::to_vec(&install).unwrap();
                    prop_assert_eq!(&serde_json::from_slice::<Install>(&stored).unwrap(), &install);
                }
            }
            // Minimums only rise.
            for (name, minimum) in &before.minimums {
                prop_assert!(install.minimums[name] >= *minimum);
            }
            // What is refused is not in force.
            if let (Some(refused), Some(now)) = (&install.refused, &install.in_force) {
                prop_assert_ne!(&refused.document, &now.document);
            }
        }
    }
}
