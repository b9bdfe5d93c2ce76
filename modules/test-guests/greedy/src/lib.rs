//! A guest that wants more than a site grants unless it says so: a secret, to put its HMAC in place of every text.

use tidegate_sdk::{Batch, Fault, Output, Value, secrets};

tidegate_sdk::filter!(greedy);

fn greedy(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    for row in batch.rows() {
        if let Value::Text(text) = row.value() {
            let mac = secrets::hmac_sha256("site", text.as_bytes())?;
            let hex: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            out.set_value(row, hex.as_str());
        }
    }
    Ok(())
}
