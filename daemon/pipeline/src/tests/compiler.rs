//! A compiler that misbehaves over one component: that module fails, alone, and the next one is compiled.

use super::*;

const MIB: u64 = 1 << 20;

/// A sound component that tells the compiler to do something.
fn ordering(fault: &str) -> Vec<u8> {
    let name = "tidegate:test-fault";
    let mut contents = vec![u8::try_from(name.len()).unwrap()];
    contents.extend_from_slice(name.as_bytes());
    contents.extend_from_slice(fault.as_bytes());
    let mut component = pass();
    component.push(0);
    component.push(u8::try_from(contents.len()).unwrap());
    component.extend_from_slice(&contents);
    component
}

#[test]
fn a_component_that_is_loaded_or_cached_waits_for_no_compilation_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let cached = guest("", "(drop (i32.const 1))");
    let before = Runtime::new(config(dir.path())).unwrap();
    before.load(&cached).unwrap();
    let mut config = config(dir.path());
    config.compile.time = Duration::from_secs(6);
    let runtime = Runtime::new(config).unwrap();
    let held = runtime.load(&pass()).unwrap();
    let hanging = ordering("hang");
    std::thread::scope(|scope| {
        let hung = scope.spawn(|| runtime.load(&hanging).map(drop));
        while !runtime.is_compiling() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let again = runtime.load(&pass()).unwrap();
        assert!(Arc::ptr_eq(&held, &again));
        let origin = runtime.load(&cached).unwrap().origin().clone();
        assert!(matches!(origin, CodeOrigin::Cache), "{origin:?}");
        assert!(runtime.is_compiling(), "they waited for it");
        let error = hung.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("longer than 6 s"), "{error}");
    });
}

#[test]
fn a_compiler_that_panics_hangs_eats_memory_or_reaches_out_fails_that_module_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.compile = CompileLimits {
        time: Duration::from_secs(5),
        memory_bytes: 256 * MIB,
    };
    let runtime = Runtime::new(config).unwrap();
    for (fault, want) in [
        ("panic", "as the test ordered"),
        ("hang", "took longer than 5 s"),
        // The allocator gives up, and the process aborts.
        ("memory", "memory allocation of"),
        ("file", "Too many open files"),
        ("network", "Too many open files"),
        ("environment", "0 variables, in Ok(\"/\")"),
    ] {
        let began = Instant::now();
        let error = runtime.load(&ordering(fault)).unwrap_err();
        assert!(error.to_string().contains(want), "{fault}: {error}");
        if fault == "network" {
            assert!(!error.to_string().contains("None"), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{fault}");
        // Each time another one, so that the cache has no part in it.
        let sound = guest("", &format!("(drop (i32.const {}))", fault.len() * 100));
        let origin = runtime.load(&sound).unwrap().origin().clone();
        assert!(matches!(
            origin,
            CodeOrigin::Compiled { .. } | CodeOrigin::Cache
        ));
    }
    assert!(
        runtime.load(&ordering("nothing")).is_ok(),
        "the order alone does no harm"
    );
}
