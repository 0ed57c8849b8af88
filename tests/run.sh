#!/bin/sh
# SPDX-License-Identifier: MIT
# Install what the tests need, build, and run them all:
#   1. gcc, release, warnings are errors: every test
#   2. AddressSanitizer and UndefinedBehaviorSanitizer: every test again
#   3. ThreadSanitizer: the tests that share handles between threads
#   4. clang, warnings are errors: the unit tests
# "sh tests/run.sh quick" stops after the first. The last line counts test programs over all builds.
set -u
cd "$(dirname "$0")/.." || exit 1
root=${SER_TEST_BUILD_DIR:-build-tests}
mkdir -p "$root"
passed=0
failed=0
skipped=0

say() {
    printf '\n== %s\n' "$*"
}

# count LOG: add up meson's closing figures.
count() {
    figure() { sed -n "s/^$1: *\([0-9][0-9]*\).*/\1/p" "$2" | tail -n 1; }
    ok=$(figure Ok "$1")
    bad=$(figure Fail "$1")
    late=$(figure Timeout "$1")
    skip=$(figure Skipped "$1")
    passed=$((passed + ${ok:-0}))
    failed=$((failed + ${bad:-0} + ${late:-0}))
    skipped=$((skipped + ${skip:-0}))
}

# run NAME "SETUP ARGS" "TEST ARGS" ["TARGETS"]: configure, build (all, or the targets), test; a build
# that breaks counts as a failure.
run() {
    name=$1
    dir=$root/$name
    log=$root/$name.log
    say "$name"
    if [ ! -f "$dir/build.ninja" ]; then
        # shellcheck disable=SC2086 # lists of words
        meson setup "$dir" --werror $2 >"$log" 2>&1 || {
            tail -n 40 "$log"
            failed=$((failed + 1))
            return
        }
    fi
    # shellcheck disable=SC2086
    if ! ninja -C "$dir" ${4:-} >"$log" 2>&1; then
        grep -E -A 12 'FAILED|error' "$log" | head -n 80
        failed=$((failed + 1))
        return
    fi
    # shellcheck disable=SC2086
    meson test -C "$dir" --no-rebuild --print-errorlogs $3 >"$log" 2>&1
    status=$?
    cat "$log"
    before=$failed
    count "$log"
    if [ "$status" -ne 0 ] && [ "$failed" -eq "$before" ]; then
        failed=$((failed + 1))
    fi
}

finish() {
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
    exit
}

if ! sh examples/install-packages.sh test; then
    echo "packages are missing: nothing was built or tested"
    failed=1
    finish
fi

# One architecture, and PTX of the oldest: what differs in the others is nvcc's.
run release "-Dgpu_archs=90a" ""
[ "${1:-}" = quick ] && finish

# The real module once is enough: what else would change in it is nvcc's.
run sanitize "-Dcuda=disabled -Dbuildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false" \
    "--timeout-multiplier 6 --no-suite shuffled --no-suite long"
run threads "-Dcuda=disabled -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false -Dopenmp=disabled" \
    "--timeout-multiplier 6 threads audio_threads predictor_failures stream_failures model_api batch capture" \
    "tests/api/test_threads tests/audio/test_audio_threads tests/predict/test_predictor_failures
     tests/predict/test_stream_failures tests/model/test_model_api tests/train/test_batch
     tests/capture/test_capture"
CC=clang CXX=clang++ run clang "-Dcuda=disabled -Db_lundef=false" "--timeout-multiplier 2 --suite ops --suite cuda --suite model"
finish
