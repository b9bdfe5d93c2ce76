//! Switches that break the daemon on purpose, for tests that prove what it survives. Not in any release.

use tidegate_domain::Message;

/// Ends the process at once, as a crash in a parser would, on a payload that says so.
pub(crate) fn die_on_poison(messages: &[Message]) {
    let poison = b"\"poison\"";
    if messages.iter().any(|message| {
        message
            .payload
            .windows(poison.len())
            .any(|window| window == poison)
    }) {
        std::process::abort();
    }
}
