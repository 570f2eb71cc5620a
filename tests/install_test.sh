#!/bin/bash
# `make install` into a folder, with the programs started from elsewhere; a missing library told by name.
# shellcheck source=tests/common.sh
. tests/common.sh
# plain build alone: that is what is installed
unset MAKEFLAGS MAKELEVEL MFLAGS

make -s install DESTDIR="$tmp" PREFIX=/opt/vaecf >"$tmp/log" 2>&1
check "make install" [ $? = 0 ]
for program in preprocess synthesize train evaluate recommend sweep collect export; do
    (cd / && "$tmp/opt/vaecf/bin/vaecf-$program" --version) >"$tmp/version" 2>&1
    check "vaecf-$program --version" grep -q "^vaecf-$program 0\.1\.0" "$tmp/version"
done
check "the configurations" [ -s "$tmp/opt/vaecf/share/vaecf/jobs/configs/ml-20m.yaml" ]
env SLURM_JOB_ID=1 SLURM_NNODES=1 SLURM_JOB_NODELIST=here VAECF_HOME="$tmp/opt/vaecf/share/vaecf" \
    "$tmp/opt/vaecf/share/vaecf/jobs/slurm/preprocess.sh" --version >"$tmp/log" 2>&1
check "the job scripts find the programs" grep -q '^vaecf-preprocess 0' "$tmp/log"

# Without libyaml: one line that says which package, before anything is compiled.
make BUILD="$tmp/build" BIN="$tmp/bin" YAML_LIBS=-lno-such-library all >"$tmp/log" 2>&1
check "a missing library stops make" [ $? != 0 ]
check "and is told with its package" grep -q '✗ libyaml is missing .*libyaml-dev.*Spack' "$tmp/log"
check "before the compiler" bash -c "! grep -q ' CC ' '$tmp/log'"

make BUILD="$tmp/build" GEMM=magic found >"$tmp/log" 2>&1
check "an unknown GEMM is told" grep -q 'onednn or cblas' "$tmp/log"
exit "$failed"
