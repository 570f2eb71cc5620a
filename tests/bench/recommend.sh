#!/bin/bash
# How fast vaecf-recommend answers at MovieLens-20M's shape, beside PyTorch with the same model in the same run.
#
#   PYTHON=python3 tests/bench/recommend.sh RESULT.csv     make bench-recommend PYTHON=...
#
# Rows: vaecf with each precision, then PyTorch's two programs (tests/reference/recommend_speed.py), if PYTHON has
# torch. times_pytorch: users a second by those of PyTorch's "dense" program, times_pytorch_sparse by the other's.
set -eu
cd "$(dirname "$0")/../.."
result=$1
bin=${BIN:-bin} build=${BUILD:-build} python=${PYTHON:-python3}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

echo "machine: $(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores"
"$build/tests/bench/random_checkpoint" "$tmp/model.h5" 20108 600 200
for precision in fp32 bf16 fp16; do
    "$bin/vaecf-recommend" --checkpoint "$tmp/model.h5" --benchmark --device cpu --precision $precision --output "$tmp/$precision.csv"
    echo
done
: >"$tmp/torch.csv"
if "$python" -c 'import numpy, torch' 2>/dev/null; then
    "$bin/vaecf-export" --checkpoint "$tmp/model.h5" --output "$tmp/model.npz"
    "$python" tests/reference/recommend_speed.py "$tmp/model.npz" 1 4 16 64 256 1024 4096 | tee "$tmp/torch.csv"
else
    echo "without PyTorch: $python has no torch (PYTHON=... names another)"
fi
mkdir -p "$(dirname "$result")"
awk -F, -v OFS=, '
    FILENAME ~ /torch.csv$/ { if ($1 != "variant") { speed[$1, $3] = $6; torch[++n] = $0 } next }
    FNR == 1 { if (!header++) print "program", $0, "times_pytorch", "times_pytorch_sparse"; next }
    {
        dense = speed["dense", $3] ? sprintf("%.2f", $10 / speed["dense", $3]) : ""
        sparse = speed["sparse", $3] ? sprintf("%.2f", $10 / speed["sparse", $3]) : ""
        print "vaecf", $0, dense, sparse
    }
    END {
        for (i = 1; i <= n; i++) {
            split(torch[i], t, ",")
            print "pytorch-" t[1], "fp32", t[2], t[3], t[4], "", t[5], "", "", "", t[6], "", "", "", ""
        }
    }' "$tmp/torch.csv" "$tmp/fp32.csv" "$tmp/bf16.csv" "$tmp/fp16.csv" >"$result"
echo "written: $result"
