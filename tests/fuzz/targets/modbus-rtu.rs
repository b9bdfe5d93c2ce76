#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    tidegate_ingest::fuzz::answers_rtu(input);
});
