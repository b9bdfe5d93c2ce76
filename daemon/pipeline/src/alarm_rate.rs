//! How often a filter's alarms change. What an alarm is told to be again changes nothing and costs nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::Batch;

use crate::host::StagedAlarm;

const MINUTE: Duration = Duration::from_secs(60);

/// The changes of one minute, counted from the first of them. It holds one entry an alarm that changed, and so at most
/// as many as may change.
#[derive(Debug, Default)]
pub(crate) struct AlarmRate {
    since: Option<Instant>,
    changes: usize,
    /// Series and code, and whether it was raised last.
    raised: HashMap<(Arc<str>, String), bool>,
}

impl AlarmRate {
    /// Takes a call's alarms.
    ///
    /// # Errors
    /// More changes within a minute than allowed, for people; then none of the call's counts.
    pub(crate) fn take(
        &mut self,
        rows: &Batch,
        staged: &[StagedAlarm],
        per_minute: u32,
        now: Instant,
    ) -> Result<(), String> {
        if staged.is_empty() {
            return Ok(());
        }
        if self
            .since
            .is_none_or(|since| now.duration_since(since) >= MINUTE)
        {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        let mut changed: HashMap<(Arc<str>, String), bool> = HashMap::new();
        let mut changes = self.changes;
        for alarm in staged {
            let key = (Arc::clone(rows.name(alarm.row)), alarm.code.clone());
            let raised = alarm.raised.is_some();
            let before = changed.get(&key).or_else(|| self.raised.get(&key));
            if before == Some(&raised) {
                continue;
            }
            changes += 1;
            if changes > per_minute as usize {
                return Err(format!(
                    "its alarms change more than {per_minute} times in a minute"
                ));
            }
            changed.insert(key, raised);
        }
        self.changes = changes;
        self.raised.extend(changed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_domain::batch::BatchBuilder;
    use tidegate_domain::outcome::Severity;
    use tidegate_domain::{Quality, Value};

    use super::*;

    #[test]
    fn changes_are_counted_for_a_minute_and_repetitions_are_none() {
        let mut rows = BatchBuilder::new();
        for name in ["a", "b"] {
            let series = rows.series(&name.into());
            rows.push(series, 0, Value::Int(1), Quality::Good);
        }
        let rows = rows.finish();
        let alarm = |row, raised: bool| StagedAlarm {
            row,
            raised: raised.then(|| (Severity::Info, String::new())),
            code: "c".to_owned(),
        };
        let start = Instant::now();
        let mut rate = AlarmRate::default();
        let mut take = |alarms: &[StagedAlarm], seconds| {
            let now = start + Duration::from_secs(seconds);
            rate.take(&rows, alarms, 3, now)
        };
        for _ in 0..9 {
            take(&[alarm(0, true), alarm(0, true), alarm(1, true)], 0).unwrap();
        }
        let flaps = [alarm(0, false), alarm(0, true)];
        let error = take(&flaps, 59).unwrap_err();
        assert!(error.contains("more than 3 times"), "{error}");
        take(&flaps[..1], 59).expect("of a call that is refused nothing counts");
        take(&flaps[1..], 59).unwrap_err();
        take(&flaps, 60).expect("another minute");
    }
}
