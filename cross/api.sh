#!/usr/bin/env bash
# The public API of visualpath and visualpath-core, against docs/reference/api/*.txt.
#
#   cross/api.sh             compares; fails if anything changed, and says whether it breaks apps
#   cross/api.sh update      writes the listings anew: what is new, or what the raised version allows
#   cross/api.sh overwrite   writes them whatever changed, for a version that nobody has yet
#
# Exit 75: this toolchain's rustdoc writes another form of JSON than the reader knows.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

# That of public-api in tests/api/Cargo.toml; the two are raised together.
FORMAT=57

MODE=${1:-check}
case $MODE in check | update | overwrite) ;; *) die "usage: cross/api.sh [update|overwrite]" ;; esac

# JSON is not stable yet. The switch is set for rustdoc alone: build scripts look at it, and would
# build everything again.
mkdir -p "$CARGO_TARGET_DIR/api"
wrapper="$CARGO_TARGET_DIR/api/rustdoc"
printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec "%s" "$@"\n' "${RUSTDOC:-rustdoc}" >"$wrapper"
chmod +x "$wrapper"
# --workspace: the features of every other step, whose metadata (clippy's) is used again.
RUSTDOC="$wrapper" RUSTDOCFLAGS="-Zunstable-options --output-format=json --cap-lints=allow" \
    cargo doc --quiet --locked --workspace --no-deps --lib

json="$CARGO_TARGET_DIR/doc"
found=$(grep -o '"format_version":[0-9]*' "$json/visualpath.json" | grep -o '[0-9]*$')
if [ "$found" != "$FORMAT" ]; then
    say "rustdoc's JSON has format $found, public-api reads $FORMAT"
    exit 75
fi
VISUALPATH_API_JSON="$json" VISUALPATH_API_MODE="$MODE" \
    cargo test --quiet --locked --manifest-path tests/api/Cargo.toml \
    --target-dir "$CARGO_TARGET_DIR/api" -- --include-ignored --nocapture
