#!/bin/sh
# SPDX-License-Identifier: MIT
# From a fresh Debian 12 to a first answer: install packages, build, predict the bundled clip.
set -eu
cd "$(dirname "$0")/.."
build=${SER_BUILD_DIR:-build}

sh examples/install-packages.sh build
echo "building in $build/" >&2
if [ ! -f "$build/build.ninja" ]; then
    meson setup "$build" -Dtests=false >"$build-setup.log" 2>&1 || {
        cat "$build-setup.log" >&2
        exit 1
    }
    rm -f "$build-setup.log"
fi
# The tools and the library first; "ninja -C build" makes the rest, where there is nvcc also the CUDA module.
ninja -C "$build" --quiet tools/ser-predict tools/ser-record tools/ser-train >&2

"$build/tools/ser-predict" --model models/ser-mini.safetensors "${1:-examples/clip.wav}"
