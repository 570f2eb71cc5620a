/* Which backend it is to be; see backend.h. */
#include "backend.h"

#include <stdlib.h>
#include <string.h>

#include "comm.h"
#include "environment.h"
#include "error.h"

/* What was asked for, the environment's word included. */
static int wanted(enum device asked, enum device *device) {
    const char *text = environment("VAECF_DEVICE");
    *device = asked;
    if (asked != DEVICE_AUTO || !text || strcmp(text, "auto") == 0) return 0;
    *device = strcmp(text, "cuda") == 0 ? DEVICE_CUDA : DEVICE_CPU;
    if (*device == DEVICE_CUDA || strcmp(text, "cpu") == 0) return 0;
    return error_set(EX_CONFIG, "VAECF_DEVICE=%s: want auto, cpu or cuda", text);
}

static int create_cpu(const struct backend_options *options, struct backend *backend) {
    if (options->trace_steps == 0) return backend_cpu_create_with(options, backend);
    return error_set(EX_CONFIG,
                     "train.trace_steps: steps on a GPU alone are traced; want 0, or device: cuda");
}

#ifdef VAECF_CUDA

/* The same for what sums over the ranks. */
static int wanted_comm(enum comm_kind asked, enum comm_kind *kind) {
    const char *text = environment("VAECF_COMM");
    *kind = asked;
    if (asked != COMM_AUTO || !text || strcmp(text, "auto") == 0) return 0;
    *kind = strcmp(text, "nccl") == 0 ? COMM_NCCL : COMM_MPI;
    if (*kind == COMM_NCCL || strcmp(text, "mpi") == 0) return 0;
    return error_set(EX_CONFIG, "VAECF_COMM=%s: want auto, nccl or mpi", text);
}

int backend_probe(enum device device) {
    int code = wanted(device, &device);
    return code || device != DEVICE_CUDA ? code : backend_cuda_probe();
}

int backend_create(const struct backend_options *options, struct backend *backend) {
    struct backend_options chosen = *options;
    enum device device;
    int code = wanted(options->device, &device);
    if (!code) code = wanted_comm(options->comm_kind, &chosen.comm_kind);
    if (options->comm) code = comm_agree(options->comm, code);
    if (code) return code;
    if (device == DEVICE_AUTO) {
        int64_t missing = backend_cuda_probe() != 0;
        if (options->comm) missing = comm_max(options->comm, missing);
        device = missing ? DEVICE_CPU : DEVICE_CUDA;
    }
    return device == DEVICE_CUDA ? backend_cuda_create(&chosen, backend) : create_cpu(options, backend);
}

#else

int backend_probe(enum device device) {
    int code = wanted(device, &device);
    if (code || device != DEVICE_CUDA) return code;
    return error_set(EX_CONFIG, "device: cuda: this program was built without CUDA; want auto or cpu");
}

int backend_create(const struct backend_options *options, struct backend *backend) {
    int code = backend_probe(options->device);
    if (options->comm) code = comm_agree(options->comm, code);
    return code ? code : create_cpu(options, backend);
}

#endif
