//! The peers: pymodbus as the slaves, mbpoll as the reference reader, socat as the line between.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Site, free_port, path_with_sbin, signal, wait_for};

/// A pymodbus server.
pub(crate) struct Slave {
    child: Child,
    pub(crate) port: u16,
}

impl Slave {
    /// Over TCP; `framer` is `socket`, or `rtu` for the frames of a serial line.
    pub(crate) fn tcp(framer: &str, devices: &Value) -> Self {
        let port = free_port();
        let slave = Self::start(
            port,
            &json!({"listen": port, "framer": framer, "devices": devices}),
        );
        wait_for("the slave to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        slave
    }

    pub(crate) fn serial(device: &Path, devices: &Value) -> Self {
        Self::start(
            0,
            &json!({"device": device, "speed": 115_200, "devices": devices}),
        )
    }

    fn start(port: u16, what: &Value) -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = top.join("target/modbus/bin/python");
        assert!(python.exists(), "pymodbus is missing: run `make tools`");
        let mut child = Command::new(python)
            .arg(top.join("tests/modbus/slave.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(what.to_string().as_bytes()).unwrap();
        Self { child, port }
    }

    pub(crate) fn stop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What mbpoll reads: the text behind each address.
pub(crate) fn mbpoll(
    peer: &[&str],
    unit: u8,
    kind: &str,
    address: u16,
    count: u16,
) -> BTreeMap<u16, String> {
    let output = Command::new("mbpoll")
        .env("PATH", path_with_sbin())
        .args(&peer[1..])
        .args([
            "-a",
            &unit.to_string(),
            "-t",
            kind,
            "-r",
            &address.to_string(),
            "-c",
            &count.to_string(),
        ])
        .args(["-0", "-1", "-q", "-o", "3"])
        .arg(peer[0])
        .output()
        .expect("mbpoll is installed by `make tools`");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter_map(|line| {
        let (address, value) = line.strip_prefix('[')?.split_once("]:")?;
        Some((address.parse().ok()?, value.trim().to_owned()))
    });
    let found: BTreeMap<u16, String> = lines.collect();
    assert!(
        !found.is_empty(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    found
}

/// Two pseudo terminals whose ends are joined: the device that the daemon opens, and the slaves' end.
pub(crate) struct Cable {
    pub(crate) device: PathBuf,
    pub(crate) slaves: PathBuf,
    socat: Option<Child>,
    /// Both ends stay open, so that whoever closes one ends nothing.
    held: Vec<File>,
}

impl Cable {
    pub(crate) fn plugged(site: &Site, name: &str) -> Self {
        let mut cable = Self {
            device: site.path(&format!("{name}.device")),
            slaves: site.path(&format!("{name}.slaves")),
            socat: None,
            held: Vec::new(),
        };
        cable.plug();
        cable
    }

    pub(crate) fn plug(&mut self) {
        let end = |path: &Path| format!("pty,rawer,link={}", path.display());
        let socat = Command::new("socat")
            .args([end(&self.device), end(&self.slaves)])
            .stdin(Stdio::null())
            .spawn()
            .expect("socat is installed by `make tools`");
        self.socat = Some(socat);
        self.held = [&self.device, &self.slaves]
            .map(|path| wait_for("a pseudo terminal", || open(path)))
            .into();
    }

    pub(crate) fn unplug(&mut self) {
        let mut socat = self.socat.take().unwrap();
        signal(socat.id(), "TERM");
        socat.wait().unwrap();
        self.held.clear();
    }

    /// The slaves' end.
    pub(crate) fn end(&self) -> File {
        open(&self.slaves).unwrap()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Some(mut socat) = self.socat.take() {
            socat.kill().ok();
            socat.wait().ok();
        }
    }
}

fn open(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
    options.open(path).ok()
}
