//! What entered pipelines: kept for as long as asked, within its share, and first to go.

use super::*;

const KEEP: i64 = 600;

fn keeping() -> StoreConfig {
    let mut config = config();
    config.max_bytes = 4 * 1024 * 1024;
    config.pipelines[0].keep_input = Some(Duration::from_secs(KEEP.unsigned_abs()));
    config
}

impl Bench {
    fn keep(&mut self, readings: &[(&str, i64, f64)]) {
        let mut outcome = self.outcome(readings);
        let pipeline = &mut outcome.pipelines[0];
        pipeline.input = Some(pipeline.stored.clone());
        self.apply(outcome);
        self.commit();
    }

    fn kept(&self, since: i64) -> Vec<KeptBatch> {
        let (mut kept, mut next) = (Vec::new(), Some(0));
        while let Some(first) = next {
            let step = self
                .reader()
                .kept_input("temperature", since, first)
                .unwrap();
            kept.extend(step.batches);
            next = step.next;
        }
        kept
    }
}

#[test]
fn what_entered_is_kept_as_it_was_for_as_long_as_asked() {
    let mut bench = Bench::with(keeping());
    for n in 0..5 {
        bench.keep(&[("a/temp", n, 1.0), ("b/temp", n, 2.0)]);
        bench.advance(60 * SECOND);
    }
    bench.crash();
    let kept = bench.kept(i64::MIN);
    assert_eq!(kept.len(), 5);
    for (n, batch) in (0..).zip(&kept) {
        let readings = batch.readings.as_ref().unwrap();
        assert_eq!(&*readings.names, ["a/temp".into(), "b/temp".into()]);
        assert_eq!(readings.time, [START + n * SECOND; 2]);
    }
    let since = kept[3].arrival;
    assert_eq!(bench.kept(since).len(), 2);
    assert!(
        bench
            .reader()
            .kept_input("other", 0, 0)
            .unwrap()
            .batches
            .is_empty()
    );

    // 305 s have passed; the first goes 600 s after it came, with the next commit.
    bench.advance((KEEP - 300) * SECOND);
    bench.keep(&[("a/temp", 0, 1.0)]);
    assert_eq!(bench.kept(i64::MIN).len(), 5);
    // Nobody wants it any more.
    bench.close();
    bench.config.pipelines[0].keep_input = None;
    bench.open();
    bench.apply(bench.outcome(&[("a/temp", 0, 1.0)]));
    bench.commit();
    assert!(bench.kept(i64::MIN).is_empty());
    bench.check_balance();
}

#[test]
fn it_counts_towards_the_bound_of_a_group() {
    let mut bench = Bench::with(keeping());
    let rows = crate::setup::Bounds::new(bench.config.max_bytes).group_rows;
    let readings = vec![("a/temp", 0, 1.0); rows];
    let mut outcome = bench.outcome(&readings);
    let pipeline = &mut outcome.pipelines[0];
    // A filter took all of them out.
    pipeline.input = Some(std::mem::take(&mut pipeline.stored));
    pipeline.filtered = pipeline.selected;
    bench.apply(outcome);
    assert!(bench.writer().is_full(), "the group is due at once");
    bench.try_commit().unwrap().unwrap();
    assert_eq!(bench.kept(i64::MIN).len(), 1);
    bench.check_balance();
}

#[test]
fn it_stays_within_its_share_and_goes_before_anything_else() {
    let mut config = keeping();
    config.pipelines[0].keep_input = Some(Duration::from_secs(86_400));
    let bounds = crate::setup::Bounds::new(config.max_bytes);
    let mut bench = Bench::with(config);
    // A tenth of the store holds some of it alone.
    let readings: Vec<(&str, i64, f64)> =
        (0..200).map(|n| ("a/temp", n, n as f64 * 0.37)).collect();
    for _ in 0..400 {
        bench.keep(&readings);
        let conn = rusqlite::Connection::open(&bench.config.path).unwrap();
        let bytes: i64 = conn
            .query_row("SELECT sum(length(data)) FROM input", [], |row| row.get(0))
            .unwrap();
        assert!(bytes.unsigned_abs() <= bounds.kept_bytes, "{bytes}");
    }
    bench.check_balance();
    let kept = bench.kept(i64::MIN);
    assert!(kept.len() > 10 && kept.len() < 400, "{}", kept.len());
    let newest = kept.last().unwrap().arrival;
    assert_eq!(newest, bench.wall - SECOND, "the newest stay");
}
