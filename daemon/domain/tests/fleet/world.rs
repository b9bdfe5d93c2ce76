//! Virtual time, a repository, lines, and gateways that are the real machines of `install`, with the real machine of `fleet` as
//! the publisher. What is modelled is what those machines do not decide: how long requests, trials and outages take.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_domain::channel::{Channel, OnFailure, Pinned, Staged, StagedWave, WaveGate};
use tidegate_domain::fleet::{self, Decision, Fleet, Heard, Idle, Note};
use tidegate_domain::install::{
    Blame, Conditions, Elapsed, Epoch, EpochModule, Failure, Install, Next, Polls, Stage, Wait,
    place,
};

/// Milliseconds of a second, a minute, an hour.
pub(crate) const SECOND: u64 = 1000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// The publisher's clock when the simulation begins.
const BEGIN: u64 = 1_766_000_000_000;
/// `deploy.poll`'s default.
const POLL: Duration = Duration::from_mins(15);
/// How often the publisher looks at the time, besides at every report.
const LOOK: u64 = MINUTE;
/// Requests of a look: that finds nothing new; that finds another document; for the files of one module.
const IDLE: u32 = 2;
const NEWS: u32 = 5;
const FILES: u32 = 5;
/// Of gateways whose line comes and goes; of gateways without a clock; of looks and reports that are lost or come twice.
const FLAPPING: f64 = 0.05;
const CLOCKLESS: f64 = 0.01;
const LOST: f64 = 0.005;
const TWICE: f64 = 0.02;
/// How long a line of those stays up, and down, in the mean.
const UP: f64 = 20.0;
const DOWN: f64 = 40.0;

/// What is released.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Release {
    Good,
    /// On this part of the gateways it is put back in its trial.
    Bad(f64),
    /// On this part it is put back an hour or so after it was taken.
    BadLater(f64),
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) gateways: u32,
    pub(crate) seed: u64,
    pub(crate) release: Release,
    /// Waves: percent, and the least time of each.
    pub(crate) waves: &'static [(&'static str, u64)],
    /// Whether reports decide; else time alone does.
    pub(crate) gated: bool,
    /// The repository answers nobody from when to when.
    pub(crate) repository_down: Option<(u64, u64)>,
    /// The part of the gateways on which a sound release fails for reasons of their own.
    pub(crate) own_reasons: f64,
    /// Where the power comes back: when, and to which part of the gateways.
    pub(crate) power: Option<(u64, f64)>,
    /// When the simulation ends, at the latest.
    pub(crate) until: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Gateways on which the release was in force, if only for its trial.
    pub(crate) reached: u32,
    pub(crate) taken: u32,
    pub(crate) failed: u32,
    pub(crate) halted: Option<u64>,
    /// When 99 of 100 gateways had taken it.
    pub(crate) most: Option<u64>,
    /// When the last wave was through.
    pub(crate) through: Option<u64>,
    /// Without a clock, and how many of them took it.
    pub(crate) clockless: (u32, u32),
    pub(crate) flapping: (u32, u32),
    /// Messages that came to the publisher, and how many said nothing new.
    pub(crate) messages: u64,
    pub(crate) known: u64,
    pub(crate) looks: Load,
    pub(crate) requests: Load,
}

/// Counts by second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Load(Vec<u32>);

impl Load {
    fn add(&mut self, at: u64, count: u32) {
        let second = usize::try_from(at / SECOND).unwrap();
        if self.0.len() <= second {
            self.0.resize(second + 1, 0);
        }
        self.0[second] += count;
    }

    /// A second's mean, and the greatest mean of `bin` seconds, of what is complete.
    pub(crate) fn mean_and_peak(&self, bin: usize) -> (f64, f64) {
        let whole = &self.0[..self.0.len() / bin * bin];
        let sum = |counts: &[u32]| counts.iter().copied().map(f64::from).sum::<f64>();
        let seconds = f64::from(u32::try_from(whole.len()).unwrap());
        let peak = whole.chunks(bin).map(sum).fold(0.0, f64::max);
        let bin = f64::from(u32::try_from(bin).unwrap());
        (sum(whole) / seconds, peak / bin)
    }
}

/// `SplitMix64`, by Steele, Lea and Flood (2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).unwrap()) / f64::from(u32::MAX)
    }

    fn chance(&mut self, of: f64) -> bool {
        self.share() < of
    }

    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    /// Exponential, in milliseconds.
    fn minutes(&mut self, mean: f64) -> u64 {
        let minutes = -(1.0 - self.share()).max(1e-9).ln() * mean;
        Duration::from_secs_f64(minutes * 60.0)
            .as_millis()
            .try_into()
            .unwrap()
    }
}

struct Gateway {
    id: String,
    install: Install,
    polls: Polls,
    clock: bool,
    flapping: bool,
    up: bool,
    /// Cancels a look that was planned before.
    look: u32,
    /// The document that it has, and since when.
    newest: usize,
    seen: u64,
    files: bool,
    reached: bool,
    /// Reports that wait for the line.
    waiting: Vec<Vec<u8>>,
    seq: u64,
}

/// A document as it is published.
struct Document {
    channel: Channel,
    epoch: Epoch,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Look(u32, u32),
    /// A wave may have come.
    Advance(u32),
    /// The trial is over, or what was taken shows what it is.
    Verdict(u32),
    Line(u32),
    Power(u32),
    Deliver(u32, Vec<u8>),
    Publisher,
}

pub(crate) struct World {
    plan: Plan,
    now: u64,
    random: Random,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    gateways: Vec<Gateway>,
    documents: Vec<Arc<Document>>,
    fleet: Fleet,
    outcome: Outcome,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    let mut world = World::new(plan.clone());
    world.publish_release();
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        if at >= plan.until || world.is_over() {
            break;
        }
        world.now = at;
        world.happen(event);
    }
    world.outcome
}

fn document(epoch: u64, version: &str, published: u64) -> Document {
    let digest = format!(
        "sha256:{}",
        if version == "1.0.0" { "a" } else { "b" }.repeat(64)
    );
    let pinned = Pinned {
        version: version.parse().unwrap(),
        digest: digest.clone(),
        minimum: None,
        settings: None,
    };
    let module = EpochModule {
        name: "range".to_owned(),
        version: version.to_owned(),
        digest: digest.clone(),
        bytes: 65_536,
        world: "tidegate:module/filter@0.2.0".to_owned(),
        release: digest,
        vectors: None,
        sbom: None,
        provenance: None,
        minimum: None,
        settings: None,
    };
    let channel = Channel {
        v: 1,
        channel: "stable".parse().unwrap(),
        epoch,
        published: BEGIN + published,
        modules: [("range".parse().unwrap(), pinned)].into(),
        waves: Vec::new(),
        canary: None,
        staged: None,
    };
    let epoch = Epoch {
        channel: "stable".to_owned(),
        epoch,
        document: format!("sha256:{epoch:064}"),
        modules: vec![module],
    };
    Document { channel, epoch }
}

impl World {
    /// Every gateway runs the first epoch, and the publisher has heard so.
    fn new(plan: Plan) -> Self {
        let first = Arc::new(document(1, "1.0.0", 0));
        let mut world = Self {
            random: Random(plan.seed),
            now: 0,
            events: BinaryHeap::new(),
            planned: 0,
            gateways: Vec::new(),
            documents: vec![Arc::clone(&first)],
            fleet: Fleet::new("stable"),
            outcome: Outcome::default(),
            plan,
        };
        world.fleet.follow(&first.channel, wall(0));
        for index in 0..world.plan.gateways {
            let mut install = Install::default();
            install.begin(first.epoch.clone());
            install.settle(wall(0));
            let gateway = Gateway {
                id: format!("gw-{index:06}"),
                install,
                polls: Polls::new(POLL),
                clock: !world.random.chance(CLOCKLESS),
                flapping: world.random.chance(FLAPPING),
                up: true,
                look: 0,
                newest: 0,
                seen: 0,
                files: false,
                reached: false,
                waiting: Vec::new(),
                seq: 0,
            };
            world.outcome.clockless.0 += u32::from(!gateway.clock);
            world.outcome.flapping.0 += u32::from(gateway.flapping);
            let flapping = gateway.flapping;
            world.gateways.push(gateway);
            world.report(index, "epoch-settled", "in force everywhere");
            let phase = world.phase();
            world.plan(phase, Event::Look(index, 0));
            if flapping {
                let up = world.random.minutes(UP);
                world.plan(up, Event::Line(index));
            }
            if let Some((at, part)) = world.plan.power
                && world.random.chance(part)
            {
                world.plan(at, Event::Power(index));
            }
        }
        world.plan(LOOK, Event::Publisher);
        world
    }

    /// The time to the next look of a gateway that has been under way for long: within a wait that is the more likely the longer
    /// it is (<https://en.wikipedia.org/wiki/Renewal_theory#Inspection_paradox>).
    fn phase(&mut self) -> u64 {
        let mut polls = Polls::new(POLL);
        loop {
            let wait = polls.after_success(self.random.next());
            if self.random.chance(wait.div_duration_f64(POLL)) {
                return millis(wait.mul_f64(self.random.share()));
            }
        }
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.planned += 1;
        self.events
            .push(Reverse((self.now + after, self.planned, event)));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look(gateway, number) => {
                if self.gateways[gateway as usize].look == number {
                    self.look(gateway);
                }
            }
            Event::Advance(gateway) => self.advance(gateway),
            Event::Verdict(gateway) => self.verdict(gateway),
            Event::Line(gateway) => self.line(gateway),
            Event::Power(gateway) => {
                let wait = Polls::first(self.random.next());
                self.plan_look(gateway, wait);
            }
            Event::Deliver(gateway, payload) => self.hear(gateway, &payload),
            Event::Publisher => {
                self.plan(LOOK, Event::Publisher);
                self.decide();
            }
        }
    }

    /// A good release is through, or what is halted has had time to spread nevertheless.
    fn is_over(&self) -> bool {
        let halted = self
            .outcome
            .halted
            .is_some_and(|at| self.now > at + 2 * HOUR);
        // More than enough to show what the halt is for.
        let broken = !self.plan.gated && self.outcome.reached > self.plan.gateways / 5;
        halted || broken || (self.outcome.most.is_some() && self.outcome.through.is_some())
    }

    // What the publisher does.

    fn publish_release(&mut self) {
        let mut new = document(2, "1.1.0", self.now);
        let gate = match self.plan.gated {
            true => WaveGate::default(),
            false => WaveGate {
                failures: 1.0,
                taken: 0.0,
            },
        };
        let waves = self.plan.waves.iter().map(|(percent, soak)| StagedWave {
            percent: percent.parse().unwrap(),
            soak: Duration::from_millis(*soak),
        });
        let staged = Staged {
            since: 2,
            wave: 0,
            waves: waves.collect(),
            gate,
            on_failure: OnFailure::Halt,
            replace: <_>::default(),
            former: self.documents[0].channel.modules.clone(),
            halted: None,
        };
        new.channel.waves = staged.open();
        new.channel.staged = Some(staged);
        self.put(new);
    }

    fn put(&mut self, document: Document) {
        // As a gateway reads it.
        let text = serde_json::to_vec(&document.channel).unwrap();
        assert_eq!(Channel::parse(&text).unwrap(), document.channel);
        self.fleet.follow(&document.channel, wall(self.now));
        self.documents.push(Arc::new(document));
    }

    fn go_on(&mut self, change: impl FnOnce(&mut Staged)) {
        let last = &self.documents[self.documents.len() - 1];
        let mut next = document(last.channel.epoch + 1, "1.1.0", self.now);
        let mut staged = last.channel.staged.clone().unwrap();
        change(&mut staged);
        next.channel.waves = staged.open();
        next.channel.staged = Some(staged);
        self.put(next);
    }

    fn hear(&mut self, gateway: u32, payload: &[u8]) {
        self.outcome.messages += 1;
        let topic = &self.gateways[gateway as usize].id;
        for report in fleet::reports(topic, payload).unwrap() {
            let document = &self.documents[self.documents.len() - 1].channel;
            match self.fleet.hear(&report, document, wall(self.now)) {
                Heard::News(note) => {
                    self.fleet.apply(&note);
                    self.decide();
                }
                Heard::Known => self.outcome.known += 1,
                Heard::Other | Heard::NeverMade | Heard::Full => panic!("{report:?}"),
            }
        }
    }

    fn decide(&mut self) {
        let document = Arc::clone(&self.documents[self.documents.len() - 1]);
        match self.fleet.decide(&document.channel, wall(self.now)) {
            Decision::Wait(_) | Decision::Idle(Idle::NotStaged | Idle::Halted) => {}
            Decision::Idle(Idle::Through) => {
                self.outcome.through.get_or_insert(self.now);
            }
            Decision::Widen => self.go_on(|staged| staged.wave += 1),
            Decision::Halt { why } => {
                let since = document.channel.placed_by();
                let note = Note::Halt {
                    since,
                    why: why.clone(),
                };
                self.fleet.apply(&note);
                self.outcome.halted.get_or_insert(self.now);
                self.go_on(|staged| staged.halted = Some(why));
            }
        }
    }

    // What gateways do.

    fn plan_look(&mut self, gateway: u32, wait: Duration) {
        let of = &mut self.gateways[gateway as usize];
        of.look += 1;
        let number = of.look;
        self.plan(millis(wait), Event::Look(gateway, number));
    }

    fn look(&mut self, gateway: u32) {
        self.outcome.looks.add(self.now, 1);
        let answers = |(from, to): (u64, u64)| !(from..to).contains(&self.now);
        let answers = self.plan.repository_down.is_none_or(answers);
        let lost = self.random.chance(LOST);
        let of = &mut self.gateways[gateway as usize];
        if !of.up || lost || !answers {
            // What does not leave the gateway is no load of the repository.
            if of.up {
                self.outcome.requests.add(self.now, 1);
            }
            let wait = of.polls.after_failure(self.random.next());
            self.plan_look(gateway, wait);
            return;
        }
        let newest = self.documents.len() - 1;
        let news = of.newest != newest;
        let files = news && !of.files;
        let requests = if news { NEWS } else { IDLE } + if files { FILES } else { 0 };
        // One after the other, each with its way there and back.
        for request in 0..requests {
            let at = self.now + u64::from(request) * 200;
            self.outcome.requests.add(at, 1);
        }
        if news {
            of.newest = newest;
            of.seen = self.now;
            of.files = true;
        }
        let wait = of.polls.after_success(self.random.next());
        self.plan_look(gateway, wait);
        if news {
            self.advance(gateway);
        }
    }

    /// As `tidegate/install.rs` does.
    fn advance(&mut self, gateway: u32) {
        loop {
            let of = &self.gateways[gateway as usize];
            let document = Arc::clone(&self.documents[of.newest]);
            let channel = &document.channel;
            let conditions = Conditions {
                hold: false,
                place: place(&of.id, channel.channel.as_str(), channel.placed_by()),
                elapsed: match of.clock {
                    true => Elapsed::SincePublished(Duration::from_millis(
                        (BEGIN + self.now).saturating_sub(channel.published),
                    )),
                    false => Elapsed::AtLeast(Duration::from_millis(self.now - of.seen)),
                },
                window: None,
                now: of.clock.then(|| wall(self.now)),
                revoked: false,
                rested: Duration::ZERO,
            };
            match of
                .install
                .next(Some((&document.epoch, channel)), &conditions)
            {
                Next::Rest | Next::Watch => return,
                Next::Wait(wait) => {
                    if let Wait::Wave {
                        left: Some(left), ..
                    } = wait
                    {
                        self.plan(millis(left).max(1), Event::Advance(gateway));
                    }
                    return;
                }
                Next::Rehearse => self.rehearse(gateway, &document),
                Next::PutBack => self.gateways[gateway as usize].install.went_back(),
            }
        }
    }

    fn rehearse(&mut self, gateway: u32, document: &Document) {
        let sound = !self.random.chance(self.plan.own_reasons / 2.0);
        let trial = self.random.between(3 * MINUTE, 20 * MINUTE);
        let of = &mut self.gateways[gateway as usize];
        if !sound {
            let why = "a golden vector does not pass here".to_owned();
            let failure = Failure {
                stage: Stage::Vectors,
                blame: Blame::Module,
                why: why.clone(),
            };
            of.install.fail(&document.epoch, failure, wall(self.now), 0);
            self.outcome.failed += 1;
            return self.report(gateway, "epoch-refused", &why);
        }
        of.install.begin(document.epoch.clone());
        self.outcome.reached += u32::from(!std::mem::replace(&mut of.reached, true));
        self.report(gateway, "epoch-begun", "rehearsed; the pipelines try it");
        self.plan(trial, Event::Verdict(gateway));
    }

    fn verdict(&mut self, gateway: u32) {
        let later = self.random.between(40 * MINUTE, 100 * MINUTE);
        let chance = self.random.share();
        let now = wall(self.now);
        let of = &mut self.gateways[gateway as usize];
        let trying = of.install.settle(now);
        let fails = match self.plan.release {
            Release::Good => trying && chance < self.plan.own_reasons / 2.0,
            Release::Bad(part) => trying && chance < part,
            Release::BadLater(_) => !trying,
        };
        if fails {
            let why = "pipeline p: 3 traps: unreachable".to_owned();
            if of.install.go_back(why.clone(), now) {
                self.outcome.failed += 1;
                if !trying {
                    self.count_taken(gateway, false);
                }
                self.report(gateway, "epoch-put-back", &why);
                self.advance(gateway);
            }
            return;
        }
        self.count_taken(gateway, true);
        self.report(gateway, "epoch-settled", "in force everywhere");
        if let Release::BadLater(part) = self.plan.release
            && chance < part
        {
            self.plan(later, Event::Verdict(gateway));
        }
    }

    fn count_taken(&mut self, gateway: u32, took: bool) {
        let of = &self.gateways[gateway as usize];
        let counts = [
            (true, &mut self.outcome.taken),
            (!of.clock, &mut self.outcome.clockless.1),
            (of.flapping, &mut self.outcome.flapping.1),
        ];
        for (applies, count) in counts {
            match (applies, took) {
                (false, _) => {}
                (true, true) => *count += 1,
                (true, false) => *count -= 1,
            }
        }
        if u64::from(self.outcome.taken) * 100 >= u64::from(self.plan.gateways) * 99 {
            self.outcome.most.get_or_insert(self.now);
        }
    }

    fn line(&mut self, gateway: u32) {
        let of = &mut self.gateways[gateway as usize];
        of.up = !of.up;
        let mean = if of.up { UP } else { DOWN };
        let waiting = match of.up {
            true => std::mem::take(&mut of.waiting),
            false => Vec::new(),
        };
        let next = self.random.minutes(mean);
        self.plan(next, Event::Line(gateway));
        for payload in waiting {
            self.send(gateway, payload);
        }
    }

    /// As an uplink writes it.
    fn report(&mut self, gateway: u32, code: &str, reason: &str) {
        let of = &mut self.gateways[gateway as usize];
        let install = &of.install;
        let refused = install.refused.as_ref().filter(|_| code != "epoch-settled");
        let about = match (refused, code) {
            (Some(refused), "epoch-refused" | "epoch-put-back") => {
                let of = |document: &&Arc<Document>| document.epoch.epoch == refused.epoch;
                self.documents
                    .iter()
                    .find(of)
                    .map(|document| &document.epoch)
            }
            (_, _) => install.in_force.as_ref(),
        };
        let epoch = about.unwrap();
        let module = &epoch.modules[0];
        of.seq += 1;
        let payload = serde_json::json!({
            "v": 1, "gateway": of.id, "stream": "9f2c41d07b3e8a55", "seq": of.seq, "kind": "event", "replayed": false,
            "items": [{
                "time": wall(self.now), "code": code, "text": format!("channel stable epoch {}: {reason}", epoch.epoch),
                "data": {
                    "channel": epoch.channel, "epoch": epoch.epoch, "document": epoch.document, "reason": reason,
                    "modules": [{"name": module.name, "version": module.version, "digest": module.digest}],
                },
            }],
        });
        let payload = serde_json::to_vec(&payload).unwrap();
        match of.up {
            true => self.send(gateway, payload),
            false => of.waiting.push(payload),
        }
    }

    /// Over the line, which is no slower than a minute, and sometimes twice.
    fn send(&mut self, gateway: u32, payload: Vec<u8>) {
        if self.random.chance(TWICE) {
            let later = self.random.between(SECOND, HOUR);
            self.plan(later, Event::Deliver(gateway, payload.clone()));
        }
        let soon = self.random.between(100, MINUTE);
        self.plan(soon, Event::Deliver(gateway, payload));
    }
}

fn wall(now: u64) -> i64 {
    i64::try_from(BEGIN + now).unwrap()
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap()
}
