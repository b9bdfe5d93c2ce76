#![no_main]

libfuzzer_sys::fuzz_target!(
    init: tidegate_pipeline::fuzz::compile_if_asked(),
    |input: &[u8]| {
        tidegate_pipeline::fuzz::answers(input);
    }
);
