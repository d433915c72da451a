#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    strongroom_proof::fuzz::run("pack", input);
});
