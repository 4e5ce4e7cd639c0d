#!/usr/bin/env bash
# The demo, with all of its set-up: vtest.avi → person detector → a rule on a zone → triggers
# over MQTT, printed as a separate subscriber receives them → clips in ./demo-out.
#
#   VISUALPATH_DEMO_REALTIME=1   pace the video by its own time stamps (80 s) instead of as
#                                fast as possible
#   VISUALPATH_DEMO_OUT=DIR      where clips go (default ./demo-out)
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

VISUALPATH_DEMO_OUT=$(realpath -m "${VISUALPATH_DEMO_OUT:-demo-out}")
export VISUALPATH_DEMO_OUT
if [ "${VISUALPATH_DEMO_REALTIME:-0}" = 1 ]; then
    export VISUALPATH__SOURCE__YARD__REALTIME=true
fi

"$ROOT/cross/setup.sh"

say "building (the first time takes some minutes)"
# --workspace: the features that the tests build with, so that neither builds the other's again.
(cd "$ROOT" && cargo build --locked --workspace --bin visualpath)

say "people at the door of vtest.avi, seen by an MQTT subscriber"
mkdir -p "$VISUALPATH_DEMO_OUT"
# exec: the view ends what it started when it is told to end, and nothing is left between.
exec "$VENV/bin/python" "$ROOT/cross/demo_view.py" "$VISUALPATH_DEMO_OUT" -- \
    "$CARGO_TARGET_DIR/debug/visualpath" run -c "$ROOT/cross/demo.toml" --json
