# shellcheck shell=bash disable=SC2034 # they are used by whoever sources this
# The names that setup.sh, demo.sh and test.sh share. Sourced; does nothing but set them.
#
#   ROOT               the repository
#   CACHE              what set-up makes: models, videos, pictures, runtime, venv, tools
#   VM, ARM            the ARM machine of tests/vm, and Rust's name for what it runs
#   CARGO_TARGET_DIR   one build directory for demo and tests, unless already set

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/visualpath"
VENV="$CACHE/venv"
TOOLS="$CACHE/tools"
VM="$CACHE/vm"
ARM=aarch64-unknown-linux-gnu

# Where tests and the demo look for fetched files, and the binary for models.
VISUALPATH_ASSETS="${VISUALPATH_ASSETS:-$CACHE}"
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
export VISUALPATH_ASSETS CARGO_TARGET_DIR

# rustup's cargo is not in PATH of a shell that read no profile; mosquitto lives in sbin.
PATH="$PATH:$HOME/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

if [ -t 1 ]; then BOLD=$'\033[1m' RED=$'\033[1;31m' PLAIN=$'\033[0m'; else BOLD="" RED="" PLAIN=""; fi
say() { printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*"; }
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$*" >&2
    exit 1
}
