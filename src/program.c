/* See program.h. */
#include "program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include <hdf5.h>
#include <mpi.h>
#include <yaml.h>
#include <zlib.h>
#include <zstd.h>
#ifdef VAECF_LZMA
#include <lzma.h>
#endif
#ifdef VAECF_BZ2
#include <bzlib.h>
#endif
#ifdef VAECF_ONEDNN
#include <dnnl.h>
#endif
#ifdef VAECF_CUDA
#include <cuda_runtime_api.h>
#endif
#ifdef VAECF_CUSPARSE
#include <cusparse.h>
#endif
#ifdef VAECF_NCCL
#include <nccl.h>
#endif

#include "error.h"
#include "output.h"
#include "version.h" /* written by make */

const char program_version_text[] = VAECF_VERSION;

static void do_nothing(int number) {
    (void)number;
}

void program_start(void) {
    /* The wrong way round: who reads or writes there is told that it is closed. */
    for (int i = 0; i < 3; i++) {
        while (fcntl(i, F_GETFD) < 0 && open("/dev/null", i == 0 ? O_WRONLY : O_RDONLY) >= 0) continue;
    }
    /* Not SIG_IGN: programs that MPI starts would inherit that. */
    sigaction(SIGXFSZ, &(const struct sigaction){.sa_handler = do_nothing, .sa_flags = SA_RESTART}, NULL);
    output_catch_signals();
}

void program_version(const char *program) {
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(mpi, &length); /* allowed before MPI_Init */
    mpi[strcspn(mpi, ",\n")] = '\0';
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    printf("%s %s (%s)\n", program, VAECF_VERSION, VAECF_COMMIT);
    printf("%s, HDF5 %u.%u.%u, libyaml %s, zlib %s, zstd %s", mpi, major, minor, release,
           yaml_get_version_string(), zlibVersion(), ZSTD_versionString());
#ifdef VAECF_LZMA
    printf(", liblzma %s", lzma_version_string());
#else
    printf(", liblzma: no");
#endif
#ifdef VAECF_BZ2
    const char *bz2 = BZ2_bzlibVersion(); /* "1.0.8, 13-Jul-2019" */
    printf(", libbz2 %.*s\n", (int)strcspn(bz2, ","), bz2);
#else
    printf(", libbz2: no\n");
#endif
#ifdef VAECF_ONEDNN
    const dnnl_version_t *dnnl = dnnl_version();
    printf("oneDNN %d.%d.%d", dnnl->major, dnnl->minor, dnnl->patch);
#else
    printf("CBLAS");
#endif
#ifdef VAECF_LAPACK
    printf(", LAPACK");
#else
    printf(", LAPACK: no");
#endif
#ifdef _OPENMP
    printf(", OpenMP %d", _OPENMP);
#else
    printf(", OpenMP: no");
#endif
#ifdef VAECF_CUDA
    printf(", CUDA %d.%d (%s)", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, VAECF_CUDA_ARCH);
#else
    printf(", CUDA: no");
#endif
#ifdef VAECF_CUSPARSE
    printf(", cuSPARSE %d.%d.%d", CUSPARSE_VER_MAJOR, CUSPARSE_VER_MINOR, CUSPARSE_VER_PATCH);
#else
    printf(", cuSPARSE: no");
#endif
#ifdef VAECF_NCCL
    printf(", NCCL %d.%d.%d\n", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
#else
    printf(", NCCL: no\n");
#endif
}

int program_fail(const char *program, int code) {
    fprintf(stderr, "%s: error: %s\n", program, error_message());
    return code;
}

int program_bad_option(int c, const char *option) {
    if (c == ':') return error_set(EX_USAGE, "%s wants a value (--help lists the options)", option);
    return error_set(EX_USAGE, "unknown option %s (--help lists them)", option);
}
