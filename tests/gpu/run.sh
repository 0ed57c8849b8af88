#!/bin/sh
# SPDX-License-Identifier: MIT
# Everything that the CUDA backend has to show on a card, in one go:
#
#     sh tests/gpu/run.sh BUILD [MODEL...]        # BUILD: a build with -Dcuda=enabled and the tests
#
# Parity of every op, of the goldens (outputs, gradients, ten steps) and of the trainer, the same ops
# under compute-sanitizer, ser-predict on the CPU and on the card, and, with RAVDESS=DIR, ser-train.
# MODEL: transformers directories or model files for ser-predict, besides ser-mini. Logs go to $OUT
# (default: BUILD/gpu); the table at the end is the result.
set -u
build=$1
shift
out=${OUT:-$build/gpu}
mkdir -p "$out"
export SER_MODULE_PATH="$PWD/$build/lib/ops/cuda" SER_TEST_CUDA=1 SER_TEST_DATA="$PWD/tests"
export SER_MODEL="$PWD/models/ser-mini.safetensors" CK_FORK=no SER_CACHE_DIR="$out/cache"
table=$out/table.txt
: >"$table"
failed=0

# step NAME COMMAND...: run it, keep its log, note the outcome and the seconds.
step() {
    name=$1
    shift
    begin=$(date +%s)
    "$@" >"$out/$name.log" 2>&1
    status=$?
    [ "$status" -eq 0 ] || failed=$((failed + 1))
    printf '%-40s %4s  %4d s\n' "$name" "$([ "$status" -eq 0 ] && echo ok || echo "rc $status")" \
        $(($(date +%s) - begin)) >>"$table"
}

ops=$(find "$build/tests/cuda" -maxdepth 1 -name 'test_cuda_*' -type f -perm -u+x |
    grep -v -e test_cuda_device | sort)
golden=$build/tests/net/test_golden

for program in $ops; do
    step "$(basename "$program")" "$program"
done
for precision in f32 bf16; do
    SER_TEST_DEVICE=cuda SER_TEST_PRECISION=$precision step "golden_$precision" "$golden"
    SER_TEST_DEVICE=cuda SER_TEST_PRECISION=$precision \
        step "golden_training_$precision" "$build/tests/net/test_golden_training"
done
for program in step step_cache trainer checkpoint training_cuda steps_cuda; do
    SER_TEST_DEVICE=cuda SER_TEST_PRECISION=f32 step "train_$program" "$build/tests/train/test_$program"
done
step module "$build/tools/ser-predict" --list-devices

if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        for program in $ops; do
            step "${tool}_$(basename "$program")" compute-sanitizer --tool "$tool" \
                --error-exitcode 9 "$program"
        done
    done
fi

# The same answers on both devices, twice, with every product engine.
for model in "$SER_MODEL" "$@"; do
    stem=$(basename "$model")
    for device in cpu cuda; do
        for precision in f32 bf16; do
            for engine in 0 1; do
                [ "$device" = cpu ] && [ "$precision$engine" != f320 ] && continue
                SER_CUDNN=$engine step "predict_${stem}_${device}_${precision}_cudnn$engine" \
                    "$build/tools/ser-predict" --device "$device" --precision "$precision" \
                    --model "$model" --format csv -o "$out/$stem.$device.$precision.$engine.csv" \
                    "${CLIPS:-examples}"
            done
        done
    done
    step "compare_$stem" python3 tests/gpu/compare.py "$out/$stem.cpu.f32.0.csv" "$out/$stem".cuda.*.csv
done

# The same three epochs on both devices, and on the card twice: the second time must be the same bits.
if [ -n "${RAVDESS:-}" ]; then
    for run in cpu.f32 cuda.f32 cuda.bf16 cuda.bf16.again; do
        device=${run%%.*}
        precision=${run#*.}
        step "train_mini_$run" "$build/tools/ser-train" --config models/ser-mini.json \
            --dataset ravdess "$RAVDESS" --split emobox6:1 --epochs 3 --device "$device" \
            --precision "${precision%.again}" --force -o "$out/mini.$run"
    done
    step train_mini_repeats cmp "$out/mini.cuda.bf16/best.safetensors" \
        "$out/mini.cuda.bf16.again/best.safetensors"
    grep -h '"kind": *"epoch"' "$out"/mini.*/metrics.jsonl >"$out/compare_training.log"
fi

cat "$table" "$out"/compare_*.log
echo "$failed failed"
[ "$failed" -eq 0 ]
