//! Real parts for tests of the real binary: Debian's mosquitto as broker, publisher and collector, and the daemon
//! as a process that can be killed.

#![allow(dead_code, reason = "every test file uses its own part of this")]

pub(crate) mod feed;
pub(crate) mod proxy;
pub(crate) mod sizes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long a condition may take before the test gives up. It bounds a hang; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(180);

/// Waits until `probe` answers, and says what was waited for when it never does.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "gave up waiting for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A loopback port that nobody listens on. It lies below the range from which the system takes ports for outgoing
/// connections, and no other test of this process gets it, so that it is still free when somebody binds it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A directory of one test, removed at its end unless the test fails.
pub(crate) struct Site {
    dir: Option<tempfile::TempDir>,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self {
            dir: Some(tempfile::tempdir().unwrap()),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.as_ref().unwrap().path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Site {
    /// Leaves the directory behind for whoever wants to know more.
    pub(crate) fn keep(mut self) -> String {
        self.dir.take().unwrap().keep().display().to_string()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take().filter(|_| thread::panicking()) {
            eprintln!("kept {}", dir.keep().display());
        }
    }
}

/// A mosquitto of the test's own, which keeps everything it acknowledged.
pub(crate) struct Broker {
    pub(crate) port: u16,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Broker {
    pub(crate) fn start(site: &Site, name: &str) -> Self {
        Self::start_with(site, name, "allow_anonymous true\n")
    }

    /// A broker with further lines in its configuration.
    pub(crate) fn start_with(site: &Site, name: &str, lines: &str) -> Self {
        let port = free_port();
        let dir = site.path(name);
        fs::create_dir_all(&dir).unwrap();
        let text = format!(
            "listener {port} 127.0.0.1\npersistence true\npersistence_location {}/\n\
             autosave_interval 3600\nmax_queued_messages 0\nmax_queued_bytes 0\nuser root\n\
             log_type error\nlog_type warning\nlog_type notice\n{lines}",
            dir.display()
        );
        let config = site.write(&format!("{name}/mosquitto.conf"), &text);
        let mut broker = Self {
            port,
            config,
            log: dir.join("log"),
            child: None,
        };
        broker.resume();
        broker
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Starts the process (again) on the same port and persistence.
    pub(crate) fn resume(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let child = Command::new("mosquitto")
            .env("PATH", path_with_sbin())
            .arg("-c")
            .arg(&self.config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed by `make tools`");
        self.child = Some(child);
        let port = self.port;
        wait_for("the broker's port", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
    }

    /// Ends the process in an orderly way, so that it saves what it holds.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "TERM");
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap().id(), name);
    }

    /// Publishes lines to one topic at QoS 1 by `mosquitto_pub`; returns when all are acknowledged.
    pub(crate) fn publish<S: AsRef<str>>(&self, topic: &str, lines: impl IntoIterator<Item = S>) {
        let mut publisher = Publisher::start(self.port, topic, &[]);
        for line in lines {
            publisher.line(line.as_ref());
        }
        publisher.finish();
    }

    /// Publishes one payload with further arguments to `mosquitto_pub`.
    pub(crate) fn publish_with(&self, topic: &str, payload: &[u8], arguments: &[&str]) {
        let mut child = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-t",
                topic,
                "-s",
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A running `mosquitto_pub -l` at QoS 1.
pub(crate) struct Publisher {
    child: Child,
    input: Option<ChildStdin>,
}

impl Publisher {
    pub(crate) fn start(port: u16, topic: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-q",
                "1",
                "-t",
                topic,
                "-l",
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        Self { child, input }
    }

    pub(crate) fn line(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        input.write_all(b"\n").unwrap();
    }

    /// Waits until the broker has acknowledged everything.
    pub(crate) fn finish(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success(), "mosquitto_pub failed");
    }
}

/// A `mosquitto_sub` that keeps every message of a topic filter, through restarts of the broker.
pub(crate) struct Collector {
    child: Child,
    messages: Arc<Mutex<Vec<Value>>>,
}

impl Collector {
    pub(crate) fn start(port: u16, filter: &str) -> Self {
        let mut child = Command::new("mosquitto_sub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-q",
                "1",
                "-c",
                "-i",
                "collector",
            ])
            .args(["-t", filter, "-F", "%t %p"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let messages = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().unwrap());
        let kept = Arc::clone(&messages);
        let subscribed = Arc::new(AtomicBool::new(false));
        let heard = Arc::clone(&subscribed);
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let Some((topic, payload)) = line.split_once(' ') else {
                    continue;
                };
                if topic.ends_with("/probe") {
                    heard.store(true, Ordering::Relaxed);
                } else if !topic.ends_with("/status") {
                    // What is no JSON is kept as the text it is, for whoever looks at it to stumble over.
                    let message =
                        serde_json::from_str(payload).unwrap_or_else(|_| Value::from(payload));
                    kept.lock().unwrap().push(message);
                }
            }
        });
        // What is sent before the subscription stands is nobody's: wait until a message comes through.
        let probe = filter.replace('#', "probe");
        wait_for("the collector's subscription", || {
            let port = port.to_string();
            let sent = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &port, "-t", &probe, "-m", "probe"])
                .status();
            assert!(sent.unwrap().success());
            subscribed.load(Ordering::Relaxed).then_some(())
        });
        Self { child, messages }
    }

    /// The numbered messages so far in order of arrival, duplicates included.
    pub(crate) fn messages(&self) -> Vec<Value> {
        self.messages.lock().unwrap().clone()
    }

    /// The items of one kind, each message counted once by its `seq`, in order of `seq`.
    pub(crate) fn items(&self, kind: &str) -> Vec<Value> {
        self.distinct(kind)
            .into_values()
            .flat_map(|items| items.as_array().unwrap().clone())
            .collect()
    }

    /// The sum of a member over the items of one kind.
    pub(crate) fn sum(&self, kind: &str, member: &str) -> u64 {
        let items = self.distinct(kind);
        items
            .values()
            .flat_map(|items| items.as_array().unwrap())
            .map(|item| item[member].as_u64().unwrap())
            .sum()
    }

    /// The items of one kind by stream and `seq`.
    fn distinct(&self, kind: &str) -> BTreeMap<(String, u64), Value> {
        let mut messages = BTreeMap::new();
        for message in self.messages.lock().unwrap().iter() {
            if message["kind"] == kind {
                let key = (
                    message["stream"].as_str().unwrap().to_owned(),
                    message["seq"].as_u64().unwrap(),
                );
                let before = messages.insert(key, message["items"].clone());
                if let Some(before) = before {
                    assert_eq!(
                        before, message["items"],
                        "a sealed message went out twice with different items"
                    );
                }
            }
        }
        messages
    }

    /// Asserts that the `seq` of each stream are 1, 2, 3, … without a hole, duplicates aside.
    pub(crate) fn assert_dense(&self) {
        let mut streams: BTreeMap<String, BTreeSet<u64>> = Default::default();
        for message in self.messages() {
            let stream = message["stream"].as_str().unwrap().to_owned();
            streams
                .entry(stream)
                .or_default()
                .insert(message["seq"].as_u64().unwrap());
        }
        for (stream, seqs) in streams {
            let want: BTreeSet<u64> = (1..=seqs.len() as u64).collect();
            assert_eq!(seqs, want, "stream {stream} has holes");
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The real daemon.
pub(crate) struct Daemon {
    child: Child,
    config: PathBuf,
    log: PathBuf,
    pub(crate) http: u16,
}

impl Daemon {
    /// Starts `tidegate run` and waits until its sources are subscribed.
    pub(crate) fn start(config: &Path) -> Self {
        let daemon = Self::spawn(config, &[]);
        daemon.wait_ready();
        daemon
    }

    /// Starts `tidegate run` without waiting.
    pub(crate) fn spawn(config: &Path, env: &[(&str, &str)]) -> Self {
        Self::spawn_under(&[], config, env)
    }

    /// Starts `tidegate run` by another program, which must become it: signals go to the process that was started.
    pub(crate) fn spawn_under(under: &[String], config: &Path, env: &[(&str, &str)]) -> Self {
        let http = free_port();
        let log = config.with_extension("log");
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = tidegate_under(under)
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("TIDEGATE__STATUS__LISTEN", format!("\"127.0.0.1:{http}\""))
            .envs(env.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            child,
            config: config.to_owned(),
            log,
            http,
        }
    }

    #[track_caller]
    pub(crate) fn wait_ready(&self) {
        wait_for("/readyz", || match self.get("/readyz") {
            Some((200, _)) => Some(()),
            _ => None,
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The number of the daemon's thread of a name.
    pub(crate) fn thread(&self, name: &str) -> u32 {
        let of_name = |path: &PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        // The list can leave a thread out while another one ends.
        wait_for(&format!("the thread {name}"), || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
            let thread = threads
                .filter_map(|thread| Some(thread.ok()?.path()))
                .find(of_name)?;
            thread.file_name()?.to_str()?.parse().ok()
        })
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A GET of the status server: code and body, `None` while nobody listens.
    pub(crate) fn get(&self, path: &str) -> Option<(u16, String)> {
        http_get(self.http, path)
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let (code, body) = self.get(path).expect("the status server answers");
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The exit status, once the process has ended.
    pub(crate) fn exited(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_exit(&mut self) -> std::process::ExitStatus {
        wait_for("the daemon's end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// SIGTERM; returns the exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal("TERM");
        self.wait_exit()
            .code()
            .expect("the daemon exits by itself on SIGTERM")
    }

    /// The ledger of the running daemon.
    pub(crate) fn ledger(&self) -> Value {
        self.json("/api/v1/ledger")
    }

    /// `tidegate ledger --verify --json`: exit code and output.
    pub(crate) fn verify(&self) -> (i32, Value) {
        verify(&self.config)
    }

    /// Waits until every item that was queued has been delivered.
    pub(crate) fn wait_delivered(&self) {
        wait_for("an empty outbox", || {
            let ledger = self.ledger();
            let uplinks = ledger["uplinks"].as_object().unwrap();
            uplinks
                .values()
                .all(|uplink| uplink["waiting"] == 0)
                .then_some(())
        });
    }

    /// Waits until a source has taken in so many messages.
    pub(crate) fn wait_received(&self, source: &str, count: u64) {
        wait_for(&format!("{count} messages on {source}"), || {
            let ledger = self.ledger();
            (ledger["sources"][source]["received"].as_u64()? >= count).then_some(())
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if thread::panicking() {
            eprintln!("--- log of the daemon\n{}\n---", self.log());
        }
    }
}

/// `tidegate ledger --verify --json` on a configuration: exit code and output.
pub(crate) fn verify(config: &Path) -> (i32, Value) {
    let output = tidegate()
        .args(["ledger", "--verify", "--json", "--config"])
        .arg(config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}\n{errors}"));
    (output.status.code().unwrap(), value)
}

/// A command of the real binary, without the environment's settings.
pub(crate) fn tidegate() -> Command {
    tidegate_under(&[])
}

fn tidegate_under(under: &[String]) -> Command {
    let binary = env!("CARGO_BIN_EXE_tidegate");
    let mut command = match under {
        [] => Command::new(binary),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    command
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "info")
        .env_remove("JOURNAL_STREAM")
        .env_remove("NOTIFY_SOCKET");
    command
}

/// Runs `tidegate run` on a configuration that keeps it from starting, to its end.
pub(crate) fn run_refused(config: &Path) -> Output {
    tidegate()
        .args(["run", "--config"])
        .arg(config)
        .env(
            "TIDEGATE__STATUS__LISTEN",
            format!("\"127.0.0.1:{}\"", free_port()),
        )
        .output()
        .unwrap()
}

/// Runs a command of the real binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).output().unwrap()
}

/// The folder of the factory modules' components, built by `make modules`.
pub(crate) fn components() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/target/components")
}

/// The folder of the components that misbehave on purpose.
pub(crate) fn hostile_components() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("modules/target/test-components")
}

fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        return Some((code, unchunk(body)));
    }
    Some((code, body.to_owned()))
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    text
}

pub(crate) fn signal(pid: u32, name: &str) {
    assert!(
        Command::new("kill")
            .arg(format!("-{name}"))
            .arg(pid.to_string())
            .status()
            .unwrap()
            .success()
    );
}

/// Whether a case that needs root and these programs can run. One that cannot fails the run, unless `ALLOW_MISSING=1`
/// says that this is known.
#[track_caller]
pub(crate) fn can(what: &str, programs: &[&str]) -> bool {
    let found = |program: &&&str| {
        path_with_sbin()
            .split(':')
            .any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<&&str> = programs.iter().filter(|name| !found(name)).collect();
    let root = rustix::process::getuid().is_root();
    if root && missing.is_empty() {
        return true;
    }
    let needs = if root {
        format!("{missing:?}, see `make tools`")
    } else {
        "root".to_owned()
    };
    assert!(
        std::env::var("ALLOW_MISSING").is_ok_and(|allow| allow == "1"),
        "cannot {what}: it needs {needs}; ALLOW_MISSING=1 goes on without this case"
    );
    eprintln!("NOT RUN: cannot {what}: it needs {needs}");
    false
}

pub(crate) fn path_with_sbin() -> String {
    format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// A configuration of one source and one uplink at the same broker, with the rest given by the test.
pub(crate) fn configuration(site: &Site, broker: &Broker, rest: &str) -> PathBuf {
    let url = broker.url();
    site.write(
        "tidegate.toml",
        &format!(
            "[gateway]\nid = \"gw-test\"\nstate-dir = \"{state}\"\n\
             [source.plant]\nkind = \"mqtt\"\nurl = \"{url}\"\nsubscribe = [{{ topic = \"plant/#\", qos = 1 }}]\n\
             decode = {{ as = \"json\", time-field = \"ts\", time-unit = \"ms\" }}\n\
             [uplink.cloud]\nkind = \"mqtt\"\nurl = \"{url}\"\ntopic = \"tidegate/{{gateway}}/{{kind}}\"\n{rest}",
            state = site.path("state").display(),
        ),
    )
}

/// `{"ts": …, "n": …}`: a numbered measurement. The times lie 10 ms apart and begin `BEGIN` ms after the epoch.
pub(crate) fn numbered(n: u64) -> String {
    format!("{{\"ts\":{},\"n\":{n}}}", BEGIN + n * 10)
}

/// When [`numbered`] measurements begin: on a minute, in December 2025.
pub(crate) const BEGIN: u64 = 1_766_000_040_000;

/// Asserts that reading items hold exactly the numbers `0..count`, each at least once; returns how many came twice.
#[track_caller]
pub(crate) fn assert_numbers(items: &[Value], count: u64) -> u64 {
    let mut seen = BTreeMap::<u64, u64>::new();
    for item in items {
        let number = item["value"]
            .as_u64()
            .unwrap_or_else(|| panic!("an unknown reading: {item}"));
        assert_eq!(item["time"], BEGIN + number * 10, "{item}");
        *seen.entry(number).or_default() += 1;
    }
    let missing: Vec<u64> = (0..count)
        .filter(|number| !seen.contains_key(number))
        .collect();
    assert!(
        missing.is_empty(),
        "{} of {count} are lost, among them {:?}",
        missing.len(),
        &missing[..missing.len().min(10)]
    );
    assert!(
        seen.keys().all(|number| *number < count),
        "numbers that nobody sent"
    );
    seen.values().map(|times| times - 1).sum()
}

/// Asserts that summary items, supplements added, are those of the readings that went up.
#[track_caller]
pub(crate) fn assert_summaries(summaries: &[Value], readings: &[Value], window_ms: i64) {
    #[derive(Default, Debug, PartialEq)]
    struct Sum {
        count: u64,
        sum: f64,
        min: f64,
        max: f64,
    }
    fn add(sums: &mut BTreeMap<(String, i64), Sum>, key: (String, i64), other: &Sum) {
        let sum = sums.entry(key).or_insert(Sum {
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            ..Sum::default()
        });
        sum.count += other.count;
        sum.sum += other.sum;
        sum.min = sum.min.min(other.min);
        sum.max = sum.max.max(other.max);
    }
    let mut want = Default::default();
    for reading in readings {
        let value = reading["value"].as_f64().unwrap();
        let from = reading["time"].as_i64().unwrap().div_euclid(window_ms) * window_ms;
        let one = Sum {
            count: 1,
            sum: value,
            min: value,
            max: value,
        };
        add(
            &mut want,
            (reading["series"].as_str().unwrap().to_owned(), from),
            &one,
        );
    }
    let mut got = Default::default();
    let mut first = BTreeSet::new();
    for summary in summaries {
        let number = |key: &str| {
            summary[key]
                .as_f64()
                .unwrap_or_else(|| panic!("no {key}: {summary}"))
        };
        let from = summary["from"].as_i64().unwrap();
        assert_eq!(summary["to"], from + window_ms, "{summary}");
        let key = (summary["series"].as_str().unwrap().to_owned(), from);
        if summary["late"] != true {
            assert!(
                first.insert(key.clone()),
                "two windows that are no supplement: {summary}"
            );
        }
        let count = summary["count"].as_u64().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "small counts")]
        let one = Sum {
            count,
            sum: number("mean") * count as f64,
            min: number("min"),
            max: number("max"),
        };
        add(&mut got, key, &one);
    }
    let keys: Vec<_> = want.keys().cloned().collect();
    assert_eq!(got.keys().cloned().collect::<Vec<_>>(), keys, "windows");
    for key in keys {
        let (got, want) = (&got[&key], &want[&key]);
        assert_eq!(
            (got.count, got.min, got.max),
            (want.count, want.min, want.max),
            "{key:?}"
        );
        assert!(
            (got.sum - want.sum).abs() <= 1e-6 * want.sum.abs().max(1.0),
            "{key:?}: {got:?} {want:?}"
        );
    }
}
