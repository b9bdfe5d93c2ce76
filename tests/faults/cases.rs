//! What is done to a gateway. Each case follows from its seed, as far as the machine's own timing lets it.

mod canary;

use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::gateway::{Gateway, Plan};
use crate::loss::Loss;
use crate::oracle::{Verdict, Violation, judge};
use crate::rng::Rng;
use crate::stand::Stand;
use crate::support::proxy::{Line, Proxy};
use crate::support::sizes::Sizes;
use crate::support::{BEGIN, Site, can, signal, wait_for};

/// One case of the suite.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    pub(crate) seed: u64,
    /// How often the fault strikes; for kinds that count calls, at which it does.
    pub(crate) strikes: u64,
    /// A switch that breaks the daemon.
    pub(crate) broken: Option<&'static str>,
}

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SIGKILL at any moment, also while it starts.
    Kill,
    /// SIGKILL at the n-th sync of a new gateway's start.
    StartKill,
    /// SIGKILL at the n-th sync of the writer under load.
    SyncKill,
    /// The power goes, and with it what was not synced.
    PowerCut,
    /// The power goes, or the daemon is killed, while a new version of a filter is on trial.
    Canary,
    /// The disk is full for a while.
    NoSpace,
    /// The n-th write of the writer fails, and then every so many.
    WriteError,
    /// The n-th sync of the writer fails, and then every so many.
    SyncError,
    /// The file system turns read-only.
    ReadOnly,
    /// Pages of the database are overwritten, its first among them.
    Damage,
    /// Every sync takes long.
    SlowDisk,
    /// Both brokers are restarted.
    Brokers,
    /// Both lines are half open, reset, dribble and stall in turn.
    BadLine,
    /// What is on its way up is swallowed, and then the daemon is killed.
    CutOff,
    /// Three packets of ten are lost, both ways, on both lines.
    Loss,
    /// It boots in 1970, the clock is set, and steps.
    Clock,
    /// The line up is down until much more has come in than the store may hold, alarms among it.
    Outage,
}

impl Kind {
    pub(crate) const ALL: [Self; 17] = [
        Self::Kill,
        Self::StartKill,
        Self::SyncKill,
        Self::PowerCut,
        Self::Canary,
        Self::NoSpace,
        Self::WriteError,
        Self::SyncError,
        Self::ReadOnly,
        Self::Damage,
        Self::SlowDisk,
        Self::Brokers,
        Self::BadLine,
        Self::CutOff,
        Self::Loss,
        Self::Clock,
        Self::Outage,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Whether this machine can do it: see [`can`].
    #[track_caller]
    pub(crate) fn can(self) -> bool {
        match self {
            Self::PowerCut | Self::Canary | Self::NoSpace => {
                can("mount a disk", &["mkfs.ext4", "mount", "umount"])
            }
            Self::ReadOnly => can(
                "break and repair a disk",
                &["mkfs.ext4", "mount", "umount", "e2fsck", "strace"],
            ),
            Self::StartKill
            | Self::SyncKill
            | Self::WriteError
            | Self::SyncError
            | Self::SlowDisk => can("make calls fail", &["strace"]),
            Self::Loss => can("drop packets", &["nft"]),
            Self::Clock => can("set a clock", &["faketime"]),
            Self::Kill
            | Self::Damage
            | Self::Brokers
            | Self::BadLine
            | Self::CutOff
            | Self::Outage => true,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            number,
            seed,
            strikes,
            ..
        } = self;
        write!(
            f,
            "{:<10} {number:>3}  seed {seed:>9}  ×{strikes:<3}",
            kind.name()
        )
    }
}

impl Case {
    pub(crate) fn new(kind: Kind, number: u64, seed: u64, strikes: u64) -> Self {
        Self {
            kind,
            number,
            // Neighbouring cases of one run have nothing in common.
            seed: Rng::new(seed ^ (number << 32)).number() % 1_000_000_000,
            strikes,
            broken: None,
        }
    }

    pub(crate) fn with(self, broken: &'static str) -> Self {
        Self {
            broken: Some(broken),
            ..self
        }
    }

    /// Runs it and judges what came of it. A history that is not sound is kept.
    pub(crate) fn run(&self, stand: &Stand) -> Result<Verdict, Vec<Violation>> {
        let run = Run {
            case: self,
            stand,
            begin: Instant::now(),
            rng: Rng::new(self.seed),
        };
        match self.kind {
            Kind::Kill => run.kills(),
            Kind::StartKill => run.kill_at_start(),
            Kind::SyncKill => run.kill_at_sync(),
            Kind::PowerCut => run.power_cuts(),
            Kind::Canary => run.canaries(),
            Kind::NoSpace => run.no_space(),
            Kind::WriteError => run.errors("pwrite64"),
            Kind::SyncError => run.errors("fsync,fdatasync"),
            Kind::ReadOnly => run.read_only(),
            Kind::Damage => run.damage(),
            Kind::SlowDisk => run.slow_disk(),
            Kind::Brokers => run.brokers(),
            Kind::BadLine => run.bad_line(),
            Kind::CutOff => run.cut_off(),
            Kind::Loss => run.loss(),
            Kind::Clock => run.clock(),
            Kind::Outage => run.outage(),
        }
    }
}

struct Run<'a> {
    case: &'a Case,
    stand: &'a Stand,
    begin: Instant,
    rng: Rng,
}

type Judged = Result<Verdict, Vec<Violation>>;

impl<'a> Run<'a> {
    fn kills(mut self) -> Judged {
        let plan = Plan {
            rate: 1500,
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        for _ in 0..self.case.strikes {
            self.ready_mostly(&gateway);
            sleep(self.rng.millis(0..400));
            gateway.kill();
            gateway.revive();
        }
        self.judge(gateway)
    }

    /// A start has some twenty syncs, and begins anew until it is through all of them.
    fn kill_at_start(self) -> Judged {
        let kill = format!("fsync,fdatasync:signal=SIGKILL:when={}", self.case.strikes);
        let plan = Plan {
            under: injecting(&kill),
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        if !gateway.revived {
            // It was through, and the writer has as many syncs before it.
            gateway.daemon.wait_exit();
            gateway.revive();
        }
        gateway.daemon.wait_ready();
        gateway.wait_published(200);
        self.judge(gateway)
    }

    fn kill_at_sync(self) -> Judged {
        let plan = Plan {
            linger: "2ms",
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        let kill = format!("fsync,fdatasync:signal=SIGKILL:when={}", self.case.strikes);
        let mut strace = attach(&gateway, &kill);
        gateway.daemon.wait_exit();
        strace.wait().unwrap();
        gateway.revive();
        gateway.daemon.wait_ready();
        // Some more, so that it has work to do on the far side.
        gateway.wait_published(200);
        self.judge(gateway)
    }

    fn power_cuts(mut self) -> Judged {
        let disk = Disk::new(64);
        let plan = Plan {
            rate: 1500,
            ..Plan::on(&disk)
        };
        let mut gateway = self.gateway(Site::new(), plan);
        for _ in 0..self.case.strikes {
            self.ready_mostly(&gateway);
            sleep(self.rng.millis(0..600));
            gateway.lose_power(&disk);
            disk.restore();
            gateway.revive();
        }
        self.judge(gateway)
    }

    fn no_space(mut self) -> Judged {
        let disk = Disk::new(24);
        // While the line up is down nothing leaves, and the disk fills.
        let line = Proxy::start(self.stand.cloud.borrow().port);
        line.set(Line::Refuse);
        let plan = Plan {
            rate: 1500,
            // What the disk can hold, the space included that is kept back.
            max_size: "32MiB",
            uplink_port: Some(line.port),
            commands: false,
            ..Plan::on(&disk)
        };
        let mut gateway = self.gateway(Site::new(), plan);
        for _ in 0..self.case.strikes {
            let leave = [0, 4096, 65_536, 262_144][self.rng.within(0..4) as usize];
            disk.fill(leave);
            gateway.wait_state("full");
            sleep(self.rng.millis(0..500));
            if self.rng.one_in(3) {
                // The power may go at the worst of times; there is room again when it comes back.
                gateway.lose_power(&disk);
                disk.restore();
                disk.clear();
                gateway.revive();
                gateway.daemon.wait_ready();
            } else {
                disk.clear();
            }
            gateway.wait_state("healthy");
        }
        line.set(Line::Good);
        gateway.set_rate(400);
        self.judge(gateway)
    }

    fn errors(mut self, calls: &str) -> Judged {
        let every = self.rng.within(20..60);
        let error = ["EIO", "EIO", "ENOSPC", "EROFS"][self.rng.within(0..4) as usize];
        // It ends by itself: a group that waits grows, and would at last have more calls than there are between two errors.
        let (first, last) = (self.case.strikes, self.case.strikes + 8 * every);
        let inject = format!("{calls}:error={error}:when={first}..{last}+{every}");
        let plan = Plan {
            linger: "5ms",
            ..Plan::default()
        };
        let gateway = self.gateway(Site::new(), plan);
        // At the writer, which goes on in one thread: every attempt to open a store has a new one, and strace counts for each.
        let mut strace = attach(&gateway, &inject);
        gateway.wait_published(3000);
        signal(strace.id(), "TERM");
        strace.wait().unwrap();
        self.judge(gateway)
    }

    fn read_only(mut self) -> Judged {
        let disk = Disk::new(64);
        let mut gateway = self.gateway(Site::new(), Plan::on(&disk));
        for strike in 0..self.case.strikes {
            gateway.daemon.wait_ready();
            sleep(self.rng.millis(0..500));
            if strike % 2 == 0 {
                disk.fail();
            } else {
                fail_in_a_sync(&gateway, &disk);
            }
            gateway.wait_state("read-only");
            let stored = gateway.stored();
            sleep(self.rng.millis(0..1000));
            assert_eq!(
                gateway.stored(),
                stored,
                "nothing is stored on a disk that is read-only"
            );
            gateway.kill();
            disk.repair();
            gateway.revive();
        }
        self.judge(gateway)
    }

    fn damage(mut self) -> Judged {
        let mut gateway = self.gateway(Site::new(), Plan::default());
        for _ in 0..self.case.strikes {
            gateway.daemon.wait_ready();
            gateway.wait_published(300);
            gateway.kill();
            overwrite(&gateway.database(), &mut self.rng);
            gateway.expect_replacement();
            gateway.revive();
            gateway.wait_state("corrupt");
        }
        gateway.wait_published(300);
        self.judge(gateway)
    }

    fn slow_disk(mut self) -> Judged {
        let delay = format!(
            "fsync,fdatasync:delay_enter={}",
            self.rng.within(50_000..400_000)
        );
        let plan = Plan {
            under: injecting(&delay),
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        for _ in 0..self.case.strikes {
            gateway.wait_published(500);
            gateway.kill();
            gateway.revive_under(&injecting(&delay));
            gateway.daemon.wait_ready();
        }
        self.judge(gateway)
    }

    fn brokers(mut self) -> Judged {
        let gateway = self.gateway(Site::new(), Plan::default());
        for _ in 0..self.case.strikes {
            sleep(self.rng.millis(0..1500));
            let broker = if self.rng.one_in(2) {
                &self.stand.field
            } else {
                &self.stand.cloud
            };
            // In order, so that it saves what it acknowledged: what a broker loses is not the daemon's.
            broker.borrow_mut().stop();
            sleep(self.rng.millis(0..1500));
            broker.borrow_mut().resume();
        }
        self.judge(gateway)
    }

    fn bad_line(mut self) -> Judged {
        let (down, up) = self.lines();
        let plan = Plan {
            source_port: Some(down.port),
            uplink_port: Some(up.port),
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        for _ in 0..self.case.strikes {
            for line in [&down, &up] {
                let lossy = Line::Lossy {
                    per_cent: 30,
                    held: self.rng.millis(200..500),
                    seed: self.case.seed,
                };
                match self.rng.within(0..6) {
                    0 => line.set(Line::Good),
                    1 => line.set(Line::BlackHole),
                    2 => line.set(Line::Stall),
                    3 => line.set(Line::Dribble(8000)),
                    4 => line.set(lossy),
                    _ => {
                        line.set(Line::Refuse);
                        line.reset();
                    }
                }
            }
            sleep(self.rng.millis(0..4000));
            if self.rng.one_in(6) {
                gateway.kill();
                gateway.revive();
            }
        }
        // Whatever swallowed its connection is noticed by the daemon itself.
        down.set(Line::Good);
        up.set(Line::Good);
        self.judge(gateway)
    }

    fn cut_off(mut self) -> Judged {
        let (_, up) = self.lines();
        let plan = Plan {
            uplink_port: Some(up.port),
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        for _ in 0..self.case.strikes {
            gateway.daemon.wait_ready();
            gateway.wait_published(100);
            let before = up.swallowed();
            up.set(Line::BlackHole);
            wait_for("messages that are swallowed", || {
                (up.swallowed() > before + 1000).then_some(())
            });
            sleep(self.rng.millis(100..500));
            gateway.kill();
            up.set(Line::Good);
            gateway.revive();
        }
        self.judge(gateway)
    }

    fn loss(mut self) -> Judged {
        let (down, up) = self.lines();
        let plan = Plan {
            rate: 150,
            source_port: Some(down.port),
            uplink_port: Some(up.port),
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        let losses = [Loss::on(down.port), Loss::on(up.port)];
        for _ in 0..self.case.strikes {
            gateway.wait_published(300);
            sleep(self.rng.millis(0..1000));
            gateway.kill();
            gateway.revive();
        }
        gateway.wait_published(300);
        drop(losses);
        self.judge(gateway)
    }

    fn clock(mut self) -> Judged {
        let site = Site::new();
        let clock = site.write("clock", "1970-01-01 00:00:20\n");
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
        let env = [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let plan = Plan {
            env: env
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec(),
            ..Plan::default()
        };
        let mut gateway = self.gateway(site, plan);
        for _ in 0..self.case.strikes {
            gateway.wait_published(400);
            let hours = ["+0", "+3h", "-3h", "+26h", "-2d", "+40m"][self.rng.within(0..6) as usize];
            fs::write(&clock, hours).unwrap();
            if self.rng.one_in(3) {
                gateway.wait_published(100);
                gateway.kill();
                gateway.revive();
                gateway.daemon.wait_ready();
            }
        }
        gateway.wait_published(400);
        fs::write(&clock, "+0").unwrap();
        self.judge(gateway)
    }

    fn outage(self) -> Judged {
        const MAX_BYTES: u64 = 4 * 1024 * 1024;
        const ALARMS: u64 = 100;
        let (_, up) = self.lines();
        up.set(Line::Refuse);
        let field = self.stand.field.borrow().port;
        let name = self.name();
        let plan = Plan {
            rate: 3000,
            max_size: "4MiB",
            commands: false,
            uplink_port: Some(up.port),
            more: format!(
                "[source.press]\nkind = \"mqtt\"\nurl = \"mqtt://127.0.0.1:{field}\"\n\
                 subscribe = [{{ topic = \"{name}/press/#\" }}]\n\
                 decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\n\
                 [pipeline.watch]\nfrom = [\"press\"]\n\
                 filters = [{{ module = \"anomaly\", settings = {{ rate = 500, zscore = 0 }} }}]\n\
                 to = [{{ uplink = \"cloud\", send = \"readings\", priority = \"low\" }}]\n"
            ),
            ..Plan::default()
        };
        let mut gateway = self.gateway(Site::new(), plan);
        let sizes = Sizes::watch(&gateway.database());
        for n in 0..ALARMS {
            let topic = format!("{name}/press/p{n}");
            let reading = |second: u64, value| {
                let time = BEGIN + 60_000 * n + 1000 * second;
                format!("{{\"ts\":{time},\"v\":{value}}}")
            };
            let lines = [reading(0, 10), reading(1, 5000)];
            self.stand.field.borrow().publish(&topic, lines);
            gateway.alarms.insert(format!("{topic}/v"));
            // Over the whole outage, the oldest while there is plenty of room.
            let begun = 400 * (n + 1);
            wait_for("the sensors", || {
                (gateway.published() >= begun).then_some(())
            });
        }
        wait_for("eviction", || {
            let ledger = gateway.ledger()?;
            (ledger["uplinks"]["cloud"]["evicted"].as_u64()? > 10_000).then_some(())
        });
        gateway.set_rate(100);
        up.set(Line::Good);
        wait_for("an empty outbox", || {
            let ledger = gateway.ledger()?;
            (ledger["uplinks"]["cloud"]["waiting"].as_u64()? < 1000).then_some(())
        });
        let peak = sizes.end();
        assert!(peak <= MAX_BYTES, "{peak} bytes of {MAX_BYTES}");
        self.judge(gateway)
    }

    fn name(&self) -> String {
        let case = self.case;
        format!("{}-{}-{}", case.kind.name(), case.number, case.seed)
    }

    fn gateway(&self, site: Site, plan: Plan) -> Gateway<'a> {
        let case = self.case;
        let plan = Plan {
            broken: case.broken,
            ..plan
        };
        Gateway::start(self.stand, &self.name(), site, plan)
    }

    /// Proxies before the cabinet's broker and the cloud's.
    fn lines(&self) -> (Proxy, Proxy) {
        let (field, cloud) = (
            self.stand.field.borrow().port,
            self.stand.cloud.borrow().port,
        );
        (Proxy::start(field), Proxy::start(cloud))
    }

    /// Now and then it is struck while it still recovers from the last time.
    fn ready_mostly(&mut self, gateway: &Gateway<'_>) {
        if !self.rng.one_in(5) {
            gateway.daemon.wait_ready();
        }
    }

    fn judge(self, gateway: Gateway<'_>) -> Judged {
        gateway.daemon.wait_ready();
        let (history, site) = gateway.settle();
        let judged = judge(&history);
        let (case, seconds) = (self.case, self.begin.elapsed().as_secs_f64());
        match &judged {
            Ok(verdict) => println!("ok    {case}  {verdict}, {seconds:.1} s"),
            Err(violations) if case.broken.is_some() => {
                println!("found {case}  {}, {seconds:.1} s", shorten(violations));
            }
            Err(violations) => {
                let story = site.write("history.txt", &format!("{violations:#?}\n{history:#?}"));
                println!(
                    "FAIL  {case}  {}, {seconds:.1} s, see {}",
                    shorten(violations),
                    story.display()
                );
                site.keep();
            }
        }
        judged
    }
}

impl Plan {
    fn on(disk: &Disk) -> Self {
        Self {
            state: Some(disk.path()),
            ..Self::default()
        }
    }
}

/// Fills the beginnings of database and write-ahead log, and some pages of both, with noise.
fn overwrite(database: &Path, rng: &mut Rng) {
    const PAGE: u64 = 4096;
    for ending in ["", "-wal"] {
        let mut path = database.as_os_str().to_owned();
        path.push(ending);
        let Ok(file) = fs::OpenOptions::new().write(true).open(&path) else {
            // Whoever ended just now had written the log back.
            continue;
        };
        let pages = file.metadata().unwrap().len().div_ceil(PAGE).max(1);
        for strike in 0..8 {
            let page = if strike == 0 { 0 } else { rng.within(0..pages) };
            let noise: Vec<u8> = (0..PAGE).map(|_| rng.within(0..256) as u8).collect();
            file.write_all_at(&noise, page * PAGE).unwrap();
        }
    }
}

/// Has strace make calls of the daemon fail, be slow, or kill. It counts for each thread. The daemon is the process that
/// was started, and strace its grandchild.
fn injecting(what: &str) -> Vec<String> {
    let calls = what.split(':').next().unwrap();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={what}"));
    let mut words = vec![
        "strace",
        "-D",
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    // Other calls are not slowed down by it. strace 6.1 injects no signals that way.
    if !what.contains("signal=") {
        words.push("--seccomp-bpf");
    }
    words.into_iter().map(str::to_owned).collect()
}

/// The same for the writer of a daemon that runs, until the returned strace is ended.
fn attach(gateway: &Gateway<'_>, what: &str) -> Child {
    let mut words = injecting(what);
    words.retain(|word| word != "-D" && word != "-f" && word != "--seccomp-bpf");
    words.extend(["-p".to_owned(), gateway.daemon.thread("writer").to_string()]);
    Command::new(&words[0]).args(&words[1..]).spawn().unwrap()
}

/// The disk turns read-only while the writer is in a sync, which is then told that all is well: what ext4 does where its journal is
/// given up at the wrong moment.
fn fail_in_a_sync(gateway: &Gateway<'_>, disk: &Disk) {
    let lie = "fsync,fdatasync:retval=0:delay_enter=1000000:when=1";
    let mut strace = attach(gateway, lie);
    // There is a sync at least for every `linger` of 20 ms.
    sleep(Duration::from_millis(500));
    disk.fail();
    sleep(Duration::from_millis(700));
    signal(strace.id(), "TERM");
    strace.wait().unwrap();
}

/// The first few, in words.
fn shorten(violations: &[Violation]) -> String {
    let mut text: String = violations
        .iter()
        .take(3)
        .map(|violation| format!("{violation:?} "))
        .collect();
    if text.len() > 600 {
        let cut = (0..600)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
    }
    if violations.len() > 3 {
        text += &format!("and {} more", violations.len() - 3);
    }
    text.trim_end().to_owned()
}
