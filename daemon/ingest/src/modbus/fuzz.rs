//! What comes over a Modbus line or connection: one function for each fuzz target in `tests/fuzz` and for the corpus, which is
//! replayed here.

use super::map::{Kind, Order, Point, Table};
use super::mbap::Cutter;
use super::pdu::{Answer, Request, registers};
use super::rtu::Receiver;

fn request(choice: u8) -> Request {
    let count = u16::from(choice >> 2) + 1;
    let table =
        [Table::Coil, Table::Discrete, Table::Input, Table::Holding][usize::from(choice & 3)];
    Request::Read {
        table,
        address: 0x0300,
        count,
    }
}

/// A serial line's bytes. The first one chooses the request, the second the pieces; true where an answer came out.
///
/// # Panics
/// Where the answer depends on the pieces that it comes in, or does not fit the request.
pub fn answers_rtu(input: &[u8]) -> bool {
    let [choice, cut, stream @ ..] = input else {
        return false;
    };
    let size = usize::from(*cut % 16) + 1;
    let mut whole = Receiver::new(7, request(*choice));
    let expect = whole.feed(stream);
    let mut pieces = Receiver::new(7, request(*choice));
    let found = stream.chunks(size).find_map(|piece| pieces.feed(piece));
    assert_eq!(found, expect, "the pieces matter");
    if let Some(answer) = &expect {
        check(*choice, answer);
    }
    matches!(expect, Some(Answer::Data(_)))
}

/// A connection's bytes, likewise; true where a frame was an answer.
///
/// # Panics
/// As [`answers_rtu`] does.
pub fn answers_tcp(input: &[u8]) -> bool {
    let [choice, cut, stream @ ..] = input else {
        return false;
    };
    let size = usize::from(*cut % 16) + 1;
    let cut = |size: usize| {
        let mut cutter = Cutter::default();
        let mut frames = Vec::new();
        let mut broken = false;
        for piece in stream.chunks(size) {
            cutter.feed(piece);
            loop {
                match cutter.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(_) => {
                        broken = true;
                        break;
                    }
                }
            }
            if broken {
                return (frames, broken);
            }
            // A whole frame is never held.
            assert!(cutter.held() < 260);
        }
        (frames, broken)
    };
    let (frames, broken) = cut(usize::MAX);
    assert_eq!(cut(size), (frames.clone(), broken), "the pieces matter");
    let answers = frames
        .iter()
        .filter_map(|frame| request(*choice).answer(&frame.pdu));
    let mut data = false;
    for answer in answers {
        check(*choice, &answer);
        data |= matches!(answer, Answer::Data(_));
    }
    data
}

fn check(choice: u8, answer: &Answer) {
    let Request::Read { table, count, .. } = request(choice) else {
        return;
    };
    if let Answer::Data(data) = answer {
        let expect = if table.is_bits() {
            usize::from(count).div_ceil(8)
        } else {
            2 * usize::from(count)
        };
        assert_eq!(data.len(), expect);
        for (kind, order) in [
            (Kind::Float16, Order::Badc),
            (Kind::Float64, Order::Dcba),
            (Kind::Int64, Order::Cdab),
            (Kind::Bcd32, Order::Cdab),
            (Kind::Text { registers: 9 }, Order::Badc),
        ] {
            let point = Point {
                series: "s".into(),
                address: 0,
                kind,
                order,
                scale: 1e300,
                offset: -1.0,
                write: false,
            };
            std::hint::black_box(point.read(&registers(data, 0, usize::from(kind.registers()))));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_of_the_corpus() {
        crate::replay::replay("modbus-rtu", super::answers_rtu);
    }

    #[test]
    fn connections_of_the_corpus() {
        crate::replay::replay("modbus-tcp", super::answers_tcp);
    }
}
