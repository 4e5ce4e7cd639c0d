#!/usr/bin/env bash
# Makes the ARM machine that cross/vm.sh boots, in $CACHE/vm: Debian's arm64 kernel (`vmlinuz`) and
# what its first file system holds whatever is tested (`base.cpio`): busybox, the C library,
# v4l2-ctl, and the modules of the test camera and the test encoder, in the order in which they are
# inserted.
#
# Debian builds no test encoder (`CONFIG_VIDEO_VICODEC is not set`): it is built here, out of tree,
# from Debian's source of that very kernel.
#
# The packages are fetched with apt-get from the sources and keys this machine has, as for arm64,
# with a state of their own: the machine's is left alone. What can't be had, and why, is left in
# $VM/missing. What is there is not fetched again, but for an encoder that could not be had
# ($VM/no_encoder): that is tried again after a day.
set -euo pipefail

# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# Raise it when this script makes something else.
EDITION=4
MODULES="vivid uvcvideo vhci-hcd virtio_pci virtio_net virtio_console v4l2_mem2mem"

main() {
    if is_made && [ -z "$(find "$VM/no_encoder" -mmin +1440 2>/dev/null)" ]; then return; fi
    WORK=$(mktemp -d "$VM/making.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
    say "making the ARM machine in $VM"
    fetch
    unpack
    rm -f "$VM/made" "$VM/no_encoder"
    mv -f "$WORK/vmlinuz" "$WORK/base.cpio" "$VM/"
    if [ -s "$WORK/no_encoder" ]; then mv -f "$WORK/no_encoder" "$VM/"; fi
    printf '%s\n' "$EDITION" >"$VM/made"
}

is_made() { [ "$(cat "$VM/made" 2>/dev/null)" = "$EDITION" ]; }

missing() {
    if is_made; then # the one without an encoder serves on
        touch "$VM/no_encoder"
        say "the ARM machine has no encoder still: $*"
        exit 0
    fi
    printf '%s\n' "$*" >"$VM/missing"
    exit 1
}

fetch() {
    local status="$WORK/apt/status" kernel
    mkdir -p "$WORK/apt/lists/partial" "$WORK/apt/archives/partial" "$WORK/kernel"
    : >"$status"
    APT=(-q -o "Dir::State=$WORK/apt" -o "Dir::State::status=$status" -o "Dir::Cache=$WORK/apt"
        -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Acquire::Retries=3
        -o Acquire::Languages=none -o "Dir::Log=$WORK/apt")
    if [ "$(id -u)" -eq 0 ]; then # the user _apt may not write into our directory
        APT+=(-o APT::Sandbox::User=root)
    fi
    # One of the sources may know no arm64: what counts is whether the packages are found.
    apt-get "${APT[@]}" update || true
    kernel=$(apt-cache "${APT[@]}" depends linux-image-arm64 2>/dev/null |
        sed -n 's/^ *Depends: *\(linux-image-[^ :]*\).*/\1/p' | head -n 1)
    [ -n "$kernel" ] ||
        missing "this machine's package sources have no linux-image-arm64 (Ubuntu keeps arm64 on other hosts)"
    (cd "$WORK/kernel" && apt-get "${APT[@]}" download "$kernel") ||
        missing "$kernel could not be fetched"
    # To build a module: what was configured, for arm64; the source; the tools, which run here.
    (cd "$WORK/kernel" && apt-get "${APT[@]}" download "${kernel/image/headers}" \
        "$(common_of "$kernel")" "linux-source-$(series_of "$kernel")" &&
        apt-get -q -o Dir::Log="$WORK/apt" download "linux-kbuild-$(series_of "$kernel")") ||
        echo "the headers, source and tools of $kernel could not be fetched" >"$WORK/no_encoder"
    # With all the libraries that they need.
    apt-get "${APT[@]}" install -y --no-install-recommends --download-only \
        busybox-static v4l-utils || missing "busybox-static or v4l-utils for arm64 could not be fetched"
}

# linux-image-6.1.0-56-arm64: linux-headers-6.1.0-56-common, and 6.1.
common_of() {
    local name=${1/image/headers}
    printf '%s\n' "${name%-arm64}-common"
}
series_of() { printf '%s\n' "$1" | sed -n 's/^linux-image-\([0-9]*\.[0-9]*\)\..*/\1/p'; }

# The test encoder, built out of tree; `vicodec.ko` in $WORK, or why not in $WORK/no_encoder.
vicodec() {
    local version=$1
    if [ -s "$WORK/no_encoder" ]; then return; fi
    if ! (build_vicodec "$version") >"$WORK/vicodec.log" 2>&1; then
        printf 'vicodec could not be built: %s\n' \
            "$(tail -n 3 "$WORK/vicodec.log" | tr '\n' ' ')" >"$WORK/no_encoder"
        say "the ARM machine has no encoder: $(cat "$WORK/no_encoder")"
    fi
}

# In a subshell of its own, and each step by itself: `set -e` is not in force inside an `if`.
build_vicodec() {
    local version=$1 build="$WORK/build" headers deb source=drivers/media/test-drivers/vicodec
    mkdir -p "$build" || return
    for deb in "$WORK"/kernel/linux-headers-*.deb "$WORK"/kernel/linux-kbuild-*.deb; do
        dpkg -x "$deb" "$build" || return
    done
    headers="$build/usr/src/linux-headers-$version"
    sed -i "s#/usr/src/linux-headers#$build/usr/src/linux-headers#g" "$headers/Makefile" || return
    dpkg --fsys-tarfile "$WORK"/kernel/linux-source-*.deb |
        tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
        tar -xJ -C "$build" --strip-components=1 --wildcards "linux-source-*/$source/*" || return
    make -s -C "$headers" M="$build/$source" ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- \
        CONFIG_VIDEO_VICODEC=m modules || return
    aarch64-linux-gnu-strip --strip-debug -o "$WORK/vicodec.ko" "$build/$source/vicodec.ko"
}

unpack() {
    local deb version root="$WORK/root" modules module
    dpkg -x "$WORK"/kernel/linux-image-*.deb "$WORK/k"
    for deb in "$WORK"/apt/archives/*.deb; do dpkg -x "$deb" "$WORK/all"; done
    version=$(basename "$WORK"/k/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    mv "$WORK/k/boot/vmlinuz-$version" "$WORK/vmlinuz"

    mkdir -p "$root"/{bin,dev,etc,lib/modules,mnt,proc,sys,tmp}
    cp "$WORK/all/bin/busybox" "$root/bin/"
    cp "$WORK/all/usr/bin/v4l2-ctl" "$root/bin/"
    # Libraries lie flat in /lib, where the loader looks as well.
    find "$WORK/all" -path '*aarch64-linux-gnu/*' -name '*.so*' ! -path '*/libv4l/*' \
        ! -path '*/gconv/*' -exec cp -L {} "$root/lib/" \;

    depmod -b "$WORK/k" "$version"
    modules=$(for module in $MODULES; do
        modprobe -S "$version" -d "$WORK/k" --show-depends "$module" || true
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++')
    for module in $modules; do
        cp "$module" "$root/lib/modules/"
        basename "$module" >>"$root/lib/modules/order"
    done
    vicodec "$version"
    if [ -e "$WORK/vicodec.ko" ]; then
        cp "$WORK/vicodec.ko" "$root/lib/modules/"
        echo vicodec.ko >>"$root/lib/modules/order"
    fi
    grep -q '^vivid\.ko' "$root/lib/modules/order" || missing "Debian's kernel $version has no vivid"
    (cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) >"$WORK/base.cpio"
}

main "$@"
