#!/usr/bin/env bash
# All benches of docs/SPEC.md in one run, with their set-up: hand-off, overhead, and the whole path
# on vtest.avi beside the bare loop in Rust and the loop in Python. Arguments go to
# `visualpath bench`, e.g. `cross/bench.sh handoff --json`.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

"$ROOT/cross/setup.sh" bench
say "building (release; the first time takes about 10 minutes)"
(cd "$ROOT" && cargo build --locked --release -p visualpath --features count-allocations)

exec "$CARGO_TARGET_DIR/release/visualpath" bench \
    --video "$VISUALPATH_ASSETS/videos/vtest.avi" \
    --python-loop "'$VENV/bin/python' '$ROOT/cross/bench_loop.py'" "$@"
