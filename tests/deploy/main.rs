//! Modules over the air, the device's side, against repositories made by python-tuf: what is hostile is refused with the reason
//! and changes nothing, what is legal is taken; no byte can be changed; no cut loses anything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a panic is a test's report"
)]

mod cuts;
mod device;
mod epochs;
mod fleet;
mod gateways;
mod hostile;
mod https;
mod install;
mod kills;
mod memory;
mod repositories;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tampering;
