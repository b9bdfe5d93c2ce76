//! What was read of each value last, and what of it is handed on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_domain::lines::write_reading;

use super::map::{Decoded, Point, Read, bad};
use super::pdu::{bit, registers};
use super::plan::Chunk;

/// The values of one group.
pub(super) struct Values {
    points: Arc<[Point]>,
    /// Values that did not change are left out, unless they were handed on so long ago.
    on_change: Option<Duration>,
    last: Vec<Option<Last>>,
}

struct Last {
    read: Read,
    at: Instant,
    /// It could not be read since.
    lost: bool,
}

impl Values {
    pub(super) fn new(points: Arc<[Point]>, on_change: Option<Duration>) -> Self {
        let last = points.iter().map(|_| None).collect();
        Self {
            points,
            on_change,
            last,
        }
    }

    /// Takes the data of an answer and appends what is to be handed on.
    pub(super) fn take(&mut self, chunk: &Chunk, data: &[u8], now: Instant, lines: &mut String) {
        for &index in &chunk.points {
            let point = &self.points[index];
            let offset = usize::from(point.address - chunk.address);
            let read = if chunk.table.is_bits() {
                Point::bit(bit(data, offset))
            } else {
                let count = usize::from(point.kind.registers());
                point.read(&registers(data, offset, count))
            };
            if let (Some(age), Some(last)) = (self.on_change, &self.last[index])
                && !last.lost
                && same(&last.read, &read)
                && now.saturating_duration_since(last.at) < age
            {
                continue;
            }
            write_reading(lines, &point.series, read.value.value(), read.quality);
            self.last[index] = Some(Last {
                read,
                at: now,
                lost: false,
            });
        }
    }

    /// A value could not be read: the first time that is a reading of bad quality without a number, and then nothing.
    pub(super) fn lose(&mut self, index: usize, now: Instant, lines: &mut String) {
        let lost = self.last[index].as_ref().is_some_and(|last| last.lost);
        if lost {
            return;
        }
        let read = bad();
        write_reading(
            lines,
            &self.points[index].series,
            read.value.value(),
            read.quality,
        );
        self.last[index] = Some(Last {
            read,
            at: now,
            lost: true,
        });
    }

    /// What was to be handed on was not: the next value counts as a change.
    pub(super) fn forget(&mut self) {
        self.last.fill_with(|| None);
    }
}

/// NaN is the same as NaN here.
fn same(one: &Read, other: &Read) -> bool {
    let value = match (&one.value, &other.value) {
        (Decoded::Float(one), Decoded::Float(other)) => one.to_bits() == other.to_bits(),
        (one, other) => one == other,
    };
    value && one.quality == other.quality
}

#[cfg(test)]
mod tests {
    use super::super::map::{Kind, Table};
    use super::super::plan::tests::point;
    use super::*;

    fn chunk(table: Table, address: u16, count: u16, points: &[usize]) -> Chunk {
        Chunk {
            table,
            address,
            count,
            points: points.to_vec(),
        }
    }

    #[test]
    fn each_value_is_taken_out_of_its_place() {
        let points = [(10, Kind::Uint16), (12, Kind::Uint32), (12, Kind::Bit(1))];
        let points: Vec<Point> = points.map(|(at, kind)| point(at, kind)).into();
        let mut values = Values::new(points.into(), None);
        let mut lines = String::new();
        let data = [0, 7, 9, 9, 0, 2, 0, 1];
        values.take(
            &chunk(Table::Input, 10, 4, &[0, 1, 2]),
            &data,
            Instant::now(),
            &mut lines,
        );
        assert_eq!(
            lines,
            "s/10\tint\t7\tgood\ns/12\tint\t131073\tgood\ns/12\tbool\ttrue\tgood\n"
        );
        lines.clear();
        let coils = [point(3, Kind::Bool), point(12, Kind::Bool)];
        let mut values = Values::new(coils.into(), None);
        values.take(
            &chunk(Table::Coil, 3, 10, &[0, 1]),
            &[1, 0],
            Instant::now(),
            &mut lines,
        );
        assert_eq!(lines, "s/3\tbool\ttrue\tgood\ns/12\tbool\tfalse\tgood\n");
    }

    #[test]
    fn only_changes_and_now_and_then_the_rest() {
        let points = [point(0, Kind::Float32)];
        let mut values = Values::new(points.into(), Some(Duration::from_secs(60)));
        let start = Instant::now();
        let mut take = |data: [u8; 4], seconds| {
            let mut lines = String::new();
            let now = start + Duration::from_secs(seconds);
            values.take(&chunk(Table::Holding, 0, 2, &[0]), &data, now, &mut lines);
            lines
        };
        let nan = [0x7F, 0xC0, 0, 0];
        assert_eq!(take([0x3F, 0xC0, 0, 0], 0), "s/0\tfloat\t1.5\tgood\n");
        assert_eq!(take([0x3F, 0xC0, 0, 0], 59), "");
        assert_eq!(take([0x3F, 0xC0, 0, 0], 60), "s/0\tfloat\t1.5\tgood\n");
        assert_eq!(take(nan, 61), "s/0\tfloat\tNaN\tbad\n");
        assert_eq!(take(nan, 62), "");
    }

    #[test]
    fn a_value_that_is_lost_is_told_once() {
        let points = [point(0, Kind::Uint16)];
        let mut values = Values::new(points.into(), Some(Duration::from_secs(60)));
        let now = Instant::now();
        let mut lines = String::new();
        let one = chunk(Table::Holding, 0, 1, &[0]);
        values.take(&one, &[0, 1], now, &mut lines);
        values.lose(0, now, &mut lines);
        values.lose(0, now, &mut lines);
        values.take(&one, &[0, 1], now, &mut lines);
        values.take(&one, &[0, 1], now, &mut lines);
        assert_eq!(
            lines,
            "s/0\tint\t1\tgood\ns/0\tfloat\tNaN\tbad\ns/0\tint\t1\tgood\n"
        );
    }
}
