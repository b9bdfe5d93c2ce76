//! Nothing that comes from outside makes the gateway panic or hang: seeded mutations of what libFuzzer kept, through the same
//! functions (`src/fuzz/`), and of whole components. `make fuzz` runs a hundred times as many (`TIDEGATE_FUZZ=100`), beside
//! libFuzzer itself.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::bounds::SlotLimits;
use crate::fuzz::{TARGETS, replay};

/// SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below a bound, which is at least 1.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// One of the inputs with one to eight changes.
    fn mutated(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        const WORDS: [&[u8]; 9] = [
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\xff\xff\xff\x7f",
            b"\x80\x80\x80\x80\x10",
            b"-0.0e-999",
            b"18446744073709551616",
            b"\"\\ud800\"",
            b"[[{\"\":",
            b"\xc3\xa4\xf0\x9f",
        ];
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(8) {
            let at = self.below(bytes.len() + 1);
            let to = (at + self.below(32)).min(bytes.len());
            match self.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.next().to_le_bytes()[0],
                2 => drop(bytes.drain(at..to)),
                3 => drop(bytes.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
                4 => {
                    let copy = bytes[at..to].to_vec();
                    let place = self.below(bytes.len() + 1);
                    drop(bytes.splice(place..place, copy));
                }
                5 => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len() + 1);
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
                _ => bytes.truncate(bytes.len() - self.below(4).min(bytes.len())),
            }
        }
        bytes
    }
}

/// Calls `target` with so many mutations of the inputs. What fails is written down.
fn fuzz(name: &str, inputs: &[Vec<u8>], runs: usize, mut target: impl FnMut(&[u8])) {
    let times: usize = std::env::var("TIDEGATE_FUZZ").map_or(1, |times| times.parse().unwrap());
    let mut random = Random(7);
    for run in 0..runs * times {
        let input = random.mutated(inputs);
        let began = Instant::now();
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let file = build_dir().join(format!("fuzz-{name}-{run}"));
            fs::write(&file, &input).unwrap();
            panic!(
                "{name}: mutation {run} does harm; it is in {}: mend it, and keep it in tests/fuzz/corpus/{name}",
                file.display()
            );
        }
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{name}: mutation {run} takes {:?}",
            began.elapsed()
        );
    }
}

/// Mutations of a target's corpus: some come to something and some do not.
fn mutations(name: &str, runs: usize) {
    let (_, target) = TARGETS.iter().find(|target| target.0 == name).unwrap();
    let inputs: Vec<Vec<u8>> = replay::corpus(name)
        .into_iter()
        .map(|(_, input)| input)
        .collect();
    let mut ends = [0; 2];
    fuzz(name, &inputs, runs, |input| {
        ends[usize::from(target(input))] += 1;
    });
    assert!(ends[0] > 0 && ends[1] > 0, "{name}: {ends:?}");
}

#[test]
fn payloads_of_any_shape_are_decoded_or_refused() {
    mutations("payloads", 60_000);
}

#[test]
fn manifests_of_any_shape_are_read_or_refused() {
    mutations("manifest", 20_000);
}

#[test]
fn host_calls_with_any_arguments_answer_or_end_the_guest() {
    mutations("host-calls", 3_000);
}

#[test]
fn answers_of_any_shape_are_checked() {
    mutations("answers", 3_000);
    mutations("decodings", 3_000);
    mutations("outputs", 20_000);
}

#[test]
fn columns_of_any_shape_are_taken_whole_or_refused() {
    mutations("batches", 20_000);
}

/// 300 in an ordinary run, 30,000 with `TIDEGATE_FUZZ=100`: each is loaded as a site's module would be, and called once.
#[test]
fn mutated_components_are_refused_or_run_within_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = runtime(dir.path());
    let components = [
        pass(),
        every_second(),
        guest(LOG, ""),
        crate::fuzz::caller(),
    ];
    let mut ends = [0; 3];
    fuzz("components", &components, 300, |component| {
        let module = Module {
            manifest: manifest(&Grant::ALL, StateKind::Global),
            component: component.to_vec().into(),
            origin: Origin::Local,
        };
        let Ok(module) = LoadedModule::load(&runtime, module) else {
            ends[0] += 1;
            return;
        };
        let mut slot = Slot::of(Arc::new(module));
        slot.config.limits = SlotLimits {
            deadline: Duration::from_millis(50),
            log_lines_per_second: 0,
            ..SlotLimits::default()
        };
        let Ok(mut pipeline) = slot.make(&runtime, &BTreeMap::new()) else {
            ends[1] += 1;
            return;
        };
        balances(&pipeline.run(&ints(&[1, 2, 3]), ARRIVAL, Instant::now()));
        ends[2] += 1;
    });
    println!(
        "refused at load {}, when linked {}; ran {}",
        ends[0], ends[1], ends[2]
    );
    assert!(ends[0] > 0 && ends[2] > 0, "{ends:?}");
}
