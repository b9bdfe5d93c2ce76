//! A guest that never returns: on a reading whose series ends in `/endless`, or always where the setting `always` says so.

use tidegate_sdk::{Batch, Fault, Output, settings};

tidegate_sdk::filter!(endless);

fn endless(batch: &Batch, _: &mut Output) -> Result<(), Fault> {
    let always = settings::boolean("always").unwrap_or(false);
    if always || batch.rows().any(|row| row.series().ends_with("/endless")) {
        loop {
            std::hint::spin_loop();
        }
    }
    Ok(())
}
