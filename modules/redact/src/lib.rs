//! Redaction: what must not leave the device as it is does not.
//!
//! Series are chosen by their original names. A reading that falls under several settings is dropped rather than masked,
//! and masked rather than given a pseudonym. The key of the pseudonyms never comes into the module: the gateway computes
//! the HMAC. Where it cannot, the whole batch goes to quarantine, so that nothing passes unredacted.

use tidegate_sdk::{Batch, Fault, Output, Value, glob, secrets, settings};

tidegate_sdk::filter!(redact);

/// What becomes of a series' readings.
enum Action {
    Pass,
    Drop,
    Mask,
    Pseudonym,
}

/// What becomes of a series.
struct Plan {
    action: Action,
    /// The name with pseudonyms in place of levels.
    name: Option<String>,
}

/// Hex digits of a pseudonym: 96 bits, enough that among a million people two share one with a chance of 1 in 10^17.
const DIGITS: usize = 24;

fn redact(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    let drop = settings::texts("drop");
    let mask = settings::texts("mask");
    let mask_with = settings::text("mask-with");
    let mask_with = mask_with.as_deref().unwrap_or("***");
    let texts = settings::texts("pseudonym.texts");
    let series = settings::texts("pseudonym.series");
    let secret = settings::text("pseudonym.secret").unwrap_or_default();

    let mut fault = None;
    let plans = batch.per_series(|name| {
        let chosen = |globs: &[String]| globs.iter().any(|glob| glob::matches(glob, name));
        let action = if chosen(&drop) {
            Action::Drop
        } else if chosen(&mask) {
            Action::Mask
        } else if chosen(&texts) {
            Action::Pseudonym
        } else {
            Action::Pass
        };
        let name = match action {
            Action::Drop => Ok(None),
            Action::Mask | Action::Pseudonym | Action::Pass => renamed(name, &series, &secret),
        };
        let name = name.unwrap_or_else(|failure| {
            fault = Some(failure);
            None
        });
        Plan { action, name }
    });
    if let Some(fault) = fault {
        return Err(fault);
    }

    let mut known = Known::default();
    for row in batch.rows() {
        let plan = &plans[row];
        match plan.action {
            Action::Pass => {}
            Action::Drop => {
                out.drop(row);
                continue;
            }
            Action::Mask => out.set_value(row, mask_with),
            Action::Pseudonym => {
                let text = known.pseudonym(&secret, row.value())?;
                out.set_value(row, text);
            }
        }
        if let Some(name) = &plan.name
            && !out.rename(row, name)
        {
            out.reject(
                row,
                "with pseudonyms in place, the series' name would be longer than 512 bytes",
            );
        }
    }
    Ok(())
}

/// The name with a pseudonym in every place where the first pattern that matches has `{}`; `None` where none matches.
fn renamed(name: &str, patterns: &[String], secret: &str) -> Result<Option<String>, Fault> {
    let Some(pattern) = patterns.iter().find(|glob| glob::matches(glob, name)) else {
        return Ok(None);
    };
    // `{}` stands before any `**` (the schema sees to it), so that the levels of both count alike.
    let mut wanted = pattern.split('/');
    let mut renamed = String::new();
    for (number, level) in name.split('/').enumerate() {
        if number > 0 {
            renamed.push('/');
        }
        if wanted.next() == Some("{}") {
            renamed.push_str(&pseudonym(secret, level)?);
        } else {
            renamed.push_str(level);
        }
    }
    Ok(Some(renamed))
}

/// The first digits of the HMAC in hex. The same text has the same pseudonym as a value and as a level of a name, so that
/// the two can be joined.
fn pseudonym(secret: &str, text: &str) -> Result<String, Fault> {
    let mac = secrets::hmac_sha256(secret, text.as_bytes())?;
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    Ok(mac
        .iter()
        .flat_map(|&byte| [digit(byte >> 4), digit(byte & 15)])
        .take(DIGITS)
        .collect())
}

/// The latest pseudonym: a run of equal values asks the gateway once.
#[derive(Default)]
struct Known {
    text: String,
    pseudonym: String,
}

impl Known {
    fn pseudonym(&mut self, secret: &str, value: Value<'_>) -> Result<&str, Fault> {
        let text = match value {
            Value::Text(text) => text,
            // A badge number is a name too: in decimal, so that it has the pseudonym of its digits as a text.
            Value::Int(number) => &number.to_string(),
            Value::Float(number) => &decimal(number),
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
        };
        if self.pseudonym.is_empty() || self.text != text {
            self.pseudonym = pseudonym(secret, text)?;
            text.clone_into(&mut self.text);
        }
        Ok(&self.pseudonym)
    }
}

/// An integral float as its digits, another one as its bits: unambiguous, and without the standard library's formatting.
fn decimal(number: f64) -> String {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.abs() <= EXACT && number.fract() == 0.0 {
        #[expect(clippy::cast_possible_truncation, reason = "integral and below 2^53")]
        let integer = number as i64;
        integer.to_string()
    } else {
        format!("{:016x}", number.to_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::redact;
    use tidegate_sdk::test::{Harness, Reading, check_vectors, json};

    #[test]
    fn golden_vectors() {
        check_vectors(
            redact,
            include_str!("../manifest.json"),
            include_str!("../vectors.json"),
        );
    }

    #[test]
    fn a_name_that_would_grow_too_long_is_rejected_under_its_own_name() {
        let long = format!("staff/x/{}", "y".repeat(500));
        let mut harness = Harness::new(redact)
            .secret("site", b"key")
            .settings(json!({ "pseudonym": { "secret": "site", "series": ["staff/{}/*"] } }));
        let outcome = harness.run(&[Reading::new(&long, 0, 1.0)]).unwrap();
        assert_eq!(outcome.rejected.len(), 1);
        assert_eq!(outcome.stored, []);
    }
}
