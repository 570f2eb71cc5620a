#!/bin/bash
# Runs the tests: every tests/*_test.c (built into BUILD/tests, each case of cmocka counts) and every
# tests/*_test.sh (each line "ok - ..." counts, else the script as one). The last line: "N passed, N failed".
# A command that a test calls and that is not there fails that test by name, and ends it at once.
#
# Tests run side by side, TEST_JOBS at a time (the number of cores, at most 8); a script marked "# alone" runs after the
# others and by itself, as it counts on being on time; one marked "# starts first" takes longest.
#
#   BIN=bin BUILD=build tests/run.sh [NAME...]    NAME: config for config_test.c; default all
#   tests/run.sh --both [TEXT...]                 all, with bin/ and then with ASan and UBSan from build/asan/bin, but for
#                                                 scripts marked "# plain build alone"; TEXT: "building 50 s", told with
#                                                 the time that the tests took
set -u
cd "$(dirname "$0")/.." || exit 71

limit=${TEST_TIMEOUT:-900} # seconds for one test program: what hangs, not what a slow machine takes
export BIN=${BIN:-bin} BUILD=${BUILD:-build}

# A few ranks of a few threads share this machine's cores, wherever it is.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_mpi_yield_when_idle=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
# Where the machine's own name is not known, MPI asks the name server for it at every start: not for long.
if ! getent hosts "$(uname -n)" >/dev/null; then export RES_OPTIONS='timeout:1 attempts:1'; fi
export LSAN_OPTIONS=suppressions=$PWD/tests/lsan.supp:print_suppressions=0
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1

work=$(mktemp -d) || exit 71
trap 'stop_all; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
# stop_all: the tests that run, each a process group, which get a moment to clean up
stop_all() {
    local file
    for file in "$work"/*.pid; do
        if [ -e "$file" ]; then kill -TERM -- "-$(cat "$file")" 2>/dev/null; fi
    done
    wait
}

# Bash calls this for a command that is nowhere: in the tests and in every script that they start.
command_not_found_handle() {
    echo "$1: command not found" >&2
    echo "$1" >>"$ABSENT_COMMANDS"
    kill -TERM $$
    return 127
}
export -f command_not_found_handle

# summary WORD LOG: the number in cmocka's lines "[  WORD  ] N test(s)", with "tests: " before it since version 2
summary() { sed -nE "s/^\[ *$1 *\] (tests: )?([0-9]+) test\(s\).*/\2/p" "$2" | awk '{ n += $1 } END { print n + 0 }'; }

# run_one NAME COMMAND...: leaves its line in $work/NAME.said, after a failure with the failed checks and the end of the log,
# and "SECONDS NAME PASSED FAILED SKIPPED" in $work/NAME.counts.
run_one() {
    local name=$1 log=$BUILD/logs/$1.log start=$SECONDS status good bad none pid
    shift
    export ABSENT_COMMANDS=$work/$name.absent
    : >"$ABSENT_COMMANDS"
    timeout -k 10 "$limit" "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    echo $pid >"$work/$name.pid"
    wait $pid
    status=$?
    kill -KILL -- -$pid 2>/dev/null # what it left behind
    rm "$work/$name.pid"
    sort -u "$ABSENT_COMMANDS" | sed 's/.*/not ok - &: this command is not there (jobs\/packages.txt)/' >>"$log"
    good=$(grep -acE '^(\[       OK \]|ok - )' "$log")
    bad=$(($(grep -acE '^not ok - ' "$log") + $(summary FAILED "$log")))
    none=$(($(grep -acE '^skipped: ' "$log") + $(summary SKIPPED "$log")))
    if [ -s "$ABSENT_COMMANDS" ] && [ "$status" = 0 ]; then
        status=127
    elif [[ $* == *.sh && $status = 77 ]]; then
        none=1 status=0
    elif [ "$status" = 0 ]; then
        bad=0
        if [ "$good" = 0 ] && [ "$none" = 0 ]; then good=1; fi
    elif [ "$bad" = 0 ]; then
        bad=1 # it crashed, or took too long
    fi
    if [ "$status" = 0 ]; then
        printf '  pass  %-22s %3d ok%s  %d s\n' "$name" "$good" "$([ "$none" = 0 ] || echo ", $none skipped")" \
            $((SECONDS - start))
        grep -aE "^(skipped|note): $([ "$none" = 0 ] || echo '|^# skipped: ')" "$log" | sort -u | sed 's/^/          /'
    else
        printf '  FAIL  %-22s %3d ok, %d failed  (status %d%s); %s ends:\n' "$name" "$good" "$bad" "$status" \
            "$([ "$status" = 124 ] && echo ": longer than $limit s")" "$log"
        {
            if [ "$(wc -l <"$log")" -gt 40 ]; then grep -aE -m 10 '^not ok - ' "$log" && echo '...'; fi
            tail -n 40 "$log"
        } | sed 's/^/        | /'
    fi >"$work/$name.said"
    echo "$((SECONDS - start)) $name $good $bad $none" >"$work/$name.counts"
}

passed=0
failed=0
skipped=0
times=() # "SECONDS NAME" of each
# collect: tells of the tests that have ended
collect() {
    local counts seconds name good bad none
    for counts in "$work"/*.counts; do
        if [ ! -e "$counts" ]; then return; fi
        read -r seconds name good bad none <"$counts"
        cat "$work/$name.said"
        passed=$((passed + good)) failed=$((failed + bad)) skipped=$((skipped + none))
        times+=("$seconds $name")
        rm "$counts"
    done
}
# run_all SLOTS FILE...: so many at a time
run_all() {
    local slots=$1 file name
    for file in "${@:2}"; do
        while [ "$(jobs -rp | wc -l)" -ge "$slots" ]; do wait -n && collect; done
        name=$(basename "${file%_test.*}")
        case $file in
        *.c) run_one "$name" "$BUILD/tests/${name}_test" & ;;
        *.sh) run_one "$name.sh" bash "$file" & ;;
        esac
    done
    wait
    collect
}

# suite TITLE [NAME...]
suite() {
    local file name first=() others=() alone=()
    echo "$1"
    shift
    mkdir -p "$BUILD/logs"
    for file in tests/*_test.c tests/*_test.sh; do
        name=$(basename "${file%_test.*}")
        if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then continue; fi
        if [ ! -e "$file" ]; then continue; fi
        if [ "$BUILD" != build ] && grep -q '^# plain build alone' "$file"; then continue; fi
        if grep -q '^# alone: ' "$file"; then
            alone+=("$file")
        elif grep -q '^# starts first' "$file"; then
            first+=("$file")
        else
            others+=("$file")
        fi
    done
    run_all "${TEST_JOBS:-$(($(nproc) < 8 ? $(nproc) : 8))}" "${first[@]+"${first[@]}"}" "${others[@]+"${others[@]}"}"
    run_all 1 "${alone[@]+"${alone[@]}"}"
}

# What the tests call and is not there fails here by name, before a test stumbles over it.
absent=$(jobs/setup.sh --missing tests)
if [ -n "$absent" ]; then
    failed=$(wc -l <<<"$absent")
    while IFS= read -r line; do echo "  FAIL  $line"; done <<<"$absent"
fi

if [ "${1:-}" = --both ]; then
    shift
    suite "tests:"
    parts=("$@" "tests $SECONDS s")
    start=$SECONDS
    export BIN=build/asan/bin BUILD=build/asan
    suite "the same with ASan and UBSan:"
    parts+=("with ASan and UBSan $((SECONDS - start)) s")
    echo "time: $(printf '%s, ' "${parts[@]}" | sed 's/, $//'); longest:" \
        "$(printf '%s\n' "${times[@]}" | sort -rn | head -n 6 | awk '{ printf "%s%s %s s", sep, $2, $1; sep = ", " }')"
else
    suite "tests of $BUILD:" "$@"
fi
if [ "$skipped" -gt 0 ]; then echo "$skipped skipped"; fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
