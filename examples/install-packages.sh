#!/bin/sh
# SPDX-License-Identifier: MIT
# Install what building needs ("build") or building and testing ("test") from Debian 12.
# Nothing happens if all of it is there; sudo is used only when not root.
set -eu

build="gcc libc6-dev meson ninja-build pkg-config libsndfile1-dev libsoxr-dev libjansson-dev
       libdnnl-dev librandom123-dev libmpg123-dev libzip-dev libcsv-dev libxxhash-dev
       libpulse-dev libasound2-dev"
test="check clang libclang-rt-14-dev libomp-14-dev python3 python3-numpy python3-venv python3-pip
      python3-setuptools python3-wheel sox ffmpeg mandoc abigail-tools binutils g++ git pulseaudio
      pulseaudio-utils python3-tk xvfb"

case "${1:-build}" in
build) packages=$build ;;
test) packages="$build $test" ;;
*)
    echo "usage: $0 [build|test]" >&2
    exit 2
    ;;
esac

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
        missing="$missing $package"
done
[ -z "$missing" ] && exit 0

echo "installing:$missing" >&2
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    if ! command -v sudo >/dev/null; then
        echo "there is no sudo; as root, run: sh examples/install-packages.sh ${1:-build}" >&2
        exit 1
    fi
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words
if ! { $as_root apt-get update &&
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; } \
    >"$log" 2>&1; then
    cat "$log" >&2
    echo "the packages above could not be installed" >&2
    exit 1
fi
