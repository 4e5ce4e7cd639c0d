#!/usr/bin/env bash
# Runs fuzz targets of tests/fuzz under libFuzzer and the address sanitizer.
#
#   cross/fuzz.sh [SECONDS [TARGET…]]     each target that long (default 20 s; default: all)
#
# Needs a nightly compiler, for the sanitizer. The layout is cargo-fuzz's, which is not needed: the
# flags are below. What is found is kept in $CACHE/fuzz/artifacts/TARGET and told; put it into
# tests/fuzz/fixtures/TARGET, mend it, and `cargo test --test fuzz` keeps it mended. The corpus
# grows in $CACHE/fuzz/corpus from run to run.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT/tests/fuzz"

SECONDS_EACH=${1:-20}
shift || true
TARGETS=("$@")
[ "${#TARGETS[@]}" -gt 0 ] || TARGETS=(config rules nut jpegs mjpeg trace from_child from_parent)

(cd "$ROOT" && VISUALPATH_FUZZ_SEEDS="$CACHE/fuzz/seeds" cargo test --quiet --locked --workspace \
    --test fuzz -- --ignored --exact seeds_for_the_fuzzer >/dev/null)

# The versions tested are those of the appliance.
cp "$ROOT/Cargo.lock" Cargo.lock
BUILD="$CARGO_TARGET_DIR/fuzz"
TRIPLE=$(rustc +nightly -vV | sed -n 's/^host: //p')

# Counters per edge and comparisons seen, as cargo-fuzz has them, but only where bytes from outside
# are read: they make the other crates slow to build and tell the fuzzer nothing.
mkdir -p "$BUILD/log"
cat >"$BUILD/instrument" <<'END'
#!/bin/sh
# cargo calls this: rustc ARGUMENTS…
case " $* " in
*" --target "*) ;;
*) exec "$@" ;; # build scripts and macros
esac
case " $* " in
*" --crate-name visualpath"* | *" --crate-name toml"* | *" --crate-name winnow "* | \
    *" --crate-name cel "* | *" --crate-name antlr4rust "* | *" --crate-name serde_json "* | *" --crate-name postcard "*) ;;
*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
END
chmod +x "$BUILD/instrument"

say "building ${TARGETS[*]} (the first time about 4 minutes)"
RUSTC_WRAPPER="$BUILD/instrument" RUSTFLAGS="--cfg fuzzing -Zsanitizer=address ${RUSTFLAGS:-}" \
    cargo +nightly build --quiet --target "$TRIPLE" --target-dir "$BUILD" \
    "${TARGETS[@]/#/--bin=}"

# A fake stack per thread takes longer than most inputs, and all our stacks are safe Rust's.
export ASAN_OPTIONS="detect_stack_use_after_return=0:${ASAN_OPTIONS:-}"

status=0
for target in "${TARGETS[@]}"; do
    corpus="$CACHE/fuzz/corpus/$target" found="$CACHE/fuzz/artifacts/$target/"
    fixtures="$ROOT/tests/fuzz/fixtures/$target"
    inputs=("$corpus" "$CACHE/fuzz/seeds/$target")
    [ ! -d "$fixtures" ] || inputs+=("$fixtures")
    mkdir -p "$corpus" "$found"
    say "fuzzing $target for $SECONDS_EACH s"
    log="$BUILD/log/$target"
    if "$BUILD/$TRIPLE/debug/$target" "${inputs[@]}" \
        -max_total_time="$SECONDS_EACH" -max_len=8192 -timeout=20 -rss_limit_mb=1500 \
        -artifact_prefix="$found" -print_final_stats=1 >"$log" 2>&1; then
        sed -n 's/^stat::number_of_executed_units: */    executions: /p; s/^stat::peak_rss_mb: */    peak MB: /p' "$log"
    else
        tail -n 60 "$log"
        printf '%s: %s broke a promise; its input is in %s\n' "$RED$target$PLAIN" "$target" "$found" >&2
        status=1
    fi
done
exit "$status"
