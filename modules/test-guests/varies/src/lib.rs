//! A guest that misbehaves as its setting `behaviour` says, and otherwise lets everything pass.

use tidegate_sdk::{Batch, Fault, Output, settings};

tidegate_sdk::filter!(varies);

fn varies(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    match settings::text("behaviour").as_deref() {
        Some("trap") => {
            if batch
                .rows()
                .any(|row| row.number().is_some_and(|n| n % 20.0 == 7.0))
            {
                // What Rust makes of a panic, too.
                std::process::abort();
            }
        }
        Some("slow") => {
            for round in 0..20_000_000_u32 {
                std::hint::black_box(round);
            }
        }
        Some("leak") => {
            let leaked = vec![1_u8; 8 * 1024 * 1024];
            std::hint::black_box(&leaked);
            std::mem::forget(leaked);
        }
        Some("diverge") => {
            for row in batch.rows() {
                if let Some(number) = row.number() {
                    out.set_value(row, number + 1.0);
                }
            }
        }
        Some(_) | None => {}
    }
    Ok(())
}
