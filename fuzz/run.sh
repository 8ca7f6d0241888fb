#!/bin/sh
# Builds the fuzz targets and runs each for a number of seconds from its committed corpus:
#
#     fuzz/run.sh SECONDS [TARGET...]
#
# It needs nothing but the installed toolchain and a C++ compiler: the coverage instrumentation is
# asked of rustc directly, which the stable compiler can do. With a nightly compiler and cargo-fuzz,
# `cargo fuzz run TARGET` works as well, and adds the address sanitizer.
set -eu
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
cd "$(dirname "$0")"

host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
export RUSTFLAGS
# Naming the target keeps the flags away from build scripts.
cargo build --release --quiet --target "$host"

targets=${*:-$(cd fuzz_targets && ls ./*.rs | sed 's|^\./||; s|\.rs$||')}

# One target; says how it went, and leaves a file if it failed.
run() {
    target=$1
    found=target/found/$target
    mkdir -p "corpus/$target" "artifacts/$target" "$found"
    rm -f "$found.failed"
    # New inputs go to the first folder, so that the committed corpus stays as it is.
    if "target/$host/release/$target" "$found" "corpus/$target" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
        -artifact_prefix="artifacts/$target/" -print_final_stats=1 >"$found.log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$found.log")
        seeds=$(find "corpus/$target" -type f | wc -l)
        echo "fuzz $target: ok, $runs runs in $seconds s from $seeds seeds"
    else
        : >"$found.failed"
        tail -n 40 "$found.log"
        echo "fuzz $target: FAILED"
    fi
}

# As many at once as there are processors.
jobs=$(nproc)
count=0
for target in $targets; do
    run "$target" &
    count=$((count + 1))
    [ $((count % jobs)) -ne 0 ] || wait
done
wait

failed=
for target in $targets; do
    [ ! -e "target/found/$target.failed" ] || failed="$failed $target"
done
if [ -n "$failed" ]; then
    echo "fuzz: failed:$failed (inputs in fuzz/artifacts/)"
    exit 1
fi
