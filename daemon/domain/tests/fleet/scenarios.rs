//! What is simulated, what it has to come to, and how it is printed.

use std::fmt::Write;

use crate::world::{HOUR, MINUTE, Outcome, Plan, Release, run};

/// From here on even a wave of a thousandth has a hundred gateways.
const LARGE: u32 = 50_000;
/// A bad release reaches less than this part of the gateways.
const REACHED: f64 = 0.005;
/// Looks in a second: the greatest mean of a bin beside the mean of all. They are spread evenly, and chance is what is left.
const LOOKS: f64 = 1.4;
/// Likewise where the power comes back to a tenth, which all look within a minute of their start.
const LOOKS_POWER: f64 = 4.0;
/// Likewise while the repository is away: a look that failed is tried again after seconds at first, for mostly it was the
/// gateway's own line.
const LOOKS_AWAY: f64 = 6.0;
/// Requests in a second, whatever happens. A look that finds a new release makes ten instead of two, which every gateway does in
/// one poll.
const REQUESTS: f64 = 5.5;

const WAVES: &[(&str, u64)] = &[
    ("0.1", 2 * HOUR),
    ("0.4", 2 * HOUR),
    ("2", 2 * HOUR),
    ("10", 3 * HOUR),
    ("50", 3 * HOUR),
    ("100", 2 * HOUR),
];

/// A scenario, and what has to come of it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) plan: Plan,
    expect: Expect,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    /// 99 of 100 take it, and looks are so even.
    Spreads {
        looks: f64,
    },
    Halts,
    /// Without the halt the bound does not hold, or it proves nothing.
    Breaks,
}

pub(crate) fn scenarios(gateways: u32, seed: u64) -> Vec<Scenario> {
    let plan = |release| Plan {
        gateways,
        seed,
        release,
        waves: WAVES,
        gated: true,
        // In waves of two gateways one of them is too many, as it should be.
        own_reasons: if gateways >= LARGE { 0.003 } else { 0.0 },
        repository_down: None,
        power: None,
        until: 72 * HOUR,
    };
    let scenario = |name, release, expect| Scenario {
        name,
        plan: plan(release),
        expect,
    };
    let even = Expect::Spreads { looks: LOOKS };
    let away = Expect::Spreads { looks: LOOKS_AWAY };
    let power = Expect::Spreads { looks: LOOKS_POWER };
    let mut all = vec![
        scenario("good", Release::Good, even),
        scenario("good, the repository away for an hour", Release::Good, away),
        scenario("good, the power back in a tenth", Release::Good, power),
        scenario("bad on 60 %", Release::Bad(0.6), Expect::Halts),
        scenario(
            "bad on 60 %, an hour later",
            Release::BadLater(0.6),
            Expect::Halts,
        ),
        scenario(
            "bad on 60 %, without the halt",
            Release::Bad(0.6),
            Expect::Breaks,
        ),
    ];
    all[1].plan.repository_down = Some((5 * HOUR, 6 * HOUR));
    all[2].plan.power = Some((5 * HOUR + 7 * MINUTE, 0.1));
    all[5].plan.gated = false;
    // In fewer it is chance whether one of the first waves has it.
    if gateways >= LARGE {
        let rare = scenario("bad on 6 %", Release::Bad(0.06), Expect::Halts);
        all.insert(5, rare);
    }
    all
}

impl Scenario {
    pub(crate) fn run(&self) -> Outcome {
        run(&self.plan)
    }

    /// Seconds over which loads are compared: as many that chance alone does not make a peak.
    fn bin(&self) -> usize {
        if self.plan.gateways >= LARGE { 10 } else { 120 }
    }

    /// What does not hold.
    pub(crate) fn problems(&self, outcome: &Outcome) -> Vec<String> {
        let mut problems = Vec::new();
        let mut must = |holds: bool, what: String| {
            if !holds {
                problems.push(format!("{}: {what}", self.name));
            }
        };
        let reached = part(outcome.reached, self.plan.gateways);
        match self.expect {
            Expect::Spreads { looks } => {
                must(outcome.halted.is_none(), "it was halted".to_owned());
                must(outcome.most.is_some(), "99 % never had it".to_owned());
                must(
                    outcome.through.is_some(),
                    "its last wave never was through".to_owned(),
                );
                let (mean, peak) = outcome.looks.mean_and_peak(self.bin());
                must(
                    peak <= looks * mean,
                    format!("looks {peak:.1}/s over {mean:.1}/s"),
                );
                let (mean, peak) = outcome.requests.mean_and_peak(self.bin());
                must(
                    peak <= REQUESTS * mean,
                    format!("requests {peak:.1}/s over {mean:.1}/s"),
                );
                for (what, (of, took)) in [
                    ("without a clock", outcome.clockless),
                    ("flapping", outcome.flapping),
                ] {
                    must(
                        of > 0 && part(took, of) > 0.8,
                        format!("{took} of {of} {what} took it"),
                    );
                }
                must(outcome.known > 0, "nothing came twice".to_owned());
            }
            Expect::Halts => {
                must(outcome.halted.is_some(), "it was not halted".to_owned());
                must(outcome.reached > 0, "it reached nobody".to_owned());
                must(
                    reached < REACHED,
                    format!("it reached {:.3} %", reached * 100.0),
                );
            }
            Expect::Breaks => must(
                reached >= REACHED,
                "the bound holds without the halt, so that the halt shows nothing".to_owned(),
            ),
        }
        problems
    }

    pub(crate) fn row(&self, outcome: &Outcome) -> String {
        let time = |at: Option<u64>| {
            at.map_or("-".to_owned(), |at| {
                format!("{}:{:02} h", at / HOUR, at % HOUR / MINUTE)
            })
        };
        let load = |(mean, peak): (f64, f64)| format!("{mean:.0}/{peak:.0} ({:.2}x)", peak / mean);
        let mut row = format!("{:<38}", self.name);
        let cells = [
            (10, outcome.reached.to_string()),
            (
                10,
                format!("{:.3} %", part(outcome.reached, self.plan.gateways) * 100.0),
            ),
            (10, time(outcome.halted)),
            (10, time(outcome.most)),
            (18, load(outcome.looks.mean_and_peak(self.bin()))),
            (18, load(outcome.requests.mean_and_peak(self.bin()))),
            (9, outcome.messages.to_string()),
            (7, outcome.known.to_string()),
        ];
        for (width, cell) in cells {
            write!(row, "{cell:>width$}").unwrap();
        }
        row
    }
}

pub(crate) fn head() -> String {
    format!(
        "{:<38}{:>10}{:>10}{:>10}{:>10}{:>18}{:>18}{:>9}{:>7}",
        "release",
        "reached",
        "",
        "halted",
        "99 % have",
        "looks/s mean/peak",
        "requests/s",
        "reports",
        "known"
    )
}

fn part(of: u32, all: u32) -> f64 {
    f64::from(of) / f64::from(all)
}
