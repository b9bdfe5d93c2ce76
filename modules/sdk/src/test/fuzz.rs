//! Any bytes through a decoder: for a fuzzer, and for the inputs that it kept.

use std::fs;
use std::path::Path;

use super::decoder::{DecoderHarness, Received};

/// What stands between the messages of an input.
const BETWEEN: &[u8] = b"\xff\xfe\xff\xfe";
/// Messages of an input; what comes behind them is left out.
const MESSAGES: usize = 16;

impl DecoderHarness {
    /// Decodes bytes as a fuzzer makes them in one call: messages with `ff fe ff fe` in between, each a topic, a line end and
    /// the payload (without a line end the topic is `t`). True where a reading came out.
    ///
    /// # Panics
    /// When the decoder does, or when its answer breaks the contract.
    pub fn fuzz(&mut self, input: &[u8]) -> bool {
        let mut received = Vec::new();
        let mut rest = Some(input);
        while let Some(bytes) = rest.filter(|_| received.len() < MESSAGES) {
            let end = bytes
                .windows(BETWEEN.len())
                .position(|window| window == BETWEEN);
            let message = &bytes[..end.unwrap_or(bytes.len())];
            rest = end.map(|end| &bytes[end + BETWEEN.len()..]);
            let line = message.iter().position(|byte| *byte == b'\n');
            let (topic, payload) = match line {
                Some(0) | None => ("t".into(), message),
                Some(end) => (
                    String::from_utf8_lossy(&message[..end]),
                    &message[end + 1..],
                ),
            };
            received.push(Received::new(&topic, 0, payload));
        }
        self.run(&received)
            .is_ok_and(|decodings| !decodings.stored.is_empty())
    }
}

/// Sends every file of a folder through a function of [`DecoderHarness::fuzz`]. Some have to come to something, and some to
/// nothing: a corpus of rubbish proves little.
///
/// # Panics
/// When one of them does harm, or the folder proves nothing.
pub fn replay_corpus(folder: &str, target: fn(&[u8]) -> bool) {
    let mut ends = [0_usize; 2];
    for file in fs::read_dir(Path::new(folder)).expect("the corpus is there") {
        let path = file.expect("the corpus can be listed").path();
        let input = fs::read(&path).expect("the corpus can be read");
        let outcome = std::panic::catch_unwind(|| target(&input));
        let came = outcome.unwrap_or_else(|_| panic!("{} does harm", path.display()));
        ends[usize::from(came)] += 1;
    }
    assert!(ends[0] > 0 && ends[1] > 0, "{folder}: {ends:?}");
}
