//! What can happen to a gateway. Each operation means something in every state, so that any part of a list is a list:
//! that is what makes a failing one shrink.

use crate::disk::{Call, Ending};
use crate::random::Random;

pub(crate) const SOURCES: usize = 2;
pub(crate) const UPLINKS: usize = 2;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Messages of a source reach its broker; their readings were taken `age` seconds ago.
    Publish {
        source: usize,
        messages: u8,
        readings: u8,
        age: i32,
        shape: Shape,
    },
    /// The gateway takes what its broker has for it.
    Take {
        source: usize,
        most: u8,
    },
    /// A source's connection is made anew.
    Reconnect {
        source: usize,
    },
    /// Linger passes, and the writer commits.
    Commit,
    /// The writer looks whether something is due.
    Look,
    Pass {
        milliseconds: u32,
    },
    /// Somebody sets the clock.
    Step {
        seconds: i32,
    },
    /// The right time is learned.
    Synchronise,
    Event,
    SourceGap {
        source: usize,
    },
    /// An uplink gets a connection, over which the other end takes so many messages at once.
    Connect {
        uplink: usize,
        most: u16,
    },
    Cut {
        uplink: usize,
        by_peer: bool,
    },
    Fetch {
        uplink: usize,
        urgent: bool,
    },
    /// Submitted messages go out and, unless they are still under way, arrive.
    Carry {
        uplink: usize,
        packets: u8,
        arrives: bool,
    },
    /// The other end acknowledges one of those that wait for it.
    Answer {
        uplink: usize,
        nth: u8,
        twice: bool,
    },
    ReopenReader,
    /// The process ends and starts again, cleanly.
    Restart,
    /// The end comes now; with `again` once more, so many changes of the disk into the next start.
    End {
        ending: Ending,
        again: Option<u8>,
        battery: bool,
    },
    /// The end comes at the n-th change of the disk.
    EndIn {
        changes: u8,
        ending: Ending,
    },
    Fail {
        call: Call,
        after: u8,
        times: u8,
    },
    /// The disk has room for so many kilobytes more.
    Fill {
        kilobytes: u8,
    },
    Mend,
    Verify,
}

/// What becomes of a message's readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    /// A filter takes half of them out and adds one.
    Filtered,
    /// A filter rejects the first.
    Rejected,
    /// A filter fails, and they are dropped.
    Dropped,
    /// The message is no JSON, and so long.
    Undecodable {
        kilobytes: u8,
    },
    Raise {
        code: u8,
    },
    Clear {
        code: u8,
    },
}

/// How one run is weighted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The bound is small, the line is bad, and messages are large: something has to go.
    pub(crate) tight: bool,
    pub(crate) short_lived: bool,
    /// Faults of the disk beside the ends.
    pub(crate) faults: bool,
    /// Somebody sets the clock.
    pub(crate) clock_steps: bool,
}

impl Setting {
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        Self {
            tight: random.chance(1, 3),
            short_lived: random.chance(1, 4),
            faults: random.chance(1, 2),
            clock_steps: random.chance(1, 3),
        }
    }
}

pub(crate) fn generate(seed: u64, setting: Setting, length: usize) -> Vec<Op> {
    let mut random = Random::new(seed);
    (0..length).map(|_| op(&mut random, setting)).collect()
}

fn op(random: &mut Random, setting: Setting) -> Op {
    let source = random.index(SOURCES);
    let uplink = random.index(UPLINKS);
    let bad_line = setting.tight && random.chance(9, 10);
    match random.below(1000) {
        0..240 => Op::Publish {
            source,
            messages: small(random, if setting.tight { 2 } else { 4 }) + 1,
            readings: if setting.tight {
                20 + small(random, 10)
            } else {
                small(random, 8)
            },
            age: age(random),
            shape: shape(random, setting),
        },
        240..440 => Op::Take {
            source,
            most: small(random, 16) + 1,
        },
        440..450 => Op::Reconnect { source },
        450..600 => Op::Commit,
        600..630 => Op::Look,
        630..690 => Op::Pass {
            milliseconds: match random.below(30) {
                0..27 => range(random, 1_000),
                27..29 => range(random, 20_000),
                _ if setting.short_lived => range(random, 3_600_000),
                _ => range(random, 300_000),
            },
        },
        690..694 if setting.clock_steps => Op::Step {
            seconds: [-7200, -90, -2, 2, 90, 7200][random.index(6)],
        },
        690..702 => Op::Synchronise,
        702..706 => Op::Event,
        706..710 => Op::SourceGap { source },
        710..720 => Op::Connect {
            uplink,
            most: [1, 2, 5, 20][random.index(4)],
        },
        720..735 => Op::Cut {
            uplink,
            by_peer: random.chance(1, 2),
        },
        735..940 if bad_line => Op::Cut {
            uplink,
            by_peer: false,
        },
        735..790 => Op::Connect { uplink, most: 20 },
        790..840 => Op::Fetch {
            uplink,
            urgent: random.chance(1, 2),
        },
        840..880 => Op::Carry {
            uplink,
            packets: small(random, 8) + 1,
            arrives: random.chance(4, 5),
        },
        880..940 => Op::Answer {
            uplink,
            nth: small(random, 4),
            twice: random.chance(1, 8),
        },
        940..944 => Op::ReopenReader,
        944..947 => Op::Restart,
        947..962 => Op::End {
            ending: ending(random),
            again: random.chance(1, 4).then(|| small(random, 24)),
            battery: random.chance(2, 3),
        },
        962..972 => Op::EndIn {
            changes: small(random, 60),
            ending: ending(random),
        },
        972..984 if setting.faults => Op::Fail {
            call: [Call::Read, Call::Write, Call::Sync, Call::Sync][random.index(4)],
            after: small(random, 30),
            times: small(random, 3) + 1,
        },
        984..987 if setting.faults => Op::Fill {
            kilobytes: small(random, 40),
        },
        972..996 => Op::Mend,
        _ => Op::Verify,
    }
}

fn shape(random: &mut Random, setting: Setting) -> Shape {
    match random.below(20) {
        0..12 => Shape::Plain,
        12..14 => Shape::Filtered,
        14 => Shape::Rejected,
        15 => Shape::Dropped,
        16 => Shape::Undecodable {
            kilobytes: small(random, if setting.tight { 8 } else { 2 }),
        },
        17 | 18 => Shape::Raise {
            code: small(random, 3),
        },
        _ => Shape::Clear {
            code: small(random, 3),
        },
    }
}

fn age(random: &mut Random) -> i32 {
    let within = |random: &mut Random, end| i32::try_from(random.below(end)).expect("small");
    match random.below(60) {
        0..54 => within(random, 3),
        54..57 => within(random, 120),
        57 => within(random, 100_000),
        _ => -within(random, 40),
    }
}

fn ending(random: &mut Random) -> Ending {
    if random.chance(1, 3) {
        Ending::Kill
    } else {
        Ending::PowerCut
    }
}

fn small(random: &mut Random, end: u8) -> u8 {
    u8::try_from(random.below(end.into())).expect("less than `end`")
}

fn range(random: &mut Random, end: u32) -> u32 {
    u32::try_from(random.below(end.into())).expect("less than `end`")
}
