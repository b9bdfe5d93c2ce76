//! A guest that uses WASI as its setting `behaviour` says. Its bindings are those of the crate `wasip2`, which nobody here
//! wrote.

use tidegate_sdk::{Batch, Fault, Output, Quality, clock, settings};
use wasip2::cli::{environment, exit, stderr, stdin, stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens;
use wasip2::io::streams::StreamError;
use wasip2::random::{insecure_seed, random};

tidegate_sdk::filter!(worldly);

const HOUR: u64 = 3_600_000_000_000;

fn worldly(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    match settings::text("behaviour").as_deref() {
        Some("look") => look(batch, out),
        Some("flood") => {
            let line = [b"a line of a flood\n".as_slice(); 200].concat();
            loop {
                let written = stdout::get_stdout().blocking_write_and_flush(&line);
                written.map_err(|_| Fault::new("standard output is closed"))?;
            }
        }
        Some("random") => {
            std::hint::black_box(random::get_random_bytes(1 << 20));
            Ok(())
        }
        Some("handles") => loop {
            std::mem::forget(stdout::get_stdout());
        },
        Some("sleep") => {
            monotonic_clock::subscribe_duration(24 * HOUR).block();
            Ok(())
        }
        Some("exit") => {
            exit::exit(Ok(()));
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

/// Says what there is, and adds it as readings.
fn look(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    let fault = |_: StreamError| Fault::new("it cannot be written");
    let out_stream = stdout::get_stdout();
    out_stream
        .blocking_write_and_flush(b"said on standard output\nand not ended")
        .map_err(fault)?;
    stderr::get_stderr()
        .blocking_write_and_flush(b"said on standard error\n")
        .map_err(fault)?;
    let read = stdin::get_stdin().blocking_read(1);
    if !matches!(read, Err(StreamError::Closed)) {
        return Err("there is something to read".into());
    }
    let now = wall_clock::now();
    let nanoseconds = now.seconds * 1_000_000_000 + u64::from(now.nanoseconds);
    if i64::try_from(nanoseconds) != Ok(clock::now()) || monotonic_clock::now() != nanoseconds {
        return Err("the clocks differ".into());
    }
    let seed = insecure_seed::insecure_seed();
    let bytes = random::get_random_bytes(100);
    if bytes.len() != 100 || seed.0 == seed.1 {
        return Err("no random bytes".into());
    }
    let found = environment::get_environment().len()
        + environment::get_arguments().len()
        + usize::from(environment::initial_cwd().is_some())
        + preopens::get_directories().len();
    let time = batch.rows().next().map_or(0, |row| row.time());
    out.add("found", time, found as f64, Quality::Good);
    let number = random::get_random_u64().cast_signed();
    out.add("random", time, number, Quality::Good);
    Ok(())
}
