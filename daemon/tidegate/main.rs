//! The Tidegate daemon.
fn main() {}
