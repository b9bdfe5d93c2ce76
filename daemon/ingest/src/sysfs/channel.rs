//! A channel: which files hold it, and what their numbers mean.

use tidegate_domain::Quality;

/// What a device measures on one channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channel {
    /// The kind of quantity, as in `temp`.
    pub(super) kind: String,
    /// Its name where it has no label, as in `temp1`. Of one device no two are equal.
    pub(super) name: String,
    /// The file with the number.
    pub(super) value: String,
    /// The file with a factor for it.
    pub(super) scale: Option<String>,
    /// The file with what is added before that.
    pub(super) offset: Option<String>,
    /// The file with a name that somebody gave it.
    pub(super) label: Option<String>,
    /// The file that says by 1 that the number means nothing.
    pub(super) fault: Option<String>,
    /// What the result is divided by, so that it is in the unit that [`MEASURES`] names.
    pub(super) divisor: f64,
}

/// A kind of quantity: its word in the names of files, what a number is divided by, and the unit of the result.
pub(super) type Measure = (&'static str, f64, &'static str);

/// What a channel's files say. `None` of a file that is there and cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texts<'a> {
    pub(super) value: Option<&'a str>,
    /// The outer one is none where there is no such file.
    pub(super) scale: Option<Option<&'a str>>,
    pub(super) offset: Option<Option<&'a str>>,
    pub(super) fault: Option<Option<&'a str>>,
}

impl Channel {
    /// The value in its unit. What cannot be read or is no number is NaN of bad quality.
    pub(super) fn read(&self, texts: Texts<'_>) -> (f64, Quality) {
        let optional = |text: Option<Option<&str>>, otherwise: f64| match text {
            None => Some(otherwise),
            Some(text) => text.and_then(number),
        };
        let fault = match texts.fault {
            None => false,
            Some(text) => text.and_then(number) != Some(0.0),
        };
        let value = texts.value.and_then(number).and_then(|raw| {
            let offset = optional(texts.offset, 0.0)?;
            let scale = optional(texts.scale, 1.0)?;
            Some((raw + offset) * scale / self.divisor)
        });
        match value.filter(|value| value.is_finite()) {
            Some(value) if fault => (value, Quality::Bad),
            Some(value) => (value, Quality::Good),
            None => (f64::NAN, Quality::Bad),
        }
    }
}

/// A number as sysfs writes it: decimal, one line. A driver may add a unit word (`0.500 dB`), which then is no number here.
fn number(text: &str) -> Option<f64> {
    let number: f64 = text.trim().parse().ok()?;
    number.is_finite().then_some(number)
}

/// A text of a device as a level of a series name: what separates levels or stands for others in globs and topics is `-`.
pub(super) fn level(text: &str) -> Option<String> {
    /// Bytes of it at most; a series name has 512.
    const LONGEST: usize = 64;
    let mut level = String::new();
    for character in text.trim().chars() {
        let plain = character.is_alphanumeric() || "_-.:@".contains(character);
        let character = if plain { character } else { '-' };
        if character == '-' && (level.is_empty() || level.ends_with('-')) {
            continue;
        }
        if level.len() + character.len_utf8() > LONGEST {
            break;
        }
        level.push(character);
    }
    let level = level.trim_end_matches('-');
    (!level.is_empty()).then(|| level.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(divisor: f64) -> Channel {
        Channel {
            kind: "temp".to_owned(),
            name: "temp".to_owned(),
            value: String::new(),
            scale: None,
            offset: None,
            label: None,
            fault: None,
            divisor,
        }
    }

    #[test]
    fn raw_offset_and_scale_make_the_value() {
        let read = |value, scale, offset, fault| {
            channel(1000.0).read(Texts {
                value,
                scale,
                offset,
                fault,
            })
        };
        let good = |value| (value, Quality::Good);
        assert_eq!(read(Some("21600\n"), None, None, None), good(21.6));
        // The example of the kernel's documentation: (raw + offset) * scale, in thousandths of a degree.
        assert_eq!(
            read(Some("-200"), Some(Some("0.5")), Some(Some("1000")), None),
            good(0.4)
        );
        assert_eq!(read(Some("5"), None, None, Some(Some("0\n"))), good(0.005));
        // The number of a broken sensor is kept, and marked.
        assert_eq!(
            read(Some("5"), None, None, Some(Some("1"))),
            (0.005, Quality::Bad)
        );
        for (value, scale, offset) in [
            (None, None, None),
            (Some(""), None, None),
            (Some("1 2 3"), None, None),
            (Some("nan"), None, None),
            (Some("inf"), None, None),
            (Some("1"), Some(None), None),
            (Some("1"), Some(Some("0.1 dB")), None),
            (Some("1"), None, Some(None)),
            (Some("1e308"), Some(Some("1e308")), None),
        ] {
            let (number, quality) = read(value, scale, offset, None);
            assert!(
                number.is_nan() && quality == Quality::Bad,
                "{value:?} {scale:?} {offset:?}: {number}"
            );
        }
    }

    #[test]
    fn a_text_of_a_device_becomes_one_level() {
        for (text, expect) in [
            ("bme280\n", Some("bme280")),
            ("Package id 0", Some("Package-id-0")),
            ("a/b#+c*", Some("a-b-c")),
            ("  / ", None),
            ("", None),
            ("Kühler", Some("Kühler")),
        ] {
            assert_eq!(level(text).as_deref(), expect, "{text:?}");
        }
        assert_eq!(level(&"ä".repeat(100)).unwrap().len(), 64);
    }
}
