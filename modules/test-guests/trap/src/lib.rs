//! A guest that traps: on a reading whose series ends in `/trap`, or always where the setting `always` says so.

use tidegate_sdk::{Batch, Fault, Output, settings};

tidegate_sdk::filter!(trap);

fn trap(batch: &Batch, _: &mut Output) -> Result<(), Fault> {
    let always = settings::boolean("always").unwrap_or(false);
    if always || batch.rows().any(|row| row.series().ends_with("/trap")) {
        // What Rust makes of a panic, too.
        std::process::abort();
    }
    Ok(())
}
