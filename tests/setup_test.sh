#!/bin/bash
# What `make demo` and `make test` say where packages are missing: without apt, root or network one line that names
# them. And tests/run.sh: a test that calls what is not there fails at once by that name.
# plain build alone: no program of ours is in it
# shellcheck disable=SC2317  # called by check
# shellcheck source=tests/common.sh
. tests/common.sh

# A checkout with a jobs/find.sh that finds what $FOUND says, and a PATH with a few commands alone.
project=$tmp/project
mkdir -p "$project/jobs" "$project/tests" "$tmp/path"
cp jobs/setup.sh jobs/packages.txt "$project/jobs/"
cp tests/run.sh "$project/tests/"
# shellcheck disable=SC2016
printf '#!/bin/bash\nfor name in $FOUND; do echo "FOUND_${name}_LIBS := x"; done >build/found.mk\n' >"$project/jobs/find.sh"
chmod +x "$project/jobs/find.sh"
for command in bash env dirname mkdir grep sed awk cut tr paste cat tail; do ln -s "$(command -v $command)" "$tmp/path/"; done
script() { printf '#!/bin/bash\n%s\n' "$2" >"$tmp/path/$1" && chmod +x "$tmp/path/$1"; } # script NAME TEXT
for command in make pkg-config mpirun zstd; do script $command :; done
script dpkg 'echo amd64'
root() { script id 'echo 0'; }
user() { script id 'echo 1000'; }
libraries="CC MPI HDF5 YAML ZLIB ZSTD LZMA BZ2 GEMM LAPACK"

# setup FOUND PART: its exit status
setup() {
    env -i PATH="$tmp/path" LZMA="${LZMA:-}" FOUND="$1" CUDA_HOME="$tmp/cuda" "$project/jobs/setup.sh" "${@:2}" >"$tmp/out" 2>"$tmp/err" </dev/null
}
# fails STATUS TEXT: with that status and one line, which has the text
fails() { [ "$status $(wc -l <"$tmp/err")" = "$1 1" ] && grep -qF -- "$2" "$tmp/err"; }
check() { if "${@:2}"; then ok "$1"; else not_ok "$1: $(cat "$tmp/err")"; fi; }

root
setup "$libraries"
check "nothing missing: nothing is said" [ "$?$(cat "$tmp/out" "$tmp/err")" = 0 ]
setup "CC MPI ZLIB ZSTD LZMA BZ2 GEMM LAPACK" programs
status=$?
check "no apt: 69, with modules" fails 69 "error: missing: HDF5, YAML; there is no apt: load the modules (hdf5 libyaml)"
check "Spack's and conda-forge's names" fails 69 "\`spack install hdf5 libyaml\`, or \`conda install -c conda-forge hdf5 yaml\`"
setup "CC MPI HDF5 YAML ZLIB ZSTD LZMA BZ2 GEMM"
check "without LAPACK the demo goes on, with a note" [ "$? $(grep -c '^note: missing: LAPACK; ' "$tmp/out")" = "0 1" ]
setup "CC MPI HDF5 YAML ZLIB ZSTD BZ2 GEMM LAPACK"
check "without liblzma too" [ "$? $(grep -c '^note: missing: LZMA; .*(xz)' "$tmp/out")" = "0 1" ]
LZMA=no setup "CC MPI HDF5 YAML ZLIB ZSTD BZ2 GEMM LAPACK"
check "which LZMA=no does not ask for" [ "$?$(cat "$tmp/out" "$tmp/err")" = 0 ]

mkdir -p "$tmp/cuda/bin"
cp "$tmp/path/make" "$tmp/cuda/bin/nvcc"
setup "$libraries"
check "with nvcc it wants C++" [ "$? $(grep -c '^note: missing: CXX; ' "$tmp/out")" = "0 1" ]
rm "$tmp/cuda/bin/nvcc"

# shellcheck disable=SC2016
script apt-get 'echo "apt-get $*" >>"$0.log"; echo "E: Failed to fetch http://x/Packages" >&2; exit 100'
user
setup "CC ZLIB ZSTD LZMA BZ2 GEMM LAPACK" programs
status=$?
check "an ordinary user without sudo: 77, with what to ask for" fails 77 \
    "ask for: apt-get install --no-install-recommends libopenmpi-dev openmpi-bin libhdf5-dev libyaml-dev"
setup "$libraries" tests
status=$?
check "make test asks for the tests' packages too" fails 77 "procps"
check "but not for those that only root can use" bash -c "! grep -q slurm '$tmp/err'"
check "apt is not called" [ ! -e "$tmp/path/apt-get.log" ]
root
setup "CC MPI ZLIB ZSTD LZMA BZ2 GEMM LAPACK" programs
status=$?
check "no network: 69, with the reason of apt and what to ask for" fails 69 \
    "apt failed: E: Failed to fetch http://x/Packages (more in build/apt.log); ask for: apt-get install --no-install-recommends libhdf5-dev libyaml-dev"
script apt-get :
setup "CC MPI ZLIB ZSTD LZMA BZ2 GEMM LAPACK" programs
status=$?
check "installed and not found: 69" fails 69 "not found although installed (libhdf5-dev libyaml-dev): HDF5 YAML"
setup "$libraries" --missing tests
check "--missing: a line each" grep -qx 'pgrep is missing (Debian: procps)' "$tmp/out"
setup "$libraries" magic
status=$?
check "another part: 64" fails 64 "want programs, tests or develop"

# ---- tests/run.sh ----
printf '#!/bin/bash\n' >"$project/jobs/setup.sh"
# shellcheck disable=SC2016
printf 'until "$(no-such-tool -P 1)"; do\n sleep 1\ndone 2>/dev/null\n' >"$project/tests/waits_test.sh"
printf 'echo "ok - this"; no-such-tool || true; echo "ok - that"\n' >"$project/tests/shrugs_test.sh"
printf 'echo "ok - this"\n' >"$project/tests/fine_test.sh"
run() { (cd "$project" && env -u BUILD -u BIN timeout 60 tests/run.sh "$@") >"$tmp/out" 2>&1; }
run waits
check "a test that waits for what is not there fails" [ "$? $(tail -n 1 "$tmp/out")" = "1 0 passed, 1 failed" ]
check "by that name" grep -qF 'not ok - no-such-tool: this command is not there' "$tmp/out"
run shrugs
check "so does one that shrugs" [ "$? $(grep -c 'no-such-tool: this command' "$tmp/out")" = "1 1" ]
run fine
check "others do not" [ "$? $(tail -n 1 "$tmp/out")" = "0 1 passed, 0 failed" ]
exit $failed
