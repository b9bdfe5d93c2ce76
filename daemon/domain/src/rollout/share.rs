//! For which series a canary speaks.

/// A stable part of all series, at least one of those that were seen.
#[derive(Clone, Debug)]
pub struct Share {
    below: u64,
    least: u64,
}

impl Share {
    /// `share` is a part of 1; 1 and more is all series.
    #[must_use]
    pub fn new(share: f64) -> Self {
        // 2^64 times the share. A cast saturates, so that 1 is all.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of the whole range"
        )]
        let below = (share.clamp(0.0, 1.0) * 18_446_744_073_709_551_616.0) as u64;
        Self {
            below,
            least: u64::MAX,
        }
    }

    /// Takes a series into account: where the share holds none of those that there are, the one with the least place
    /// stands for it.
    pub fn see(&mut self, series: &str) {
        self.least = self.least.min(place(series));
    }

    /// Whether the canary speaks for a series.
    #[must_use]
    pub fn holds(&self, series: &str) -> bool {
        let place = place(series);
        place < self.below || self.below == u64::MAX || place == self.least
    }
}

/// Where a series lies in the range of all places, the same on every gateway and in every version: FNV-1a over its
/// name (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>), mixed by the finaliser of `SplitMix64`, for FNV leaves the upper bits of short names
/// alike.
pub(crate) fn place(series: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in series.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_stable_about_as_large_as_asked_and_never_empty() {
        let names: Vec<String> = (0..10_000).map(|n| format!("plant/line{n}/temp")).collect();
        for (share, expect) in [(0.0, 0.0), (0.05, 0.05), (0.5, 0.5), (1.0, 1.0)] {
            let mut part = Share::new(share);
            names.iter().for_each(|name| part.see(name));
            let held = names.iter().filter(|name| part.holds(name)).count();
            assert!(held >= 1, "{share}");
            assert!(
                (held as f64 / 10_000.0 - expect).abs() < 0.01,
                "{share}: {held}"
            );
        }
        // The same on every gateway: these are in files, so to speak.
        let part = Share::new(0.5);
        let held: Vec<bool> = ["a", "b", "c", "plant/line1/temp"]
            .map(|name| part.holds(name))
            .into();
        let mut again = Share::new(0.5);
        again.see("zzz");
        let later: Vec<bool> = ["a", "b", "c", "plant/line1/temp"]
            .map(|name| again.holds(name))
            .into();
        assert_eq!(held, later);
        assert_eq!(place("plant/line1/temp"), place("plant/line1/temp"));
    }

    #[test]
    fn the_only_series_is_the_canarys() {
        let mut part = Share::new(0.0001);
        part.see("a");
        assert!(part.holds("a"));
        part.see("b");
        assert_eq!(1, ["a", "b"].iter().filter(|name| part.holds(name)).count());
    }
}
