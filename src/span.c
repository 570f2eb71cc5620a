/* See span.h. */
#include "span.h"

#include <stddef.h>

#ifdef VAECF_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

const char *span_now;

const char *span_begin(const char *name) {
    const char *around = span_now;
    span_now = name;
#ifdef VAECF_NVTX
    nvtxRangePushA(name);
#endif
    return around;
}

void span_end(const char **around) {
#ifdef VAECF_NVTX
    nvtxRangePop();
#endif
    span_now = *around;
}
