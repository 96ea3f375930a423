#!/usr/bin/env bash
# Thread sanitiser over what shares memory. It sees neither membarrier nor generated code, so tests/data_races.rs says most:
# programs that are plain memory, read in sections, ended after grace periods, by readers that fence for themselves and by
# readers that do not. The last step switches the grace period off and wants a report: the sanitiser would see the mistake.
# With --all, the unit tests of grace periods, arrays and core syncs and tests/patching.rs run as well.
#
# Needs nightly with rust-src (the standard library is built with the sanitiser, too); says so in one line otherwise.
# LIVEBPF_STRESS_SECONDS says how long each timed test runs.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! [ -d "$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; then
    echo "tsan: skipped, needs: rustup toolchain install nightly --component rust-src"
    exit 0
fi
export RUSTFLAGS="-Zsanitizer=thread" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/tsan" TSAN_OPTIONS="halt_on_error=1"
tests() { cargo +nightly test -q -Zbuild-std --target x86_64-unknown-linux-gnu -p livebpf "$@"; }

tests --test data_races
if [ "${1-}" = --all ]; then
    tests --lib -- rcu:: text::sync map::held prog_array run::generation
    tests --test patching
fi
if report=$(LIVEBPF_NO_GRACE=1 tests --test data_races 2>&1) || ! grep -q "ThreadSanitizer: data race" <<<"$report"; then
    echo "$report" >&2
    echo "tsan: a missing grace period was not reported as a data race" >&2
    exit 1
fi
echo "tsan: no data race; a missing grace period is reported"
