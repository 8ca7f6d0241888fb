#!/bin/sh
# Runs every check of this project, the same ones as CI:
#
#     ./test.sh                     everything; the labs with the reduced matrix
#     RINGWAY_LAB_FULL=1 ./test.sh  everything; the labs with every combination and long runs
#     ./test.sh lint|unit|labs|fuzz one stage
#
# The labs need root and the Debian packages of tools.sh; without them they say SKIP (with CI=true in
# the environment they fail).
set -eu
cd "$(dirname "$0")"
FUZZ_SECONDS=${FUZZ_SECONDS:-2}
SEEDS=${RINGWAY_SEEDS:-100}
began=$(date +%s)

stage() {
    name=$1
    shift
    start=$(date +%s)
    echo "== $name"
    if ! "$@"; then
        echo "== $name: FAILED after $(($(date +%s) - start)) s"
        exit 1
    fi
    echo "== $name: ok, $(($(date +%s) - start)) s"
}

# Clippy, which checks the benches too, and rustdoc treat warnings as errors without touching
# RUSTFLAGS, which would rebuild all.
docs() {
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --document-private-items --quiet
}

# The tests of these packages, for cargo. All packages are always selected: another selection would
# have other features, and be built anew.
tests_of() {
    for package; do
        for file in "$package"/tests/*.rs "$package"/tests/*/main.rs; do
            [ -e "$file" ] || continue
            name=${file#"$package"/tests/}
            name=${name%/main.rs}
            echo "--test ${name%.rs}"
        done
    done
}

# Tests of code, and the simulator with a hundred seeds.
unit_tests() {
    # Unquoted: many words.
    RINGWAY_SEEDS=$SEEDS cargo test --workspace --lib --bins \
        $(tests_of control dataplane tuning bench) &&
        cargo test --workspace --doc
}

# The labs run the program as it is shipped, one test at a time: each has the machine to itself.
labs() {
    cargo build --release -p ringway &&
        RINGWAY_BIN=${RINGWAY_BIN:-${CARGO_TARGET_DIR:-$PWD/target}/release/ringway} \
            cargo test --workspace --no-fail-fast $(tests_of tests) -- --test-threads=1
}

lint() {
    stage "format" cargo fmt --all --check
    stage "lints" cargo clippy --workspace --all-targets -- -Dwarnings
    stage "documentation" docs
}

unit() {
    stage "unit tests, simulator with $SEEDS seeds" unit_tests
}

case ${1:-all} in
lint) lint ;;
unit) unit ;;
labs) stage "labs" labs ;;
fuzz) stage "fuzz, $FUZZ_SECONDS s each" fuzz/run.sh "$FUZZ_SECONDS" ;;
all)
    lint
    unit
    stage "fuzz, $FUZZ_SECONDS s each" fuzz/run.sh "$FUZZ_SECONDS"
    stage "labs" labs
    echo "== all passed in $(($(date +%s) - began)) s"
    ;;
*)
    echo "usage: ./test.sh [lint|unit|labs|fuzz]" >&2
    exit 2
    ;;
esac
