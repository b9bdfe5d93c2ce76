use super::*;

fn point(kind: Kind, order: Order) -> Point {
    Point {
        series: "s".into(),
        address: 0,
        kind,
        order,
        scale: 1.0,
        offset: 0.0,
        write: true,
    }
}

#[track_caller]
fn check(kind: Kind, order: Order, words: &[u16], expect: Decoded) {
    assert_eq!(
        point(kind, order).read(words).value,
        expect,
        "{kind:?} {order:?}"
    );
}

/// 0x0A0B0C0D in every order, written out by hand.
#[test]
fn every_order() {
    for (order, words) in [
        (Order::Abcd, [0x0A0B, 0x0C0D]),
        (Order::Dcba, [0x0D0C, 0x0B0A]),
        (Order::Badc, [0x0B0A, 0x0D0C]),
        (Order::Cdab, [0x0C0D, 0x0A0B]),
    ] {
        check(Kind::Uint32, order, &words, Decoded::Int(0x0A0B_0C0D));
        assert_eq!(
            point(Kind::Uint32, order).write("168496141"),
            Ok(words.to_vec())
        );
    }
    let whole = Decoded::Int(0x0102_0304_0506_0708);
    for (order, words) in [
        (Order::Abcd, [0x0102, 0x0304, 0x0506, 0x0708]),
        (Order::Dcba, [0x0807, 0x0605, 0x0403, 0x0201]),
        (Order::Badc, [0x0201, 0x0403, 0x0605, 0x0807]),
        (Order::Cdab, [0x0708, 0x0506, 0x0304, 0x0102]),
    ] {
        check(Kind::Int64, order, &words, whole.clone());
    }
}

#[test]
fn every_type() {
    use Decoded::{Bool, Float, Int, Text};
    let abcd = |kind, words: &[u16], expect| check(kind, Order::Abcd, words, expect);
    abcd(Kind::Bool, &[0x0100], Bool(true));
    abcd(Kind::Bit(8), &[0x0100], Bool(true));
    abcd(Kind::Bit(0), &[0x0100], Bool(false));
    check(Kind::Bit(0), Order::Badc, &[0x0100], Bool(true));
    abcd(Kind::Int8High, &[0xFE03], Int(-2));
    abcd(Kind::Int8Low, &[0xFE03], Int(3));
    abcd(Kind::Uint8High, &[0xFE03], Int(254));
    abcd(Kind::Uint8Low, &[0x0380], Int(128));
    abcd(Kind::Int16, &[0x8000], Int(-32768));
    abcd(Kind::Uint16, &[0x8000], Int(32768));
    check(Kind::Uint16, Order::Dcba, &[0x8000], Int(0x80));
    abcd(Kind::Int32, &[0xFFFF, 0xFFFE], Int(-2));
    abcd(Kind::Int64, &[0x8000, 0, 0, 1], Int(i64::MIN + 1));
    abcd(
        Kind::Uint64,
        &[0x7FFF, 0xFFFF, 0xFFFF, 0xFFFF],
        Int(i64::MAX),
    );
    abcd(Kind::Float32, &[0x3FC0, 0], Float(1.5));
    abcd(Kind::Float64, &[0x3FF8, 0, 0, 0], Float(1.5));
    abcd(Kind::Float16, &[0x3E00], Float(1.5));
    abcd(Kind::Float16, &[0xC000], Float(-2.0));
    abcd(Kind::Float16, &[0x0001], Float(2f64.powi(-24)));
    abcd(Kind::Float16, &[0x7BFF], Float(65504.0));
    abcd(Kind::Bcd16, &[0x1234], Int(1234));
    check(Kind::Bcd32, Order::Cdab, &[0x5678, 0x1234], Int(12_345_678));
    let text = |text: &str| Text(text.to_owned());
    abcd(
        Kind::Text { registers: 3 },
        &[0x4142, 0x4320, 0x2000],
        text("ABC"),
    );
    check(
        Kind::Text { registers: 2 },
        Order::Badc,
        &[0x4241, 0x0043],
        text("ABC"),
    );
}

#[test]
fn what_is_no_number_is_bad_and_what_is_too_large_is_marked() {
    let quality = |kind, words: &[u16]| point(kind, Order::Abcd).read(words).quality;
    assert_eq!(quality(Kind::Float32, &[0x7FC0, 0]), Quality::Bad);
    assert_eq!(quality(Kind::Float32, &[0x7F80, 0]), Quality::Bad);
    assert_eq!(quality(Kind::Float16, &[0x7C01]), Quality::Bad);
    assert_eq!(quality(Kind::Float64, &[0xFFF8, 0, 0, 0]), Quality::Bad);
    assert_eq!(quality(Kind::Bcd16, &[0x123A]), Quality::Bad);
    assert_eq!(
        quality(Kind::Uint64, &[0x8000, 0, 0, 0]),
        Quality::Uncertain
    );
    assert_eq!(
        quality(Kind::Text { registers: 1 }, &[0xE4E4]),
        Quality::Uncertain
    );
    assert_eq!(quality(Kind::Uint16, &[1]), Quality::Good);
}

#[test]
fn scale_and_offset() {
    let read = |scale, offset, word: u16| {
        let mut point = point(Kind::Int16, Order::Abcd);
        (point.scale, point.offset) = (scale, offset);
        point.read(&[word]).value
    };
    assert_eq!(read(0.01, 0.0, 12345), Decoded::Float(123.45));
    assert_eq!(read(0.1, -40.0, 650), Decoded::Float(25.0));
    assert_eq!(read(10.0, -5.0, 7), Decoded::Int(65));
    assert_eq!(read(-1.0, 0.0, 7), Decoded::Int(-7));
    assert_eq!(read(0.5, 0.0, 3), Decoded::Float(1.5));
    // Beyond 2^53 a whole number is still whole.
    let mut whole = point(Kind::Int64, Order::Abcd);
    whole.scale = 2.0;
    let expect = Decoded::Int(2 * (0x0020_0000_0000_0001));
    assert_eq!(whole.read(&[0x0020, 0, 0, 1]).value, expect);
}

#[test]
fn what_is_written_is_read_again() {
    let kinds = [
        (Kind::Int16, "-5"),
        (Kind::Uint16, "65535"),
        (Kind::Int32, "-70000"),
        (Kind::Uint32, "4294967295"),
        (Kind::Int64, "-9007199254740993"),
        (Kind::Uint64, "9007199254740993"),
        (Kind::Float32, "1.5"),
        (Kind::Float64, "0.1"),
        (Kind::Bcd16, "1234"),
        (Kind::Bcd32, "87654321"),
        (Kind::Text { registers: 3 }, "ABC"),
        (Kind::Bool, "true"),
    ];
    for (kind, text) in kinds {
        for order in [Order::Abcd, Order::Dcba, Order::Badc, Order::Cdab] {
            let point = point(kind, order);
            let shown = match point.read(&point.write(text).unwrap()).value {
                Decoded::Float(value) => value.to_string(),
                Decoded::Int(value) => value.to_string(),
                Decoded::Bool(value) => value.to_string(),
                Decoded::Text(value) => value,
            };
            assert_eq!(shown, text, "{kind:?} {order:?}");
        }
    }
}

#[test]
fn what_cannot_be_written() {
    let refused = |kind, text: &str| point(kind, Order::Abcd).write(text).unwrap_err();
    assert!(matches!(
        refused(Kind::Int16, "40000"),
        WriteError::Range { .. }
    ));
    assert!(matches!(
        refused(Kind::Bcd16, "10000"),
        WriteError::Range { .. }
    ));
    assert!(matches!(
        refused(Kind::Int16, "x"),
        WriteError::NoValue { .. }
    ));
    assert!(matches!(
        refused(Kind::Float32, "1e39"),
        WriteError::NoValue { .. }
    ));
    assert!(matches!(
        refused(Kind::Uint16, "1.5"),
        WriteError::Step { .. }
    ));
    assert_eq!(refused(Kind::Bit(3), "1"), WriteError::Part);
    assert_eq!(refused(Kind::Uint8Low, "1"), WriteError::Part);
    let mut scaled = point(Kind::Int16, Order::Abcd);
    scaled.scale = 0.1;
    assert_eq!(scaled.write("12.3"), Ok(vec![123]));
    assert!(matches!(
        scaled.write("12.34"),
        Err(WriteError::Step { .. })
    ));
}
