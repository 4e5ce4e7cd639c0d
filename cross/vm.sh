#!/usr/bin/env bash
# The ARM machine: builds for aarch64, boots Debian's arm64 kernel with a real V4L2 driver (vivid)
# under qemu, runs scenarios inside, and gives each one's result as that of an ordinary test.
#
#   cross/vm.sh                  all of them
#   cross/vm.sh SCENARIO…        those whose name contains one of these
#   VISUALPATH_SOAK=1            18,000 frames instead of 1,800, 20 disconnects instead of 5
#   VISUALPATH_VM_LOG=FILE       the machine's console, also of what passed
#
# Sets up what it needs (cross/setup.sh vm). Exit 75 if this machine can't have one; the reason is
# in $VM/missing.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

INITRD="$CARGO_TARGET_DIR/$ARM/initrd"

main() {
    if [ ! -e "$VM/made" ] && [ ! -e "$VM/missing" ]; then
        "$ROOT/cross/setup.sh" vm
    elif [ ! -e "$VM/missing" ]; then
        # One that an older version of the script has made is made anew.
        "$ROOT/cross/vm_machine.sh" || [ -e "$VM/missing" ] || die "the ARM machine could not be made"
    fi
    if [ -e "$VM/missing" ]; then
        say "no ARM machine here: $(cat "$VM/missing")"
        exit 75
    fi
    if [ -e "$VM/no_encoder" ]; then
        say "the encoder's scenario is left out: $(cat "$VM/no_encoder")"
        export VISUALPATH_VM_NO_ENCODER=1
    fi
    build
    make_initrd
    VISUALPATH_VM_KERNEL="$VM/vmlinuz" VISUALPATH_VM_INITRD="$INITRD" VISUALPATH_VM_ONLY="$*" \
        cargo test --locked --workspace --test vm -- --ignored --nocapture "$@"
}

# What runs inside: the appliance without its ONNX runtimes, and the scenarios.
build() {
    local gnu=aarch64-linux-gnu
    say "building for $ARM"
    env CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$gnu-gcc \
        CC_aarch64_unknown_linux_gnu=$gnu-gcc CXX_aarch64_unknown_linux_gnu=$gnu-g++ \
        AR_aarch64_unknown_linux_gnu=$gnu-ar \
        BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu="--sysroot=/usr/$gnu -I/usr/$gnu/include" \
        cargo build --locked --target "$ARM" -p visualpath -p visualpath-vm-probe \
        --bin visualpath --bin vm-probe --no-default-features --features visualpath/v4l2
}

# The first file system: what set-up made, and in a second archive what was built.
make_initrd() {
    local root file
    root=$(mktemp -d)
    mkdir "$root/bin"
    cp tests/vm/init "$root/"
    for file in visualpath vm-probe; do
        aarch64-linux-gnu-strip -o "$root/bin/$file" "$CARGO_TARGET_DIR/$ARM/debug/$file"
    done
    (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0 | cat "$VM/base.cpio" -) >"$INITRD"
    rm -rf "$root"
}

main "$@"
