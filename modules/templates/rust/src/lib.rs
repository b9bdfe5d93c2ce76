//! Numbers above a bound are dropped.

use tidegate_sdk::{Batch, Fault, Output, settings};

tidegate_sdk::filter!(process);

/// Rows pass unchanged unless something else is said of them here.
fn process(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    let max = settings::number("max").ok_or("the setting `max` is missing")?;
    for row in batch.rows() {
        if row.number().is_some_and(|number| number > max) {
            out.drop(row);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::process;

    #[test]
    fn golden_vectors() {
        tidegate_sdk::test::check_vectors(
            process,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }
}
