//! SIGKILL at a chosen sync of the thread that looks and installs.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::support::{Daemon, wait_for};

/// Traces the thread from now on: at its `sync`-th fsync the process is killed. That may be at once, for it installs by itself.
pub(crate) fn at_sync(daemon: &mut Daemon, sync: u32) -> Tracer {
    let thread = daemon.thread("deploy");
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &thread.to_string()])
        .args(["-e", &format!("inject=fsync:signal=SIGKILL:when={sync}")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace is installed by `make tools`");
    let status = format!("/proc/{}/task/{thread}/status", daemon.pid());
    wait_for("strace", || {
        let traced =
            fs::read_to_string(&status).is_ok_and(|status| !status.contains("TracerPid:\t0\n"));
        (traced || daemon.exited().is_some()).then_some(())
    });
    Tracer(strace)
}

/// It traces until it is dropped.
pub(crate) struct Tracer(Child);

impl Drop for Tracer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
