//! Uplink payload, version 1: the envelope around items that were encoded when they were made, and what payloads are
//! written in.

mod cbor;
mod encoding;
mod reading;

use serde_json::Value;
use tidegate_domain::delivery::SealedMessage;

pub(crate) use self::encoding::EncodeError;
pub use self::encoding::{Compress, Encoding, Format, OpenError, open};
pub use self::reading::json;
use crate::status::Status;

/// The beginning of every message of a stream, encoded once.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    head: String,
    /// The last number that was sealed before the connection was made.
    sealed_before: u64,
    encoding: Encoding,
    /// Bytes of a payload in clear, at most.
    most: usize,
}

impl Envelope {
    pub(crate) fn new(
        gateway: &str,
        stream: &str,
        sealed_before: u64,
        encoding: Encoding,
        most: usize,
    ) -> Self {
        let gateway = json_string(gateway);
        let stream = json_string(stream);
        Self {
            head: format!(r#"{{"v":1,"gateway":{gateway},"stream":{stream},"seq":"#),
            sealed_before,
            encoding,
            most,
        }
    }

    /// The payload of a message, made out of its body. Over one connection, and from one to the next but for `replayed`, it is the same bytes
    /// with every attempt.
    pub(crate) fn payload(&self, message: &mut SealedMessage) -> Result<Vec<u8>, EncodeError> {
        self.encoding.encode(self.document(message), self.most)
    }

    /// Its items stay as they are, and where there is room for it as a rule also where they are.
    fn document(&self, message: &mut SealedMessage) -> Vec<u8> {
        let replayed = message.seq <= self.sealed_before;
        let (head, seq, kind) = (&self.head, message.seq, message.kind.as_str());
        let begin = format!(r#"{head}{seq},"kind":"{kind}","replayed":{replayed},"items":["#);
        let mut document = std::mem::take(&mut message.body);
        let (items, before) = (document.len(), begin.len());
        document.resize(before + items, 0);
        document.copy_within(..items, before);
        document[..before].copy_from_slice(begin.as_bytes());
        document.extend_from_slice(b"]}");
        document
    }
}

/// What the retained status says while we are there.
pub(crate) fn status(gateway: &str, status: &Status, wall_ms: i64) -> Vec<u8> {
    let gateway = json_string(gateway);
    let state = status.state.as_str();
    let store = json_string(status.store);
    let version = json_string(&status.version);
    let boot = json_string(&status.boot);
    let synced = status.clock_synced;
    let modules = &status.modules;
    let audit = status
        .audit
        .as_ref()
        .map_or_else(String::new, |(number, hash)| {
            format!(
                r#","audit":{{"number":{number},"hash":{}}}"#,
                json_string(hash)
            )
        });
    format!(
        r#"{{"v":1,"gateway":{gateway},"state":"{state}","store":{store},"version":{version},"boot":{boot},"clock":{{"synced":{synced},"time":{wall_ms}}},"modules":{modules}{audit}}}"#
    )
    .into_bytes()
}

/// What the retained status says while we are not there: the last will, and the farewell.
pub(crate) fn offline(gateway: &str) -> Vec<u8> {
    let gateway = json_string(gateway);
    format!(r#"{{"v":1,"gateway":{gateway},"state":"offline"}}"#).into_bytes()
}

fn json_string(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusState;
    use tidegate_domain::item::{Item, ItemKind, Priority, Stats, SummaryItem};

    /// The published example, byte for byte but for the line break that makes it readable there.
    const EXAMPLE: &str = concat!(
        r#"{"v":1,"gateway":"gw-0042","stream":"9f2c41d07b3e8a55","seq":1207,"kind":"summary","replayed":false,"#,
        r#""items":[{"pipeline":"temperature","series":"plant/line1/temp","from":1766000000000,"to":1766000060000,"#,
        r#""count":60,"min":20.9,"max":22.4,"mean":21.6,"stddev":0.3,"first":21.0,"last":21.7,"p50":21.6,"p95":22.2}]}"#,
    );

    fn example() -> SealedMessage {
        let item = Item::Summary(SummaryItem {
            pipeline: "temperature",
            series: "plant/line1/temp",
            from: 1_766_000_000_000,
            to: 1_766_000_060_000,
            stats: Stats {
                count: 60,
                min: Some(20.9),
                max: Some(22.4),
                mean: Some(21.6),
                stddev: Some(0.3),
                first: Some(21.0),
                last: Some(21.7),
                p50: Some(21.6),
                p95: Some(22.2),
                ..Stats::default()
            },
            ..SummaryItem::default()
        });
        SealedMessage {
            seq: 1207,
            kind: ItemKind::Summary,
            priority: Priority::Normal,
            items: 1,
            body: item.to_json().into_bytes(),
        }
    }

    fn payload(name: &str, stream: &str, sealed_before: u64, encoding: Encoding) -> Vec<u8> {
        let envelope = Envelope::new(name, stream, sealed_before, encoding, 1 << 20);
        envelope.payload(&mut example()).unwrap()
    }

    const CLEAR: Encoding = Encoding {
        format: Format::Json,
        compress: Compress::None,
    };

    #[test]
    fn a_message_is_the_published_example() {
        let fresh = payload("gw-0042", "9f2c41d07b3e8a55", 1206, CLEAR);
        assert_eq!(String::from_utf8_lossy(&fresh), EXAMPLE);
        let replayed = payload("gw-0042", "9f2c41d07b3e8a55", 1207, CLEAR);
        let expect = EXAMPLE.replace(r#""replayed":false"#, r#""replayed":true"#);
        assert_eq!(String::from_utf8_lossy(&replayed), expect);
    }

    #[test]
    fn every_way_of_writing_says_the_same_and_tells_itself_by_its_first_bytes() {
        let expect: Value = serde_json::from_str(EXAMPLE).unwrap();
        let check = |format, compress, first: &[u8]| {
            let encoding = Encoding { format, compress };
            let bytes = payload("gw-0042", "9f2c41d07b3e8a55", 0, encoding);
            assert!(bytes.starts_with(first), "{encoding:?}");
            let clear = open(&bytes, 1 << 20).unwrap();
            let read: Value = match format {
                Format::Json => serde_json::from_slice(&clear).unwrap(),
                Format::Cbor => ciborium::from_reader(&*clear).unwrap(),
            };
            assert_eq!(read, expect, "{encoding:?}");
        };
        check(Format::Json, Compress::None, b"{");
        check(Format::Cbor, Compress::None, b"\xa7\x61v\x01\x67gateway");
        check(Format::Json, Compress::Zstd, b"\x28\xb5\x2f\xfd");
        check(Format::Cbor, Compress::Zstd, b"\x28\xb5\x2f\xfd");
    }

    #[test]
    fn names_cannot_break_out_of_the_envelope() {
        let odd = "gw\"},\\\n\u{1}";
        let payload = payload(odd, odd, 0, CLEAR);
        let parsed: Value = serde_json::from_slice(&payload).expect("valid JSON");
        assert_eq!(parsed["gateway"], odd);
        assert_eq!(parsed["stream"], odd);
        let parsed: Value = serde_json::from_slice(&offline(odd)).expect("valid JSON");
        assert_eq!(parsed["gateway"], odd);
    }

    #[test]
    fn a_status_says_who_we_are() {
        let modules = serde_json::json!([{"name": "range", "version": "1.0.0"}]);
        let payload = status(
            "gw-0042",
            &Status {
                state: StatusState::Degraded,
                store: "full",
                version: "0.1.0".to_owned(),
                boot: "5f0c".to_owned(),
                clock_synced: false,
                modules,
                audit: Some((7, "5be3".to_owned())),
            },
            1_766_000_000_000,
        );
        assert_eq!(
            String::from_utf8_lossy(&payload),
            concat!(
                r#"{"v":1,"gateway":"gw-0042","state":"degraded","store":"full","version":"0.1.0","boot":"5f0c","#,
                r#""clock":{"synced":false,"time":1766000000000},"modules":[{"name":"range","version":"1.0.0"}],"#,
                r#""audit":{"number":7,"hash":"5be3"}}"#
            )
        );
    }
}
