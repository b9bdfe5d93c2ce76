//! Inputs with something wrong in them, the same in every run.

use crate::hash;

/// How many cases a test of damaged inputs runs; `TIDEGATE_FUZZ` multiplies them, as for the daemon's.
#[must_use]
pub fn cases(usual: u64) -> u64 {
    let times = std::env::var("TIDEGATE_FUZZ").ok();
    usual * times.and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// A sound input with one to four changes: another byte, any or one of `likely`, or an early end.
#[must_use]
pub fn damaged(sound: &[u8], case: u64, likely: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for change in 0..1 + case % 4 {
        let random = hash::mix(case << 8 | change);
        let below =
            |bound: usize, bits: u64| usize::try_from(bits % bound.max(1) as u64).unwrap_or(0);
        let at = below(bytes.len(), random);
        let Some(byte) = bytes.get_mut(at) else {
            break;
        };
        match random >> 62 {
            3 => bytes.truncate(at.max(1)),
            2 => {
                *byte = likely
                    .get(below(likely.len(), random >> 32))
                    .copied()
                    .unwrap_or(0xff)
            }
            _ => *byte = random.to_le_bytes()[5],
        }
    }
    bytes
}
