#![no_main]

libfuzzer_sys::fuzz_target!(
    init: visualpath_fuzz::only_uncaught_panics_count(),
    |bytes: &[u8]| {
        visualpath_fuzz::protocol::from_parent(bytes);
    }
);
