//! What people want to know of a certificate: whose it is, and until when.
//!
//! Two fields of X.509 (RFC 5280, 4.1) are read by hand. webpki, which judges, does not tell them, and the parsers that
//! do bring a dozen crates for the other forty.

use jiff::Timestamp;
use jiff::civil::DateTime;

/// Characters of a subject that are shown.
const SUBJECT: usize = 64;

// Tags of DER.
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which certificates of version 1 do not have.
const VERSION: u8 = 0xa0;

/// Object identifiers of the parts of a name, the most telling one first: common name, organizational unit, organization.
const NAMES: [&[u8]; 3] = [&[0x55, 4, 3], &[0x55, 4, 11], &[0x55, 4, 10]];

/// What is shown of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name, or another part of the subject; empty where it has none. Without control characters.
    pub subject: String,
    /// The first second of its validity, since the epoch.
    pub not_before: i64,
    /// The last one, likewise.
    pub not_after: i64,
}

impl Certificate {
    /// Reads the DER of a certificate. `None` for what is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let mut certificate = Der(Der(der).expect(SEQUENCE)?);
        let mut signed = Der(certificate.expect(SEQUENCE)?);
        if signed.0.first() == Some(&VERSION) {
            signed.next()?;
        }
        let _serial = signed.next()?;
        let _algorithm = signed.expect(SEQUENCE)?;
        let _issuer = signed.expect(SEQUENCE)?;
        let mut validity = Der(signed.expect(SEQUENCE)?);
        let not_before = time(validity.next()?)?;
        let not_after = time(validity.next()?)?;
        let subject = name(Der(signed.expect(SEQUENCE)?))?;
        Some(Self {
            subject,
            not_before,
            not_after,
        })
    }
}

/// Whether the DER of a certificate says its version. One that does not is of version 1, which no TLS library of today takes.
pub(crate) fn says_version(der: &[u8]) -> bool {
    let signed = Der(der).expect(SEQUENCE).map(Der);
    let signed = signed.and_then(|mut certificate| certificate.expect(SEQUENCE));
    signed.and_then(<[u8]>::first) == Some(&VERSION)
}

/// A time for people, to the minute; seconds since the epoch.
#[must_use]
pub fn date(seconds: i64) -> String {
    // Certificates that never expire say so with the last second of the year 9999.
    let at = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// DER that is read from its beginning.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value, with its tag.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if !(1..=4).contains(&length.len()) {
                return None;
            }
            let length = length
                .iter()
                .fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
            (length, rest)
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// The next value, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, value) = self.next()?;
        (found == tag).then_some(value)
    }
}

/// Seconds since the epoch of a UTCTime or GeneralizedTime, in the forms of RFC 5280.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let (digits, zone) = text.split_last_chunk::<1>()?;
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let two = |at: usize| -> Option<i16> {
        let pair = digits.get(at..at + 2)?;
        Some(i16::from(pair[0] - b'0') * 10 + i16::from(pair[1] - b'0'))
    };
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => match two(0)? {
            year @ 0..50 => (2000 + year, 2),
            year => (1900 + year, 2),
        },
        (GENERALIZED_TIME, 14) => (two(0)? * 100 + two(2)?, 4),
        _ => return None,
    };
    let part = |index: usize| i8::try_from(two(rest + 2 * index)?).ok();
    let at = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    let since = at.duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    Some(since.as_secs())
}

/// The most telling part of a distinguished name.
fn name(mut parts: Der<'_>) -> Option<String> {
    let mut best: Option<(usize, &[u8])> = None;
    while !parts.0.is_empty() {
        let mut set = Der(parts.expect(SET)?);
        while !set.0.is_empty() {
            let mut part = Der(set.expect(SEQUENCE)?);
            let kind = part.expect(OID)?;
            let (_, value) = part.next()?;
            if let Some(rank) = NAMES.iter().position(|known| *known == kind)
                && best.is_none_or(|(before, _)| rank < before)
            {
                best = Some((rank, value));
            }
        }
    }
    let text = best.map_or_else(String::new, |(_, value)| {
        String::from_utf8_lossy(value)
            .chars()
            .filter(|c| !c.is_control())
            .take(SUBJECT)
            .collect()
    });
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn der(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["broker".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn subject_and_validity() {
        let found = Certificate::read(&der(|params| {
            params.not_before = date_time_ymd(2026, 11, 27);
            params.not_after = date_time_ymd(2096, 1, 2);
            params
                .distinguished_name
                .push(DnType::OrganizationName, "Works");
            params
                .distinguished_name
                .push(DnType::CommonName, "broker\u{7}7");
        }))
        .unwrap();
        let expect = Certificate {
            subject: "broker7".to_owned(),
            not_before: 1_795_737_600,
            not_after: 3_976_300_800,
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn times() {
        let check = |tag, text: &[u8], expect| assert_eq!(time((tag, text)), expect, "{text:?}");
        check(UTC_TIME, b"700101000000Z", Some(0));
        check(UTC_TIME, b"491231235959Z", Some(2_524_607_999));
        check(UTC_TIME, b"500101000000Z", Some(-631_152_000));
        check(GENERALIZED_TIME, b"20500101000000Z", Some(2_524_608_000));
        // RFC 5280, 4.1.2.5: no expiry.
        check(GENERALIZED_TIME, b"99991231235959Z", Some(253_402_300_799));
        check(UTC_TIME, b"701301000000Z", None);
        check(UTC_TIME, b"700101000000", None);
        check(UTC_TIME, b"7001010000Z", None);
        check(UTC_TIME, b"70010100000/Z", None);
        check(GENERALIZED_TIME, b"20500101000000+01", None);
        check(SEQUENCE, b"700101000000Z", None);
    }

    proptest! {
        #[test]
        fn what_is_no_certificate_is_read_without_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..2_000,
            with: u8,
        ) {
            prop_assert_eq!(Certificate::read(&bytes), None);
            let mut damaged = der(|_| ());
            let length = damaged.len();
            damaged[at % length] = with;
            // A changed character of a name is as good as the one before.
            std::hint::black_box(Certificate::read(&damaged));
            prop_assert_eq!(Certificate::read(&damaged[..at % 40]), None);
        }
    }
}
