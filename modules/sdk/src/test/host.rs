//! The imports of `modules/wit/0.2.0/module.wit`, natively: they work on the slot that the thread has entered.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value as Json;

/// What one call sees and leaves behind.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) settings: Json,
    pub(crate) secrets: BTreeMap<String, Vec<u8>>,
    pub(crate) now: i64,
    pub(crate) records: Vec<u8>,
    pub(crate) global: BTreeMap<String, Vec<u8>>,
    pub(crate) alarms: Vec<AlarmCall>,
    pub(crate) log: Vec<String>,
}

/// A call of `raise`, or of `clear` where there is no severity.
pub(crate) struct AlarmCall {
    pub(crate) row: u32,
    pub(crate) severity: Option<&'static str>,
    pub(crate) code: String,
    pub(crate) text: String,
}

thread_local! {
    static SLOT: RefCell<Option<Slot>> = const { RefCell::new(None) };
}

pub(crate) fn enter(slot: Slot) {
    SLOT.replace(Some(slot));
}

pub(crate) fn leave() -> Slot {
    SLOT.take().unwrap_or_default()
}

fn with<T>(use_it: impl FnOnce(&mut Slot) -> T) -> T {
    SLOT.with_borrow_mut(|slot| {
        let slot = slot
            .as_mut()
            .unwrap_or_else(|| panic!("natively, a filter runs inside a test::Harness"));
        use_it(slot)
    })
}

pub(crate) mod settings {
    use super::{Json, with};

    fn find<T>(key: &str, read: impl FnOnce(&Json) -> Option<T>) -> Option<T> {
        with(|slot| {
            let value = key
                .split('.')
                .try_fold(&slot.settings, |value, member| value.get(member))?;
            read(value)
        })
    }

    pub(crate) fn number(key: &str) -> Option<f64> {
        find(key, Json::as_f64)
    }

    pub(crate) fn integer(key: &str) -> Option<i64> {
        find(key, Json::as_i64)
    }

    pub(crate) fn boolean(key: &str) -> Option<bool> {
        find(key, Json::as_bool)
    }

    pub(crate) fn text(key: &str) -> Option<String> {
        find(key, |value| value.as_str().map(str::to_owned))
    }

    pub(crate) fn numbers(key: &str) -> Vec<f64> {
        find(key, |value| {
            value.as_array()?.iter().map(Json::as_f64).collect()
        })
        .unwrap_or_default()
    }

    pub(crate) fn texts(key: &str) -> Vec<String> {
        find(key, |value| {
            let texts = value.as_array()?.iter();
            texts.map(|text| Some(text.as_str()?.to_owned())).collect()
        })
        .unwrap_or_default()
    }

    pub(crate) fn json() -> String {
        with(|slot| slot.settings.to_string())
    }
}

pub(crate) mod clock {
    pub(crate) fn now() -> i64 {
        super::with(|slot| slot.now)
    }
}

pub(crate) mod alarm {
    use super::{AlarmCall, with};

    pub(crate) enum Severity {
        Info,
        Warning,
        Critical,
    }

    pub(crate) fn raise(row: u32, severity: Severity, code: &str, text: &str) {
        let severity = match severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        };
        with(|slot| {
            slot.alarms.push(AlarmCall {
                row,
                severity: Some(severity),
                code: code.to_owned(),
                text: text.to_owned(),
            });
        });
    }

    pub(crate) fn clear(row: u32, code: &str) {
        with(|slot| {
            slot.alarms.push(AlarmCall {
                row,
                severity: None,
                code: code.to_owned(),
                text: String::new(),
            });
        });
    }
}

pub(crate) mod log {
    #[derive(Debug)]
    pub(crate) enum Level {
        Debug,
        Info,
        Warn,
        Error,
    }

    pub(crate) fn write(level: Level, message: &str) {
        super::with(|slot| slot.log.push(format!("{level:?}: {message}")));
    }
}

pub(crate) mod metrics {
    pub(crate) fn count(_name: &str, _delta: u64) {}

    pub(crate) fn gauge(_name: &str, _value: f64) {}
}

pub(crate) mod secrets {
    use hmac::{Hmac, KeyInit, Mac};

    pub(crate) fn hmac_sha256(name: &str, data: &[u8]) -> Result<Vec<u8>, String> {
        super::with(|slot| {
            let key = slot
                .secrets
                .get(name)
                .ok_or_else(|| format!("no secret is named `{name}`"))?;
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).map_err(|e| e.to_string())?;
            mac.update(data);
            Ok(mac.finalize().into_bytes().to_vec())
        })
    }
}

pub(crate) mod series_state {
    use super::with;

    pub(crate) fn load() -> Vec<u8> {
        with(|slot| slot.records.clone())
    }

    pub(crate) fn store(records: &[u8]) {
        with(|slot| slot.records = records.to_vec());
    }
}

pub(crate) mod global_state {
    use super::with;

    pub(crate) fn get(key: &str) -> Option<Vec<u8>> {
        with(|slot| slot.global.get(key).cloned())
    }

    /// As the gateway declares it, where the bound on all of it can be reached.
    pub(crate) fn set(key: &str, value: &[u8]) -> Result<(), String> {
        with(|slot| slot.global.insert(key.to_owned(), value.to_vec()));
        Ok(())
    }

    pub(crate) fn delete(key: &str) {
        with(|slot| slot.global.remove(key));
    }
}
