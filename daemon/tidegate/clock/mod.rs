//! The machine's clocks. Everything below gets the time as an argument.

mod kernel;

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tidegate_domain::Arrival;

use crate::config::ClockTrust;

/// A wall clock before this was never set: when this program was built, nanoseconds since the epoch.
const BUILT: i64 = seconds(env!("TIDEGATE_BUILT")).saturating_mul(1_000_000_000);

/// The clock is believed once the kernel says that it is synchronised.
static ASK_KERNEL: AtomicBool = AtomicBool::new(false);
/// The kernel said so in this process: it takes that back when the time server is gone for hours, and the clock does not
/// get wrong by that.
static SYNCHRONISED: AtomicBool = AtomicBool::new(false);
/// That the kernel cannot be asked was said.
static COMPLAINED: AtomicBool = AtomicBool::new(false);

/// Which clock is believed, as configured.
pub(crate) fn trust(trust: ClockTrust) {
    ASK_KERNEL.store(trust == ClockTrust::Synchronised, Ordering::Relaxed);
}

/// Both clocks now, and whether the wall clock counts as set.
pub(crate) fn now() -> Arrival {
    let monotonic = clock_gettime(ClockId::Boottime);
    let wall = wall();
    Arrival {
        monotonic: monotonic
            .tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(monotonic.tv_nsec),
        wall,
        synced: wall >= BUILT && (!ASK_KERNEL.load(Ordering::Relaxed) || synchronised()),
    }
}

fn synchronised() -> bool {
    if SYNCHRONISED.load(Ordering::Relaxed) {
        return true;
    }
    match kernel::is_synchronised() {
        Ok(synchronised) => {
            SYNCHRONISED.fetch_or(synchronised, Ordering::Relaxed);
            synchronised
        }
        Err(error) => {
            if !COMPLAINED.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    %error,
                    "the kernel does not say whether the clock is synchronised, so that it counts as not set: put \
                     systemd/clock-synchronised.conf beside the unit, or write clock = \"set\" below [gateway]"
                );
            }
            false
        }
    }
}

/// Nanoseconds since the epoch by the wall clock; negative before it.
pub(crate) fn wall() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

/// The kernel's name for this boot. Where it has none every process counts as a boot of its own, so that no other's clock
/// is taken for it.
pub(crate) fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(
        || match fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(id) => id.trim().to_owned(),
            Err(_) => format!("process-{}-{}", std::process::id(), now().monotonic),
        },
    )
    .clone()
}

/// Reads the number that the build wrote down.
const fn seconds(text: &str) -> i64 {
    let digits = text.as_bytes();
    let mut number = 0i64;
    let mut at = 0;
    while at < digits.len() {
        number = number * 10 + (digits[at] - b'0') as i64;
        at += 1;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_has_a_time_and_lies_in_the_past() {
        const { assert!(BUILT > 1_735_689_600_000_000_000) };
        assert!(now().synced);
    }
}
