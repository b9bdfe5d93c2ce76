//! NMEA 0183: sentences such as `$GPGGA,…*47`, one or many lines in a message.
//!
//! A sentence's fields become the series `<topic>/<address>/<field>`, at the time of arrival: the address is talker and type
//! (`GPGGA`), so that two instruments never share a series. Units are in the names. A field that is empty is no reading. A
//! message is decoded whole or not at all; a sentence of a type that is not known is left out, with a note.

use tidegate_sdk::{Decoded, Fault, Message, Messages, Quality, Rows, settings};

tidegate_sdk::decoder!(nmea);

/// Bytes of a sentence. The standard allows 82; instruments send more.
const SENTENCE_BYTES: usize = 1024;

fn nmea(messages: &Messages, out: &mut Decoded) -> Result<(), Fault> {
    let optional = settings::text("checksum").as_deref() == Some("optional");
    for message in messages.iter() {
        let mut unknown = Vec::new();
        out.message(message, |rows| {
            let text = std::str::from_utf8(message.payload())
                .map_err(|error| format!("byte {} is no UTF-8", error.valid_up_to()))?;
            let lines = (1..).zip(text.lines());
            let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
            let mut some = false;
            for (number, line) in lines {
                some = true;
                sentence(message, line.trim_ascii(), optional, rows, &mut unknown)
                    .map_err(|why| format!("line {number}: {why}"))?;
            }
            if some {
                Ok(())
            } else {
                Err("the payload is empty".to_owned())
            }
        });
        for address in unknown {
            out.note(format!("sentences `{address}` are not decoded"));
        }
    }
    Ok(())
}

/// Any bytes as messages: what the fuzz target calls, and the test with what that kept.
#[cfg(not(target_arch = "wasm32"))]
pub fn fuzz(input: &[u8]) -> bool {
    let settings = tidegate_sdk::test::json!({ "checksum": "optional" });
    let mut harness = tidegate_sdk::test::DecoderHarness::new(nmea).settings(settings);
    harness.fuzz(input)
}

/// One sentence, with or without a tag block in front of it.
fn sentence<'a>(
    message: Message<'_>,
    line: &'a str,
    optional: bool,
    rows: &mut Rows,
    unknown: &mut Vec<&'a str>,
) -> Result<(), String> {
    if line.len() > SENTENCE_BYTES {
        return Err(format!(
            "{} bytes; {SENTENCE_BYTES} are possible",
            line.len()
        ));
    }
    // NMEA 0183 4.10, section 7: a tag block stands between backslashes.
    let line = match line.strip_prefix('\\') {
        Some(block) => block.split_once('\\').map_or("", |(_, sentence)| sentence),
        None => line,
    };
    let encapsulated = line.starts_with('!');
    let body = line
        .strip_prefix(['$', '!'])
        .ok_or_else(|| format!("`{}` begins with no `$` or `!`", shown(line)))?;
    let body = checked(body, optional)?;
    let mut fields = body.split(',');
    let address = fields.next().unwrap_or_default();
    if address.len() < 4 || !address.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(format!("`{}` is no address", shown(address)));
    }
    let mut to = Sentence {
        prefix: format!("{}/{address}", message.topic()),
        time: message.time(),
        quality: Quality::Good,
        fields: fields.collect(),
        rows,
    };
    // Proprietary sentences, `$P…`, have no talker.
    let kind = address
        .get(2..)
        .filter(|_| !encapsulated && !address.starts_with('P'));
    if !to.decode(kind.unwrap_or_default())? {
        unknown.push(address);
    }
    Ok(())
}

/// What stands before the checksum, which is the exclusive or of its bytes.
fn checked(body: &str, optional: bool) -> Result<&str, String> {
    let Some((body, digits)) = body.rsplit_once('*') else {
        return if optional {
            Ok(body)
        } else {
            Err(
                "the checksum is missing; the setting checksum = \"optional\" allows that"
                    .to_owned(),
            )
        };
    };
    let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
    let hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    match u8::from_str_radix(digits, 16) {
        Ok(said) if hex && said == sum => Ok(body),
        Ok(_) | Err(_) => Err(format!(
            "the checksum is `{}`, that of the sentence {sum:02X}",
            shown(digits)
        )),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(24).flat_map(char::escape_debug).collect()
}

/// A sentence's fields, and where its readings go.
struct Sentence<'a> {
    prefix: String,
    time: i64,
    quality: Quality,
    fields: Vec<&'a str>,
    rows: &'a mut Rows,
}

impl Sentence<'_> {
    /// False where the type is not known. Fields are those of NMEA 0183 4.10, section 8.3, counted from 0 behind the address.
    fn decode(&mut self, kind: &str) -> Result<bool, String> {
        match kind {
            "GGA" => {
                self.bad_where(5, "0");
                self.position(1)?;
                self.numbers(&[
                    (5, "fix"),
                    (6, "satellites"),
                    (7, "hdop"),
                    (8, "altitude-m"),
                    (10, "geoid-m"),
                ])?;
            }
            "RMC" => {
                self.bad_where(1, "V");
                self.position(2)?;
                self.numbers(&[(6, "speed-kn"), (7, "course-deg")])?;
            }
            "GLL" => {
                self.bad_where(5, "V");
                self.position(0)?;
            }
            "GSA" => self.numbers(&[(1, "fix"), (14, "pdop"), (15, "hdop"), (16, "vdop")])?,
            "VTG" => self.numbers(&[
                (0, "course-deg"),
                (2, "course-magnetic-deg"),
                (4, "speed-kn"),
                (6, "speed-kmh"),
            ])?,
            "HDT" => self.numbers(&[(0, "heading-deg")])?,
            "HDM" => self.numbers(&[(0, "heading-magnetic-deg")])?,
            "HDG" => {
                self.numbers(&[(0, "heading-magnetic-deg")])?;
                self.signed(1, "deviation-deg", "W")?;
                self.signed(3, "variation-deg", "W")?;
            }
            "ROT" => {
                self.bad_where(1, "V");
                self.numbers(&[(0, "rate-of-turn-deg-min")])?;
            }
            "RSA" => {
                self.bad_where(1, "V");
                self.numbers(&[(0, "rudder-deg")])?;
            }
            "VHW" => self.numbers(&[
                (0, "heading-deg"),
                (2, "heading-magnetic-deg"),
                (4, "speed-kn"),
                (6, "speed-kmh"),
            ])?,
            "DBT" => self.numbers(&[(2, "depth-m")])?,
            "DPT" => self.numbers(&[(0, "depth-m"), (1, "offset-m")])?,
            "MTW" => self.numbers(&[(0, "water-c")])?,
            "MWD" => self.numbers(&[
                (0, "direction-deg"),
                (2, "direction-magnetic-deg"),
                (4, "speed-kn"),
                (6, "speed-m-s"),
            ])?,
            "MWV" => self.wind()?,
            "XDR" => self.transducers()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn field(&self, at: usize) -> &str {
        self.fields
            .get(at)
            .copied()
            .unwrap_or_default()
            .trim_ascii()
    }

    /// The instrument itself says that its values are not to be used.
    fn bad_where(&mut self, at: usize, word: &str) {
        if self.field(at) == word {
            self.quality = Quality::Bad;
        }
    }

    fn number(&self, at: usize) -> Result<Option<f64>, String> {
        let field = self.field(at);
        if field.is_empty() {
            return Ok(None);
        }
        match field.parse::<f64>() {
            // Rust reads `inf`, `nan` and exponents as well, which no sentence has.
            Ok(number)
                if field
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b"+-.".contains(&b)) =>
            {
                Ok(Some(number))
            }
            Ok(_) | Err(_) => Err(format!("field {} is no number: `{}`", at + 1, shown(field))),
        }
    }

    fn add(&mut self, name: &str, value: f64) -> Result<(), String> {
        let series = format!("{}/{name}", self.prefix);
        self.rows.add(&series, self.time, value, self.quality)
    }

    fn numbers(&mut self, fields: &[(usize, &str)]) -> Result<(), String> {
        for (at, name) in fields {
            if let Some(number) = self.number(*at)? {
                self.add(name, number)?;
            }
        }
        Ok(())
    }

    /// A number whose sign is in the field behind it.
    fn signed(&mut self, at: usize, name: &str, negative: &str) -> Result<(), String> {
        let Some(number) = self.number(at)? else {
            return Ok(());
        };
        let sign = if self.field(at + 1) == negative {
            -1.0
        } else {
            1.0
        };
        self.add(name, sign * number)
    }

    /// `ddmm.mmm,N,dddmm.mmm,E` as degrees, north and east positive.
    fn position(&mut self, at: usize) -> Result<(), String> {
        for (at, name, [positive, negative], most) in [
            (at, "latitude-deg", ["N", "S"], 90.0),
            (at + 2, "longitude-deg", ["E", "W"], 180.0),
        ] {
            let Some(number) = self.number(at)? else {
                continue;
            };
            let degrees = (number / 100.0).trunc();
            let minutes = number - 100.0 * degrees;
            let angle = degrees + minutes / 60.0;
            let side = self.field(at + 1);
            let sign = if side == positive {
                1.0
            } else if side == negative {
                -1.0
            } else {
                return Err(format!(
                    "field {} is neither {positive} nor {negative}",
                    at + 2
                ));
            };
            if number < 0.0 || minutes >= 60.0 || angle > most {
                return Err(format!(
                    "field {} is no angle: `{}`",
                    at + 1,
                    shown(self.field(at))
                ));
            }
            self.add(name, sign * angle)?;
        }
        Ok(())
    }

    /// Angle, R or T, speed, its unit, A or V.
    fn wind(&mut self) -> Result<(), String> {
        self.bad_where(4, "V");
        let frame = match self.field(1) {
            "R" => "relative",
            "T" => "true",
            other => return Err(format!("field 2 is neither R nor T: `{}`", shown(other))),
        };
        let unit = match self.field(3) {
            "K" => "kmh",
            "M" => "m-s",
            "N" => "kn",
            "S" => "mph",
            "" => "",
            other => return Err(format!("field 4 is no unit of speed: `{}`", shown(other))),
        };
        let angle = format!("{frame}/angle-deg");
        let speed = format!("{frame}/speed-{unit}");
        let mut fields = vec![(0, angle.as_str())];
        if !unit.is_empty() {
            fields.push((2, &speed));
        }
        self.numbers(&fields)
    }

    /// Groups of type, value, unit and name.
    fn transducers(&mut self) -> Result<(), String> {
        for at in (0..self.fields.len()).step_by(4) {
            let Some(value) = self.number(at + 1)? else {
                continue;
            };
            let name = match self.field(at + 3) {
                "" => format!("{}{}", self.field(at), at / 4),
                name => name.to_owned(),
            };
            self.add(&name, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_sdk::test::{
        DecoderHarness, Received, cases, check_decoder_vectors, damaged, json, replay_corpus,
    };

    use super::*;

    #[test]
    fn golden_vectors() {
        check_decoder_vectors(nmea, include_str!("../vectors.json"));
    }

    #[test]
    fn the_corpus_harms_nobody() {
        replay_corpus(
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/nmea"),
            fuzz,
        );
    }

    fn reason(payload: &[u8]) -> String {
        let mut harness = DecoderHarness::new(nmea);
        let outcome = harness.run(&[Received::new("t", 0, payload)]).unwrap();
        let reasons = outcome.undecoded.into_iter();
        reasons.map(|(_, reason)| reason).collect()
    }

    #[test]
    fn what_is_no_sentence_is_undecoded_with_line_and_reason() {
        let with_sum = |body: &str| {
            let sum = body.bytes().fold(0, |sum, byte| sum ^ byte);
            format!("${body}*{sum:02x}")
        };
        let check = |payload: &[u8], want: &str| {
            let got = reason(payload);
            assert!(
                got.contains(want) && !want.is_empty() || got == want,
                "{got}"
            );
        };
        check(with_sum("IIHDT,274.5,T").as_bytes(), "");
        check(b"", "the payload is empty");
        check(b"\r\n", "the payload is empty");
        check(b"\xff", "no UTF-8");
        check(b"HDT", "line 1: `HDT` begins with no `$`");
        check(b"$IIHDT,274.5,T", "the checksum is missing");
        check(b"$IIHDT,274.5,T*00", "the checksum is `00`");
        check(b"$IIHDT,274.5,T*+2", "the checksum is `+2`");
        for (body, want) in [
            ("II", "is no address"),
            ("IIHDT,27x", "field 1 is no number: `27x`"),
            ("IIHDT,inf", "field 1 is no number"),
            ("IIHDT,1e5", "field 1 is no number"),
            ("GPGLL,4916.45,X,12311.12,W", "field 2 is neither N nor S"),
            ("GPGLL,4966.45,N,12311.12,W", "field 1 is no angle"),
            ("GPGLL,9916.45,N,12311.12,W", "field 1 is no angle"),
            ("GPGLL,-4916.45,N,12311.12,W", "field 1 is no angle"),
            ("WIMWV,12,X,3,M,A", "field 2 is neither R nor T"),
            ("WIMWV,12,R,3,Q,A", "field 4 is no unit"),
        ] {
            check(with_sum(body).as_bytes(), want);
        }
        check(&[b"$II".as_slice(), &[b'X'; 2000]].concat(), "2003 bytes");
        check(
            format!("{}\r\n$IIHDT*ZZ", with_sum("IIHDT,1,T")).as_bytes(),
            "line 2: the checksum",
        );
    }

    /// Whatever comes, the answer keeps the contract, which the harness looks at, and nothing panics.
    #[test]
    fn damaged_sentences_harm_nobody() {
        let sound = b"$IIXDR,C,19.52,C,TempAir,P,1.02481,B,Barometer*21\r\n\\g:1*58\\$GPGGA,,4807.038,N,01131.000,E,1,08,0.9,545.4,M,,,,*47";
        let mut harness = DecoderHarness::new(nmea).settings(json!({ "checksum": "optional" }));
        for case in 0..cases(20_000) {
            let payload = damaged(sound, case, b",*$\\.-0\xc3\n\0");
            harness.run(&[Received::new("t", 0, &payload)]).unwrap();
        }
    }
}
