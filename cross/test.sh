#!/usr/bin/env bash
# Every check and test there is, with all of its set-up. From an empty cache within 60 minutes
# on 2 cores; a table at the end says where the minutes went.
#
#   VISUALPATH_SOAK=1   the long runs (N = 1000) instead of the seeded short ones (N = 50)
#
# A step that fails does not stop the later ones; what this machine cannot do is skipped with
# its reason. Exit 0 only if nothing failed.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

CARGO_DENY_VERSION=0.20.2
STEPS=()
FAILED=0
SKIPPED=0

main() {
    step "set-up" "$ROOT/cross/setup.sh" tests
    if [ "$FAILED" -gt 0 ]; then
        table
        die "set-up failed; nothing else can be run"
    fi
    step "format" format
    step "shell" shell
    step "clippy" cargo clippy --locked --workspace --all-targets -- -D warnings
    step "api" api
    step "build" cargo build --locked --workspace
    step "test" cargo test --locked --workspace --no-fail-fast
    step "vm" vm
    step "python" python
    step "fuzz" fuzz
    step "demo" demo
    step "deny" deny
    step "loom" loom
    step "miri" miri
    table
    [ "$FAILED" -eq 0 ] || exit 1
}

# step NAME COMMAND…: runs it and notes how it went. A command that prints a last word to
# $SKIP_REASON and returns 75 was skipped.
step() {
    local name=$1 start status=0
    shift
    say "$name"
    start=$(date +%s)
    SKIP_REASON=""
    # No subshell: a skipped step leaves its reason in SKIP_REASON.
    "$@" || status=$?
    local took=$(($(date +%s) - start)) how=passed
    if [ "$status" -eq 75 ] && [ -n "$SKIP_REASON" ]; then
        how="SKIPPED: $SKIP_REASON"
        SKIPPED=$((SKIPPED + 1))
        say "$name skipped: $SKIP_REASON"
    elif [ "$status" -ne 0 ]; then
        how="FAILED (exit $status)"
        FAILED=$((FAILED + 1))
    fi
    STEPS+=("$(printf '%-10s %3d min %02d s   %s' "$name" $((took / 60)) $((took % 60)) "$how")")
}

skip() {
    SKIP_REASON=$1
    return 75
}

table() {
    say "where the minutes went"
    printf '%s\n' "${STEPS[@]}"
    printf 'steps: %d failed, %d skipped\n' "$FAILED" "$SKIPPED"
}

format() {
    cargo fmt --all --check
    # Workspaces of their own.
    (cd tests/fuzz && rustfmt --check --edition 2024 fuzz_targets/*.rs)
    cargo fmt --manifest-path tests/api/Cargo.toml --check
}

shell() {
    "$VENV/bin/shellcheck" cross/*.sh .ci/run
}

# What apps can use changes only as the version says.
api() {
    local status=0
    "$ROOT/cross/api.sh" || status=$?
    [ "$status" -ne 75 ] || skip "rustdoc of this toolchain writes another form of JSON (FORMAT in cross/api.sh)"
    return "$status"
}

# An ARM machine with a real V4L2 driver.
vm() {
    local status=0
    "$ROOT/cross/vm.sh" || status=$?
    [ "$status" -ne 75 ] || skip "$(cat "$VM/missing")"
    return "$status"
}

# The Python side against the golden vectors, with set-up's Python. `src` is on the path by pyproject.toml.
python() {
    if ! "$VENV/bin/python" -c 'import pytest' 2>/dev/null; then
        skip "no pytest in the set-up venv (cross/setup.sh tests)"
        return
    fi
    "$VENV/bin/python" -m pytest -q -p no:cacheprovider plugins/python
}

# Every fuzz target for 20 s.
fuzz() {
    if ! command -v rustup >/dev/null || ! rustup toolchain list | grep -q '^nightly'; then
        skip "no nightly toolchain ('rustup toolchain install nightly')"
        return
    fi
    "$ROOT/cross/fuzz.sh" 20
}

# The README's first command, into a directory that is thrown away.
demo() {
    local out status=0
    out=$(mktemp -d)
    VISUALPATH_DEMO_OUT="$out" "$ROOT/cross/demo.sh" || status=$?
    rm -rf "$out"
    return "$status"
}

# Licences, bans, sources. Advisories need a database that is fetched from a host outside the
# package registries; where that can be reached, run `cargo deny check advisories`.
deny() {
    if ! cargo deny --version 2>/dev/null | grep -q "$CARGO_DENY_VERSION"; then
        PATH="$TOOLS/bin:$PATH"
    fi
    if ! cargo deny --version 2>/dev/null | grep -q "$CARGO_DENY_VERSION"; then
        say "building cargo-deny $CARGO_DENY_VERSION (once, about 2 minutes)"
        # Unoptimised: it runs for seconds, and is built in a third of the time.
        CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR="$TOOLS/build" cargo install --quiet --locked \
            --debug --no-track --force --root "$TOOLS" "cargo-deny@$CARGO_DENY_VERSION" || return 1
        rm -rf "$TOOLS/build"
    fi
    cargo deny --locked check bans licenses sources
}

# The lease table, under every interleaving. Another cfg rebuilds everything, so it builds apart,
# and its dependencies unoptimised: they are tests' own.
loom() {
    RUSTFLAGS="--cfg loom ${RUSTFLAGS:-}" CARGO_TARGET_DIR="$CARGO_TARGET_DIR/loom" \
        cargo test --locked -p visualpath-frames --lib loom_ \
        --config 'profile.dev.package."*".opt-level=1'
}

# The unsafe code of the frame pool, over heap memory: Miri knows no memfd.
miri() {
    if ! command -v rustup >/dev/null || ! rustup toolchain list | grep -q '^nightly'; then
        skip "no nightly toolchain ('rustup toolchain install nightly')"
        return
    fi
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        say "adding the miri component to the nightly toolchain"
        if ! rustup component add --toolchain nightly miri rust-src; then
            skip "the nightly toolchain has no miri and it could not be added"
            return
        fi
    fi
    CARGO_TARGET_DIR="$CARGO_TARGET_DIR/miri" MIRIFLAGS="-Zmiri-strict-provenance" \
        cargo +nightly miri test --locked -p visualpath-frames --no-fail-fast
}

main "$@"
