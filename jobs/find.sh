#!/bin/bash
# Looks for the compiler's options and the libraries that vaecf is built from, and writes what it finds as make
# variables to FILE; `make` reads that. Prints one line for each on the terminal when something has changed.
#
#   jobs/find.sh FILE
#
# A library is taken from, in this order: NAME_CFLAGS and NAME_LIBS (HDF5_LIBS="-L/x/lib -lhdf5"), pkg-config,
# NAME_ROOT, NAME_HOME, NAME_DIR or EBROOTNAME as modules set them, CONDA_PREFIX, the compiler's own places.
# NAME is HDF5, YAML, ZLIB, ZSTD, LZMA, BZ2, ONEDNN, CBLAS, MKL, LAPACK, CMOCKA, NCCL. GEMM=onednn or GEMM=cblas asks for one of
# the two; LZMA=no, BZ2=no, CUDA=no, NCCL=no and CUSPARSE=no leave these out. nvcc is looked for in CUDA_HOME, /usr/local/cuda and PATH.
set -u
out=$1

mpicc=${MPICC:-mpicc}
work=$(mktemp -d) || exit 71
trap 'rm -rf "$work"' EXIT

# The same environment as last time, and nothing was lacking: the answer stands.
signature=$(env | grep -E '^(PATH|CPATH|LIBRARY_PATH|PKG_CONFIG_PATH|CONDA_PREFIX|GEMM|MPICC|CFLAGS|LDFLAGS|CUDA|CUDA_HOME|NCCL|CUSPARSE|CXX|EBROOT|(NCCL|HDF5|YAML|ZLIB|ZSTD|LZMA|BZ2|ONEDNN|DNNL|CBLAS|OPENBLAS|MKL|LAPACK|CMOCKA)_?[A-Z]*)=' |
    LC_ALL=C sort | cksum | tr -d ' ')
if [ "$out" -nt "$0" ] && grep -qx "# signature $signature" "$out" && grep -qx 'FOUND_LACKING :=' "$out"; then
    exit 0
fi

{ command -v "$mpicc" >/dev/null && compiler=$mpicc; } || compiler=${CC:-cc}

# try FLAGS HEADER CALL: does a program with this header and function compile and link?
try() {
    printf '#include <%s>\nint main(void) { return (int)(long)&%s; }\n' "$2" "$3" >"$work/try.c"
    # shellcheck disable=SC2086  # the flags are words
    "$compiler" -w -o "$work/try" "$work/try.c" $1 >/dev/null 2>&1
}

# For every -L outside the system's own directories the programs remember it, so that they start without
# LD_LIBRARY_PATH.
with_rpath() {
    local word
    for word in $1; do
        case $word in
        -L/usr/lib* | -L/lib*) printf '%s ' "$word" ;;
        -L*) printf '%s -Wl,-rpath,%s ' "$word" "${word#-L}" ;;
        *) printf '%s ' "$word" ;;
        esac
    done
}

# find NAME HEADER FUNCTION LINK PKG...: sets cflags, libs and version; fails if the library is nowhere.
find() {
    local name=$1 header=$2 function=$3 link=$4 pkg var root
    shift 4
    version=
    var=${name}_CFLAGS cflags=${!var:-} var=${name}_LIBS libs=${!var:-}
    if [ -n "$cflags$libs" ]; then
        libs=${libs:-$link}
        try "$cflags $libs" "$header" "$function"
        return
    fi
    for pkg; do
        if cflags=$(pkg-config --cflags "$pkg" 2>/dev/null) && libs=$(pkg-config --libs "$pkg" 2>/dev/null) &&
            try "$cflags $libs" "$header" "$function"; then
            version=$(pkg-config --modversion "$pkg")
            return 0
        fi
    done
    for var in "${name}_ROOT" "${name}_HOME" "${name}_DIR" "EBROOT$name" CONDA_PREFIX; do
        root=${!var:-}
        if [ -z "$root" ]; then continue; fi
        cflags="-I$root/include" libs="-L$root/lib $link"
        [ -d "$root/lib" ] || libs="-L$root/lib64 $link"
        try "$cflags $libs" "$header" "$function" && return 0
    done
    cflags='' libs=$link
    try "$libs" "$header" "$function"
}

report=()
missing=() # without it nothing is built
lacking=() # without it something is left out
result=()

# whence NAME: the packages that it comes from, by the list
whence() {
    awk -F ' *[|] *' -v name="$1" '
        !/^#/ && $2 ~ "^" name "( |$)" { printf "Debian: %s; module: %s; Spack: %s; conda-forge: %s", $3, $4, $5, $6 }' \
        "$(dirname "$0")/packages.txt"
}
# take NAME TITLE, then find's arguments
take() {
    local name=$1 title=$2
    shift 2
    if find "$name" "$@"; then
        report+=("  ✓ $title ${version:+$version }found ($(sed 's/^ *//; s/ *$//' <<<"$libs"))")
        # their headers are not ours to warn about
        result+=("FOUND_${name}_CFLAGS := ${cflags//-I/-isystem }" "FOUND_${name}_LIBS := $(with_rpath "$libs")")
    else
        report+=("  ✗ $title is missing  ($(whence "$name"))")
        missing+=("$name")
    fi
}

if try "" stdio.h printf; then
    result+=("FOUND_CC := $compiler")
else
    report+=("  ✗ a C compiler is missing  ($(whence CC))")
    missing+=(CC)
fi
if command -v "$mpicc" >/dev/null && try "" mpi.h MPI_Init; then
    version=$(mpirun --version 2>/dev/null | head -n 1)
    report+=("  ✓ MPI found ($mpicc${version:+; $version})")
    # Open MPI says --showme:compile, MPICH and Intel MPI say -show
    flags=$({ "$mpicc" --showme:compile || "$mpicc" -show; } 2>/dev/null | head -n 1 | grep -oE -- '-I[^ ]+' | tr '\n' ' ')
    result+=("FOUND_MPI_CFLAGS := ${flags//-I/-isystem }")
else
    report+=("  ✗ MPI is missing  ($(whence MPI))")
    missing+=(MPI)
fi
take HDF5 HDF5 \
    hdf5.h H5Fopen -lhdf5 hdf5-serial hdf5 hdf5-openmpi hdf5-mpich
take YAML libyaml \
    yaml.h yaml_parser_load -lyaml yaml-0.1
take ZLIB zlib zlib.h gzread -lz zlib
take ZSTD zstd zstd.h ZSTD_decompressStream -lzstd libzstd

# may_take NAME TITLE PURPOSE, then find's arguments: a library that the programs are built without too
may_take() {
    local name=$1 title=$2 purpose=$3
    shift 3
    if [ "${!name:-}" = no ]; then
        report+=("  → $title: left out ($name=no); $purpose is refused")
    elif find "$name" "$@"; then
        report+=("  ✓ $title ${version:+$version }found ($purpose; $(sed 's/^ *//; s/ *$//' <<<"$libs"))")
        result+=("FOUND_${name}_CFLAGS := -DVAECF_$name ${cflags//-I/-isystem }" "FOUND_${name}_LIBS := $(with_rpath "$libs")")
    else
        report+=("  → $title: none; $purpose is refused  ($(whence "$name"))")
        lacking+=("$name")
    fi
}
: "${LZMA_ROOT:=${EBROOTXZ:-}}" "${BZ2_ROOT:=${EBROOTBZIP2:-}}" # EasyBuild's names
may_take LZMA liblzma "ratings.csv.xz" lzma.h lzma_auto_decoder -llzma liblzma
may_take BZ2 libbz2 "ratings.csv.bz2" bzlib.h BZ2_bzDecompress -lbz2 bzip2

# Matrix products: oneDNN, else a CBLAS.
gemm=
case ${GEMM:-auto} in
auto | onednn | cblas) ;;
*) echo "GEMM=$GEMM is not known: it is onednn or cblas" >&2 && exit 64 ;;
esac
: "${ONEDNN_ROOT:=${DNNLROOT:-}}"
if [ "${GEMM:-auto}" != cblas ] && find ONEDNN dnnl.h dnnl_sgemm -ldnnl dnnl; then
    gemm=onednn
    report+=("  ✓ oneDNN ${version:+$version }found (matrix products)")
    result+=("FOUND_GEMM := onednn" "FOUND_GEMM_CFLAGS := -DVAECF_ONEDNN ${cflags//-I/-isystem }" "FOUND_GEMM_LIBS := $(with_rpath "$libs")")
elif [ "${GEMM:-auto}" != onednn ]; then
    if find CBLAS cblas.h cblas_sgemm -lopenblas openblas cblas blis flexiblas; then
        gemm=cblas
    elif find MKL mkl_cblas.h cblas_sgemm -lmkl_rt mkl-sdl mkl-dynamic-lp64-gomp; then
        gemm=cblas cflags+=' -DVAECF_MKL'
    fi
    if [ -n "$gemm" ]; then
        report+=("  ✓ CBLAS ${version:+$version }found (matrix products; $(sed 's/^ *//; s/ *$//' <<<"$libs"))")
        result+=("FOUND_GEMM := cblas" "FOUND_GEMM_CFLAGS := ${cflags//-I/-isystem }" "FOUND_GEMM_LIBS := $(with_rpath "$libs")")
    fi
fi
if [ -z "$gemm" ]; then
    report+=("  ✗ oneDNN or a CBLAS is missing  ($(whence GEMM))")
    missing+=(GEMM)
fi

# For model.type ease: Fortran's LAPACK, which OpenBLAS and MKL bring along. Without it the programs are built all
# the same. The plain liblapack does too, but takes tens of times as long.
lapack='stddef.h>
void spotri_(const char *, const int *, float *, const int *, int *, size_t);
#include <stddef.h'
: "${MKL_ROOT:=${MKLROOT:-}}"
if find LAPACK "$lapack" spotri_ -lopenblas openblas || find LAPACK "$lapack" spotri_ -lflexiblas flexiblas ||
    find MKL "$lapack" spotri_ -lmkl_rt mkl-sdl mkl-dynamic-lp64-gomp || find LAPACK "$lapack" spotri_ -llapack lapack; then
    report+=("  ✓ LAPACK ${version:+$version }found (model.type ease; $(sed 's/^ *//; s/ *$//' <<<"$libs"))")
    result+=("FOUND_LAPACK_CFLAGS := -DVAECF_LAPACK" "FOUND_LAPACK_LIBS := $(with_rpath "$libs")")
else
    report+=("  → LAPACK: none; model.type ease is refused  ($(whence LAPACK))")
    lacking+=(LAPACK)
fi

printf '#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' >"$work/omp.c"
if "$compiler" -fopenmp -o "$work/omp" "$work/omp.c" 2>/dev/null; then
    report+=("  ✓ OpenMP found (-fopenmp)")
    result+=("FOUND_OPENMP := -fopenmp")
else
    report+=("  → OpenMP: the compiler has none; one thread a rank")
    result+=("FOUND_OPENMP := -Wno-unknown-pragmas")
fi

# CUDA, unless CUDA=no: nvcc with a toolkit around it that has cuBLASLt. CUDA_ARCH is make's to override.
nvcc=
[ "${CUDA:-}" = no ] || nvcc=$(command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || command -v nvcc || true)
cuda_works() {
    local home place
    home=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
    cuda_cflags="-I$home/include"
    for place in lib64 lib targets/x86_64-linux/lib targets/sbsa-linux/lib; do
        cuda_libs="-L$home/$place -lcublasLt -lcudart_static -ldl -lrt -lpthread -lstdc++"
        if [ -e "$home/$place/libcudart_static.a" ] && try "$cuda_cflags $cuda_libs" cublasLt.h cublasLtMatmul; then
            printf '__global__ void k(int *p) { *p = 1; }\nint main() { k<<<1, 1>>>(0); }\n' >"$work/try.cu"
            "$nvcc" -c -o "$work/try.o" "$work/try.cu" >/dev/null 2>&1
            return
        fi
    done
    return 1
}
if [ -z "$nvcc" ]; then
    report+=("  → CUDA: $([ "${CUDA:-}" = no ] && echo 'left out (CUDA=no)' || echo 'no nvcc (CUDA_HOME, PATH): CPU only')")
elif ! cuda_works; then
    report+=("  → CUDA: $nvcc is there, but cuBLASLt, libcudart_static.a or a compiler it works with is not: CPU only")
    nvcc=
else
    version=$("$nvcc" --version | sed -nE 's/.*release ([0-9.]+).*/\1/p')
    archs=
    for arch in 70 75 80 90 100; do "$nvcc" --list-gpu-arch | grep -qx "compute_$arch" && archs+=" sm_$arch"; done
    report+=("  ✓ CUDA $version found ($nvcc; for$archs)")
    result+=("FOUND_NVCC := $nvcc" "FOUND_CUDA_ARCH :=$archs")
    # cuSPARSE, from the same toolkit: the sparse layer by it instead of the kernels here
    if [ "${CUSPARSE:-}" = no ]; then
        report+=("  → cuSPARSE: left out (CUSPARSE=no)")
    elif try "$cuda_cflags ${cuda_libs%% *} -lcusparse" cusparse.h cusparseSpMM; then
        version=$(printf '#include <cusparse.h>\nCUSPARSE_VER_MAJOR.CUSPARSE_VER_MINOR.CUSPARSE_VER_PATCH\n' |
            "$compiler" -E -P "$cuda_cflags" - 2>/dev/null | tail -n 1 | tr -d ' ')
        report+=("  ✓ cuSPARSE $version found (VAECF_SPARSE)")
        cuda_cflags+=' -DVAECF_CUSPARSE' cuda_libs="${cuda_libs%% *} -lcusparse ${cuda_libs#* }"
    else
        report+=("  → cuSPARSE: not in the toolkit; VAECF_SPARSE=cusparse is refused")
    fi
    nvtx=
    try "$cuda_cflags -ldl" nvtx3/nvToolsExt.h nvtxRangePushA && nvtx=' -DVAECF_NVTX' # ranges for Nsight Systems
    result+=("FOUND_CUDA_CFLAGS := -DVAECF_CUDA$nvtx ${cuda_cflags/-I/-isystem }")
    # as needed: vaecf-preprocess does without
    result+=("FOUND_CUDA_LIBS := -Wl,--as-needed $(with_rpath "$cuda_libs")-Wl,--no-as-needed")
fi
# NCCL, from the usual places or from CUDA's own; its header wants CUDA's.
find_nccl() {
    find NCCL nccl.h ncclCommInitRankConfig "-lnccl $cuda_cflags" nccl && return
    cflags=$cuda_cflags libs="${cuda_libs%% *} -lnccl"
    try "$cflags $libs" nccl.h ncclCommInitRankConfig
}
if [ -z "$nvcc" ] || [ "${NCCL:-}" = no ]; then
    report+=("  → NCCL: left out$([ -z "$nvcc" ] || echo ' (NCCL=no)')")
elif find_nccl; then
    # shellcheck disable=SC2086  # the flags are words
    version=$(printf '#include <nccl.h>\nNCCL_MAJOR.NCCL_MINOR.NCCL_PATCH\n' |
        "$compiler" -E -P $cuda_cflags $cflags - 2>/dev/null | tail -n 1 | tr -d ' ')
    report+=("  ✓ NCCL $version found (sums over GPUs)")
    result+=("FOUND_NCCL_CFLAGS := -DVAECF_NCCL ${cflags//-I/-isystem }")
    result+=("FOUND_NCCL_LIBS := -Wl,--as-needed $(with_rpath "${libs%%-I*}") -Wl,--no-as-needed")
else
    report+=("  → NCCL: not there (NCCL_HOME): gradients go over MPI, through the host's memory")
fi

# The tests run the CUDA code on the host, which takes a C++ compiler.
cxx=$(command -v "${CXX:-c++}" || command -v g++ || true)
printf '#include <functional>\nint main() { return std::function<int()>([] { return 0; })(); }\n' >"$work/try.cc"
if [ -n "$cxx" ] && "$cxx" -std=c++17 -o "$work/try" "$work/try.cc" 2>/dev/null; then
    report+=("  ✓ C++ compiler found ($cxx; for tests of the CUDA code without a GPU)")
    result+=("FOUND_CXX := $cxx")
else
    report+=("  → C++ compiler: none; no tests of the CUDA code without a GPU")
    lacking+=(CXX)
fi
needed=${#missing[@]} # cmocka is for the tests alone: without it the programs are still built
take CMOCKA "cmocka (for the tests)" \
    'stdio.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h' _cmocka_run_group_tests -lcmocka cmocka
lacking+=("${missing[@]}")
missing=("${missing[@]:0:needed}")

{
    echo "# Written by jobs/find.sh; \`make\` makes it anew when the environment changes."
    echo "# signature $signature"
    printf '%s\n' "${result[@]}"
    echo "FOUND_MISSING :=${missing[*]+ ${missing[*]}}"
    echo "FOUND_LACKING :=${lacking[*]+ ${lacking[*]}}"
} >"$work/found.mk"
if ! cmp -s "$work/found.mk" "$out"; then
    printf '%s\n' "${report[@]}" | tee "$(dirname "$out")/found.txt" >&2
    cp "$work/found.mk" "$out"
else
    touch "$out"
fi
[ ${#missing[@]} -eq 0 ]
