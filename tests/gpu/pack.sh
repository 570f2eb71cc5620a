#!/bin/bash
# Packs what a machine with a GPU, CUDA's libraries and nothing else of ours needs for tests/gpu/run.sh into one file:
# programs, tests, their libraries, Open MPI with its plugins.
#
#   BIN=build/gpu/bin BUILD=build/gpu tests/gpu/pack.sh [FILE]     `make gpu-pack`; FILE: build/gpu/pack.tar.gz
#
# There:  tar -xzf pack.tar.gz && OUT=results vaecf-gpu/run.sh      STAGES=..., as tests/gpu/run.sh says
#
#   DATA=ratings.csv   becomes a part of the pack: for losses and ndcg
#   EMULATION=yes      the programs of BUILD/cuda_host in place of those for a GPU, with tests/gpu/stand_ins: for rehearsals
#   FOLDER=folder      leaves the pack there, not in a file
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=${BIN:-build/gpu/bin} build=${BUILD:-build/gpu} file=${1:-build/gpu/pack.tar.gz}
if ! mpirun --version 2>/dev/null | grep -q '(Open MPI) 4'; then
    echo "error: the pack takes Open MPI 4 along, which is not the MPI here; on a machine with MPI make gpu does without a pack" >&2 && exit 69
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
to=${FOLDER:-$work/vaecf-gpu}
rm -rf "$to"
mkdir -p "$to"/{bin,lib,fallback,mpi,jobs,preprocess,data,build/tests/bench,tests/reference}

cp "$bin"/vaecf-* "$to/bin/"
if [ -n "${EMULATION:-}" ]; then
    cp "$build"/cuda_host/bin/vaecf-* "$to/bin/"
    cp "$build/cuda_host/cuda_backend_test" "$to/build/tests/"
    cp "$build/cuda_host/bench_gpu" "$to/build/tests/bench/gpu"
    cp -r tests/gpu/stand_ins "$to/stand_ins"
else
    cp "$build/tests/cuda_backend_test" "$to/build/tests/"
    cp "$build/tests/bench/gpu" "$to/build/tests/bench/gpu"
fi
cp -r tests/gpu tests/*.sh tests/*.awk "$to/tests/"
cp tests/reference/*.py "$to/tests/reference/"
cp -r jobs/configs jobs/slurm jobs/common.sh jobs/rank.sh "$to/jobs/"
cp preprocess/debian-build-depends.csv.gz "$to/preprocess/"
# Of the suite, what computes on a GPU and calls nothing that a bare machine lacks.
echo "run_directory recommend fp16 blend collect sweep" >"$to/tests/gpu/suite.txt"
rm -rf "$to/data"
if [ -n "${DATA:-}" ]; then
    "$bin/vaecf-preprocess" --input "$DATA" --min-rating 4 --heldout-users 600 --output "$to/data/people" >/dev/null
fi

# ---- Open MPI: its launcher, its daemon and its plugins, which nothing links to ----
launcher=
if command -v ompi_info >/dev/null; then
    place() { ompi_info --parsable --path "$1" | sed -n "s/^path:$1://p" | head -n 1; }
    mkdir -p "$to"/mpi/{bin,lib,plugins,share,etc}
    for program in orterun orted prterun prted; do
        if [ -x "$(place bindir)/$program" ]; then cp -L "$(place bindir)/$program" "$to/mpi/bin/"; fi
    done
    launcher=$(basename "$(readlink -f "$(command -v mpirun)")")
    ln -s "$launcher" "$to/mpi/bin/mpirun"
    # but for those of fabrics, which want libraries of their own
    for plugin in "$(place pkglibdir)"/mca_*.so; do
        if [[ ! $plugin =~ (ofi|ucx|openib|psm|usnic|portals|monitoring|memheap|sshmem|scoll|spml|atomic)[^/]*$ ]]; then
            cp -L "$plugin" "$to/mpi/plugins/"
        fi
    done
    cp -rL "$(place pkgdatadir)/." "$to/mpi/share/"
    for plugin in /usr/lib/*/pmix2/lib/pmix /usr/lib/pmix "$(place libdir)/pmix"; do
        if [ -d "$plugin" ]; then cp -rL "$plugin" "$to/mpi/pmix" && break; fi
    done
fi

# ---- libraries, but for those of the C library, the driver and CUDA ----
needed() { find "$to" -type f \( -name '*.so*' -o -path '*/bin/*' -o -path '*/build/*' \) -exec ldd {} + 2>/dev/null | awk '/=> \//{ print $3 }' | sort -u; }
while IFS= read -r library; do
    case ${library##*/} in
    ld-linux* | libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.* | libresolv.so.* | libutil.so.* | libcuda.so.*) ;;
    libcublas* | libnccl* | libcudart* | libcusparse* | libnv*) ;;
    libstdc++.so.* | libgcc_s.so.*) cp -L "$library" "$to/fallback/" ;; # only where the machine's are older
    *) cp -L "$library" "$to/lib/" ;;
    esac
done < <(needed)
find "$to" -type f \( -name '*.so*' -o -path '*/bin/*' -o -path '*/build/*' \) -exec strip --strip-unneeded {} + 2>/dev/null || true

cat >"$to/env.sh" <<'ENV'
# Source this: sets this folder up as the place where programs, Open MPI and libraries are.
VAECF_PACK=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export VAECF_PACK VAECF_OUTER_LIBRARIES=${LD_LIBRARY_PATH:-}
export PATH=$VAECF_PACK/mpi/bin:$PATH:/usr/local/cuda/bin:/usr/local/nvidia/bin
if [ -d "$VAECF_PACK/stand_ins" ]; then PATH=$VAECF_PACK/stand_ins:$PATH; fi
export LD_LIBRARY_PATH=$VAECF_PACK/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export OPAL_PREFIX=$VAECF_PACK/mpi OPAL_BINDIR=$VAECF_PACK/mpi/bin OPAL_LIBDIR=$VAECF_PACK/lib OPAL_SYSCONFDIR=$VAECF_PACK/mpi/etc
export OPAL_PKGLIBDIR=$VAECF_PACK/mpi/plugins OPAL_PKGDATADIR=$VAECF_PACK/mpi/share OPAL_DATADIR=$VAECF_PACK/mpi/share
export PMIX_INSTALL_PREFIX=$VAECF_PACK/mpi PMIX_PKGLIBDIR=$VAECF_PACK/mpi/pmix PMIX_SYSCONFDIR=$VAECF_PACK/mpi/etc
export OMPI_MCA_btl=self,vader,tcp OMPI_MCA_pml=ob1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_plm_rsh_agent=
export OMPI_MCA_ess_singleton_isolated=1 # a single rank without a daemon
export OMPI_MCA_hwloc_base_binding_policy=none
vaecf_lacks() { ldd "$VAECF_PACK/bin/vaecf-train" 2>&1 | grep -q "$1"; }
if vaecf_lacks 'GLIBCXX\|libstdc++.*not found\|libgcc_s.*not found'; then LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$VAECF_PACK/fallback; fi
# CUDA's libraries: the toolkit's folders, then those of python's packages
if vaecf_lacks 'not found'; then
    for vaecf_place in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib /usr/local/cuda-*/lib64 \
        $("${PYTHON:-python3}" -c 'import glob, sys; print(*[d for p in sys.path for d in sorted(glob.glob(p + "/nvidia/*/lib"))])' 2>/dev/null); do
        if [ -d "$vaecf_place" ] && vaecf_lacks 'not found'; then LD_LIBRARY_PATH=$LD_LIBRARY_PATH:$vaecf_place; fi
    done
    unset vaecf_place
fi
ENV
cat >"$to/run.sh" <<'RUN'
#!/bin/bash
# tests/gpu/run.sh with what this pack brings along; OUT=folder (./out) is taken from where you are.
folder=$(mkdir -p "${OUT:-out}" && cd "${OUT:-out}" && pwd) || exit 73
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export OUT=$folder BIN=bin BUILD=build
exec bash "$VAECF_PACK/tests/gpu/run.sh" "$@"
RUN
chmod +x "$to/run.sh"
if [ -n "${FOLDER:-}" ]; then echo "packed: $to, $(du -sh "$to" | cut -f1)" && exit; fi
mkdir -p "$(dirname "$file")"
tar -C "$work" -cf - vaecf-gpu | gzip -9 >"$file.new"
mv "$file.new" "$file"
size=$(stat -c %s "$file")
echo "packed: $file, $((size / 1048576)) MB; there: tar -xzf ${file##*/} && OUT=out vaecf-gpu/run.sh"
if [ "$size" -gt 60000000 ]; then echo "error: it has more than 60 MB" >&2 && exit 1; fi
