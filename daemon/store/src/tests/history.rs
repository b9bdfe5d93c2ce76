//! History read back: by range, in the order of commits, step by step, beside the writer.

use super::*;

fn range(from: i64, to: i64) -> HistoryRange {
    HistoryRange {
        from: START + from * SECOND,
        to: START + to * SECOND,
        ..HistoryRange::default()
    }
}

/// All blocks of a range, with the number of steps that they took.
fn read(bench: &Bench, range: &HistoryRange) -> (Vec<HistoryBlock>, usize) {
    let (mut blocks, mut steps, mut first) = (Vec::new(), 0, 0);
    loop {
        let step = bench.reader().history(range, first).unwrap();
        blocks.extend(step.blocks);
        steps += 1;
        match step.next {
            Some(next) => {
                assert!(next > first, "a step goes on");
                first = next;
            }
            None => return (blocks, steps),
        }
    }
}

/// The values in a range, in the order in which they are read.
fn values(bench: &Bench, range: &HistoryRange) -> Vec<f64> {
    let mut values = Vec::new();
    for block in read(bench, range).0 {
        let batch = block.readings.unwrap();
        for row in 0..batch.len() {
            let time = batch.time[row];
            if let Value::Float(value) = batch.value(row)
                && (range.from..range.to).contains(&time)
            {
                values.push(value);
            }
        }
    }
    values
}

#[test]
fn a_range_is_read_in_the_order_of_commits() {
    let mut bench = Bench::new();
    // The second commit holds what was measured first.
    for readings in [
        [("a/temp", 10, 1.0), ("b/temp", 11, 2.0)],
        [("a/temp", 3, 3.0), ("a/temp", 12, 4.0)],
    ] {
        let outcome = bench.outcome(&readings);
        bench.apply(outcome);
        bench.commit();
    }
    assert_eq!(values(&bench, &range(0, 100)), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values(&bench, &range(3, 11)), [1.0, 3.0]);
    assert_eq!(values(&bench, &range(12, 12)), [0.0; 0]);
    let named = |name: &str| HistoryRange {
        pipeline: Some(name.to_owned()),
        ..range(0, 100)
    };
    assert_eq!(values(&bench, &named("temperature")).len(), 4);
    assert_eq!(values(&bench, &named("nobody")), [0.0; 0]);
    let block = read(&bench, &range(0, 100)).0.remove(0);
    assert_eq!(block.pipeline.as_ref(), "temperature");
    assert_eq!(block.generation.as_deref(), Some("00112233aabbccdd"));
    assert!(block.arrival.is_some());
}

#[test]
fn a_long_history_takes_many_short_steps_and_misses_nothing() {
    let mut bench = Bench::new();
    let mut expect = Vec::new();
    for n in 0..100 {
        let value = f64::from(n);
        let outcome = bench.outcome(&[("a/temp", n.into(), value)]);
        bench.apply(outcome);
        bench.commit();
        expect.push(value);
    }
    let (blocks, steps) = read(&bench, &range(0, 1000));
    assert_eq!(blocks.len(), 100);
    assert!(steps > 2, "{steps} steps");
    assert_eq!(values(&bench, &range(0, 1000)), expect);
    assert_eq!(values(&bench, &range(40, 50)), expect[40..50]);
}

#[test]
fn a_damaged_block_is_named_and_the_others_are_read() {
    let mut bench = Bench::new();
    for n in 0..3 {
        let outcome = bench.outcome(&[("a/temp", n, 1.0)]);
        bench.apply(outcome);
        bench.commit();
    }
    let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
    let changed = conn.execute(
        "UPDATE history SET data = x'0102030405060708' WHERE id = 2",
        [],
    );
    assert_eq!(changed, Ok(1));
    drop(conn);
    let blocks = read(&bench, &range(0, 100)).0;
    let sound: Vec<bool> = blocks.iter().map(|block| block.readings.is_ok()).collect();
    assert_eq!(sound, [true, false, true]);
    let error = blocks[1].readings.as_ref().unwrap_err();
    assert!(error.contains("checksum"), "{error}");
}
