//! Readings that are readings already.

use tidegate_domain::lines::{NoReading, read_readings};

use super::DecodeFailure;
use super::rows::Rows;

impl From<NoReading> for DecodeFailure {
    fn from(error: NoReading) -> Self {
        Self::undecodable(error.to_string())
    }
}

/// Each line names its series in full.
pub(super) fn decode(text: &str, rows: &mut Rows) -> Result<(), DecodeFailure> {
    read_readings(text, |series, value, quality| {
        rows.name(series);
        rows.push(value, quality)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidegate_domain::{Arrival, Message, Quality, Value};

    use super::super::{As, DecodeConfig, Decoder, TimeUnit};

    fn decode(payload: &str) -> super::super::Decoded {
        let config = DecodeConfig {
            format: As::Lines,
            time_field: None,
            time_unit: TimeUnit::Millis,
        };
        let message = Message {
            source: 0,
            topic: Arc::from("bus"),
            payload: payload.to_owned().into(),
            arrival: Arrival {
                wall: 7,
                ..Arrival::default()
            },
            ack: None,
            redelivered: false,
            identity: None,
        };
        Decoder::new(config).unwrap().decode(&[message])
    }

    #[test]
    fn each_line_is_a_reading_of_the_series_that_it_names() {
        let decoded =
            decode("meter/1/energy\tint\t9007199254740993\tgood\nmeter/1/volt\tfloat\tNaN\tbad\n");
        let batch = decoded.batch;
        assert_eq!(
            (&**batch.name(0), &**batch.name(1)),
            ("meter/1/energy", "meter/1/volt")
        );
        assert_eq!(batch.value(0), Value::Int(9_007_199_254_740_993));
        assert_eq!((batch.time[0], batch.quality(1)), (7, Quality::Bad));
    }

    #[test]
    fn a_message_with_a_line_that_is_none_fails_whole() {
        let decoded = decode("a\tint\t1\tgood\nb\tint\t1.5\tgood\n");
        assert_eq!((decoded.batch.len(), decoded.failures.len()), (0, 1));
        assert!(
            decoded.failures[0]
                .1
                .detail
                .starts_with("line 2 is no reading")
        );
        assert_eq!(decode("a//b\tint\t1\tgood\n").failures.len(), 1);
    }
}
