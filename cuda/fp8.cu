/* Operands of 8 bits, and what they are scaled by; see kernels.h. */
#include "fp8.cuh"

namespace {

constexpr int TILE_ROWS = 8; /* of threads, that take a tile of WARP x WARP numbers */

/* A block's largest size of its part of the numbers; NaN is left out. */
template <int N> __global__ void largest(int64_t n, const __nv_bfloat16 *numbers, float *parts) {
    float most = 0;
    for (int64_t i = flat_first() * N; i < n; i += flat_step() * N) {
        auto x = *reinterpret_cast<const pack<__nv_bfloat16, N> *>(numbers + i);
#pragma unroll
        for (int j = 0; j < N; j++) most = fmaxf(most, fabsf(load(x.of + j)));
    }
    most = block_reduce(most, larger());
    if (threadIdx.x == 0) parts[blockIdx.x] = most;
}

/* One block. */
__global__ void scale_is(int n, const float *parts, float *scale) {
    float most = 0;
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) most = fmaxf(most, parts[i]);
    most = block_reduce(most, larger());
    if (threadIdx.x == 0) *scale = most > 0 ? most / FP8_MAX : 1;
}

/* A block has a tile. */
__global__ void to_fp8(int64_t rows, int64_t cols, int64_t stride, const __nv_bfloat16 *numbers,
                       const float *scale, fp8 *to, fp8 *transposed) {
    __shared__ fp8 tile[WARP][WARP + 4];
    int64_t first_row = (int64_t)blockIdx.x * WARP, first_col = (int64_t)blockIdx.y * WARP;
    float factor = 1 / *scale;
    for (int i = (int)threadIdx.y; i < WARP; i += TILE_ROWS) {
        int64_t r = first_row + i, c = first_col + threadIdx.x;
        bool is_number = r < rows && c < cols;
        fp8 x;
        store(&x, is_number ? load(numbers + r * cols + c) * factor : 0);
        if (r < rows && c < stride) to[r * stride + c] = x;
        tile[i][threadIdx.x] = x;
    }
    if (!transposed) return;
    __syncthreads();
    for (int i = (int)threadIdx.y; i < WARP; i += TILE_ROWS) {
        int64_t r = first_row + threadIdx.x, c = first_col + i;
        if (r < rows && c < stride) transposed[c * rows + r] = tile[threadIdx.x][i];
    }
}

__global__ void scale_rows(int64_t size, int64_t cols, int64_t stride, const float *factor, const float *x,
                           float *y) {
    for (int64_t i = flat_first(); i < size; i += flat_step()) {
        int64_t r = i / cols;
        y[i] = factor[r] * x[r * stride + i % cols];
    }
}

} // namespace

void kernel_fp8_scale(cudaStream_t stream, int64_t n, const void *numbers, float *parts, float *scale) {
    auto *from = static_cast<const __nv_bfloat16 *>(numbers);
    if (n % 8 == 0 && is_aligned(numbers)) {
        LAUNCH((largest<8>), KERNEL_FP8_PARTS, FLAT_THREADS, stream, n, from, parts);
    } else {
        LAUNCH((largest<1>), KERNEL_FP8_PARTS, FLAT_THREADS, stream, n, from, parts);
    }
    LAUNCH(scale_is, 1, FLAT_THREADS, stream, (int)KERNEL_FP8_PARTS, parts, scale);
}

void kernel_to_fp8(cudaStream_t stream, int64_t rows, int64_t cols, int64_t stride, const void *numbers,
                   const float *scale, void *to, void *transposed) {
    if (rows == 0) return;
    dim3 grid((unsigned)((rows + WARP - 1) / WARP), (unsigned)((stride + WARP - 1) / WARP));
    LAUNCH(to_fp8, grid, dim3(WARP, TILE_ROWS), stream, rows, cols, stride,
           static_cast<const __nv_bfloat16 *>(numbers), scale, static_cast<fp8 *>(to),
           static_cast<fp8 *>(transposed));
}

void kernel_scale_rows(cudaStream_t stream, int64_t rows, int64_t cols, int64_t stride, const float *factor,
                       const float *x, float *y) {
    if (rows * cols == 0) return;
    LAUNCH(scale_rows, flat_blocks(rows * cols), FLAT_THREADS, stream, rows * cols, cols, stride, factor, x,
           y);
}
