#!/usr/bin/env bash
# The long run of everything about live updates that takes time: builds the tests in release mode, runs each timed test for as
# long as its row below says, and appends what they came to, by commit, to docs/stress.md. Needs cargo and hours; no root.
#
#   scripts/stress.sh [-j N] [-s SCALE] [-o DIR] [-n] [PATTERN...]
#
#   -j N       N tests at a time (1). Each has two or three busy threads.
#   -s SCALE   all times multiplied by it (1): -s 0.01 to see that the script works
#   -o DIR     where each test's output goes (a new directory in /tmp)
#   -n         do not write docs/stress.md
#   PATTERN    only tests whose binary or name contains one of these
#
# Ends with 1 when a test failed; its output is kept, and its row says so.
set -euo pipefail
cd "$(dirname "$0")/.."

# Seconds, test binary, test. 600 for the heart of it (C13 shares them between three cases), 60 for the rest; leak: cycles.
MATRIX='
600 live_updates c1_insert_and_delete_give_the_program_or_the_fall_through_patched
600 live_updates c1_insert_and_delete_give_the_program_or_the_fall_through_slots
600 live_updates c2_replace_never_gives_the_fall_through_patched
600 live_updates c2_replace_never_gives_the_fall_through_slots
600 live_updates c3_random_changes_of_three_slots_under_eight_callers_patched
600 live_updates c3_random_changes_of_three_slots_under_eight_callers_slots
600 patching c1_insert_and_delete_give_the_program_or_the_fall_through
600 patching c2_replace_never_gives_the_fall_through
600 patching c3_many_callers_many_sites_and_two_writers
600 live_memory c7_memory_of_a_program_that_left_its_slot_is_used_again_at_once_patched
600 live_memory c7_memory_of_a_program_that_left_its_slot_is_used_again_at_once_slots
600 live_lifetimes c9_callers_are_loaded_and_unloaded_while_slots_change
600 patching c9_callers_in_the_middle_of_a_chain_are_replaced_while_their_own_slots_change
600 live_writers c13_two_writers_leave_code_that_agrees_with_the_slots_patched
600 live_writers c13_two_writers_leave_code_that_agrees_with_the_slots_slots
600 patching c20_a_caller_that_is_loaded_during_updates_misses_none
600 patching c20_updates_between_tracking_and_fix_up_of_a_caller_are_not_lost
600 transactions no_packet_is_mixed_while_chains_are_switched_patched
600 transactions no_packet_is_mixed_while_chains_are_switched_slots
600 transactions no_packet_is_mixed_while_chains_are_switched_interpreted
60 transactions a_single_update_beside_transactions_is_never_lost
60 transactions loads_and_unloads_beside_transactions
60 live_lifetimes c8_a_run_that_another_thread_starts_after_an_update_sees_it
60 updates_many c8_runs_that_start_after_the_report_or_the_return_see_all_of_it
60 live_lifetimes c12_updates_from_inside_of_runs_on_two_threads
60 updates_many c12_a_run_may_ask_for_changes_and_wait_for_them
60 live_writers c15_no_byte_outside_the_displacements_ever_changes
60 live_updates c16_c1_to_c3_pass_where_membarrier_is_refused
60 live_process c17_forks_in_the_middle_of_updates_harm_nobody
60 live_lifetimes c19_threads_come_and_go_while_slots_change
60 live_signals handlers_that_run_programs_while_generated_code_runs_and_slots_change
1000000 leak load_and_unload_cycles_leave_nothing_behind
'

jobs=1 scale=1 out='' write=1
while getopts j:s:o:n option; do
    case $option in
        j) jobs=$OPTARG ;;
        s) scale=$OPTARG ;;
        o) out=$OPTARG ;;
        n) write=0 ;;
        *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
out=${out:-$(mktemp -d /tmp/livebpf-stress.XXXXXX)}
mkdir -p "$out"

chosen() {
    local pattern
    (($# > 2)) || return 0
    for pattern in "${@:3}"; do
        [[ "$1 $2" == *"$pattern"* ]] && return 0
    done
    return 1
}

# Builds everything once, and says where each test binary is: "NAME PATH".
cargo test --release -p livebpf --no-run 2>&1 | tee "$out/build.log" |
    sed -n 's/^ *Executable tests\/\([a-z_]*\)\.rs (\(.*\))$/\1 \2/p' >"$out/binaries"
grep -q . "$out/binaries" || { tail -20 "$out/build.log" >&2; exit 1; }

# One test: binary's name, its path, test, amount.
one() {
    local log="$out/$1.$3.log" status=0 begin=$SECONDS
    if [[ $1 == leak ]]; then
        LIVEBPF_LEAK_CYCLES=$4 "$2" --exact "$3" --nocapture --test-threads=1 >"$log" 2>&1 || status=$?
    else
        LIVEBPF_STRESS_SECONDS=$4 "$2" --exact "$3" --nocapture --test-threads=1 >"$log" 2>&1 || status=$?
    fi
    # A name that no test has is a failure as well.
    grep -q ' 1 passed' "$log" || status=1
    echo "$status $1 $3" >>"$out/done"
    echo "$(date +%T) $((SECONDS - begin)) s, status $status: $1 $3"
}

: >"$out/done"
declare -A paths
while read -r name path; do paths[$name]=$path; done <"$out/binaries"
while read -r amount binary test; do
    [[ -n $amount ]] && chosen "$binary" "$test" "$@" || continue
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
    amount=$(awk -v a="$amount" -v s="$scale" -v l="$binary" 'BEGIN { x = a * s; print l == "leak" ? int(x) : x }')
    one "$binary" "${paths[$binary]:?no test binary of that name}" "$test" "$amount" &
done <<<"$MATRIX"
wait

# "stress: NAME; 60 s; 5 runs; 2 exact; 3 updates; 4 others" becomes a row; a failed test gets one that says so.
rows() {
    local status binary test
    while read -r _ binary test; do
        [[ -n $binary ]] || continue
        status=$(awk -v b="$binary" -v t="$test" '$2 == b && $3 == t { print $1 }' "$out/done")
        [[ -n $status ]] || continue
        { grep -o 'stress: .*' "$out/$binary.$test.log" || true; } | awk -F'; ' -v wrong="$([[ $status == 0 ]] && echo 0 || echo '**failed**')" '
            function thousands(n,  s) {
                while (length(n) > 3) { s = "," substr(n, length(n) - 2) s; n = substr(n, 1, length(n) - 3) }
                return n s
            }
            {
                name = substr($1, 9); seconds = $2; sub(/ s$/, "", seconds)
                runs = exact = updates = "-"; more = ""
                for (i = 3; i <= NF; i++) {
                    n = $i; sub(/ .*/, "", n); what = $i; sub(/^[^ ]* /, "", what)
                    if (what == "runs") runs = thousands(n)
                    else if (what == "exact") exact = thousands(n)
                    else if (what == "updates") updates = thousands(n)
                    else more = more (more == "" ? "" : ", ") thousands(n) " " what
                }
                print "| " name " | " seconds " | " runs " | " exact " | " updates " | " (more == "" ? "-" : more) " | " wrong " |"
            }'
        grep -q 'stress: ' "$out/$binary.$test.log" || [[ $status != 0 ]] || echo "| $binary: $test | - | - | - | - | - | 0 |"
        [[ $status == 0 ]] || echo "| $binary: $test | - | - | - | - | - | **failed** |"
    done <<<"$MATRIX"
}

{
    commit=$(git rev-parse --short HEAD)
    git diff --quiet HEAD -- livebpf || commit+=' with changes'
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
    family=$(sed -n 's/^cpu family[^:]*: //p' /proc/cpuinfo | head -1)
    echo
    echo "## $(date '+%-d %B %Y'), commit $commit"
    echo
    echo "$model (family $family), $(nproc) CPUs, Linux $(uname -r | cut -d. -f1,2); $jobs at a time."
    echo
    echo '| test | seconds | runs | exact | updates | besides | wrong results |'
    echo '| --- | --- | --- | --- | --- | --- | --- |'
    rows
} >"$out/section.md"
cat "$out/section.md"
((write)) && cat "$out/section.md" >>docs/stress.md
echo "output of each test: $out"
! grep -qv '^0 ' "$out/done"
