// SPDX-License-Identifier: Apache-2.0
// heatmap on the GPU: an outer product of tables in shared memory.
//
// Forward: a block owns a band of rows of one map, up to 16,384 nodes and 1,024 columns. It fills a
// table of factors of its columns and one of its rows (z and y joined), then every thread
// multiplies and stores 16 bytes at a time, neighbors side by side; the columns of a thread differ
// from store to store, so both factors come from shared memory. Traffic: each node written once.
//
// Backward: a block owns a band of rows over all columns. Per node three products with what the
// tables hold, in registers; then a reduction over the block in a fixed order, and over the bands
// of a map in a second kernel, in their order: no atomics, the same bits every run. Where a row or
// all columns of a 16-byte load count for nothing, nothing is read.
#include <algorithm>

#include "../math/gaussian.h"
#include "../ops/heatmap.h"
#include "channels.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 1024, kRows = 1024, kNodes = 16384; // of a block, at most

struct Bands {
  int rows;               // of a block
  int64_t count, columns; // bands of a map; blocks side by side in a band

  template <class T>
  explicit Bands(const HeatmapGrid<T>& grid) {
    const int64_t width = std::min<int64_t>(grid.W, kColumns), all = grid.D * grid.H;
    rows = int(std::min<int64_t>(std::min<int64_t>(all, kRows), kNodes / width));
    count = blocks_for(all, rows);
    columns = blocks_for(grid.W, kColumns);
  }
};

template <class T>
__device__ __forceinline__ bool axes_of(const HeatmapGrid<T>& grid, int64_t m,
                                        HeatmapAxis<T> axes[3]) {
  const T* point = grid.points + m * grid.axes;
  axes[0] = {point[0], grid.stride[0]};
  axes[1] = {point[1], grid.stride[1]};
  axes[2] = {T(0), T(1)}; // one node on the point: 1 as a factor, 0 as a distance
  if (grid.axes == 3)
    axes[2] = {point[2], grid.stride[2]};
  return is_finite(axes[0].point) && is_finite(axes[1].point) && is_finite(axes[2].point);
}

template <class T, bool VECTOR>
__global__ void __launch_bounds__(kThreads) heatmap_kernel(Heatmap<T> a, Bands bands) {
  constexpr int kPack = VECTOR ? kVector<T> : 1;
  const HeatmapGrid<T>& grid = a.grid;
  T* columns = reinterpret_cast<T*>(dynamic_shared()); // [kColumns]
  T* rows = columns + kColumns;                        // [bands.rows]
  const int64_t m = int64_t(blockIdx.x) / bands.columns / bands.count;
  const int64_t band = int64_t(blockIdx.x) / bands.columns % bands.count;
  const int64_t x0 = int64_t(blockIdx.x) % bands.columns * kColumns, row0 = band * bands.rows;
  const int width = int(grid.W - x0 < kColumns ? grid.W - x0 : kColumns);
  const int64_t left = grid.D * grid.H - row0;
  const int height = int(left < bands.rows ? left : bands.rows);

  HeatmapAxis<T> axes[3];
  const bool finite = axes_of(grid, m, axes);
  for (int x = int(threadIdx.x); x < width; x += kThreads)
    columns[x] = axes[0].value(a.kind, x0 + x, grid.inverse_sigma);
  for (int r = int(threadIdx.x); r < height; r += kThreads) {
    const int64_t row = row0 + r;
    rows[r] = join(a.kind, axes[1].value(a.kind, row % grid.H, grid.inverse_sigma),
                   axes[2].value(a.kind, row / grid.H, grid.inverse_sigma));
  }
  __syncthreads();

  const int packs = width / kPack; // of a row
  const int down = kThreads / packs, right = kThreads % packs;
  int r = int(threadIdx.x) / packs, x = int(threadIdx.x) % packs;
  T* out = a.map + (m * grid.D * grid.H + row0) * grid.W + x0;
  while (r < height) {
    const auto column = *reinterpret_cast<const Pack<T, kPack>*>(columns + x * kPack);
    const T row = rows[r];
    Pack<T, kPack> pack;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const T joined = join(a.kind, row, column.value[j]);
      const T disc = joined <= grid.squared_sigma ? T(1) : T(0);
      pack.value[j] = !finite ? T(0) : a.kind == kDisc ? disc : joined;
    }
    *reinterpret_cast<Pack<T, kPack>*>(out + r * grid.W + x * kPack) = pack;
    r += down, x += right;
    if (x >= packs)
      x -= packs, ++r;
  }
}

template <class T, bool VECTOR>
__global__ void __launch_bounds__(kThreads)
    heatmap_backward_kernel(HeatmapBackward<T> a, Bands bands,
                            T* partial /* [maps, bands, axes] */) {
  constexpr int kPack = VECTOR ? kVector<T> : 1;
  const HeatmapGrid<T>& grid = a.grid;
  T* columns = reinterpret_cast<T*>(dynamic_shared()); // [kColumns]
  T* slopes = columns + kColumns;                      // [kColumns]
  T* rows = slopes + kColumns;                         // [3, bands.rows]: factor, slope y, slope z
  const int64_t m = int64_t(blockIdx.x) / bands.count, row0 = blockIdx.x % bands.count * bands.rows;
  const int64_t left = grid.D * grid.H - row0;
  const int height = int(left < bands.rows ? left : bands.rows);
  const T inverse = grid.inverse_sigma;

  HeatmapAxis<T> axes[3];
  const bool finite = axes_of(grid, m, axes); // the same for the whole block
  T sums[3] = {0, 0, 0};
  for (int r = int(threadIdx.x); finite && r < height; r += kThreads) {
    const int64_t y = (row0 + r) % grid.H, z = (row0 + r) / grid.H;
    const T ey = axes[1].gaussian(y, inverse), ez = axes[2].gaussian(z, inverse);
    const T factor = ey * ez;
    rows[r] = factor < kNegligible<T> ? T(0) : factor;
    rows[bands.rows + r] = axes[1].slope(ey, y, inverse) * ez;
    rows[2 * bands.rows + r] = ey * axes[2].slope(ez, z, inverse);
  }
  for (int64_t x0 = 0; finite && x0 < grid.W; x0 += kColumns) {
    const int width = int(grid.W - x0 < kColumns ? grid.W - x0 : kColumns);
    for (int x = int(threadIdx.x); x < width; x += kThreads) {
      const T e = axes[0].gaussian(x0 + x, inverse);
      columns[x] = e < kNegligible<T> ? T(0) : e;
      slopes[x] = axes[0].slope(e, x0 + x, inverse);
    }
    __syncthreads();
    const int packs = width / kPack;
    const int down = kThreads / packs, right = kThreads % packs;
    int r = int(threadIdx.x) / packs, x = int(threadIdx.x) % packs;
    const T* grad = a.grad + (m * grid.D * grid.H + row0) * grid.W + x0;
    while (r < height) {
      const auto e = *reinterpret_cast<const Pack<T, kPack>*>(columns + x * kPack);
      bool any = false;
#pragma unroll
      for (int j = 0; j < kPack; ++j)
        any = any || e.value[j] > T(0);
      if (any && rows[r] > T(0)) {
        const auto g = *reinterpret_cast<const Pack<T, kPack>*>(grad + r * grid.W + x * kPack);
        const auto s = *reinterpret_cast<const Pack<T, kPack>*>(slopes + x * kPack);
        T sum = 0, sloped = 0;
#pragma unroll
        for (int j = 0; j < kPack; ++j)
          if (e.value[j] > T(0)) {
            sum += g.value[j] * e.value[j];
            sloped += g.value[j] * s.value[j];
          }
        sums[0] += rows[r] * sloped;
        sums[1] += rows[bands.rows + r] * sum;
        sums[2] += rows[2 * bands.rows + r] * sum;
      }
      r += down, x += right;
      if (x >= packs)
        x -= packs, ++r;
    }
    __syncthreads(); // before the next columns take the place of these
  }

  T* warps = rows; // [3, warps of the block]; nobody reads the rows any more
#pragma unroll
  for (int axis = 0; axis < 3; ++axis)
    sums[axis] = group_sum(sums[axis], kWarp);
  if (lane_index() == 0)
    for (int axis = 0; axis < 3; ++axis)
      warps[axis * (kThreads / kWarp) + warp_index()] = sums[axis];
  __syncthreads();
  if (int(threadIdx.x) < grid.axes) {
    T total = 0;
    for (int warp = 0; warp < kThreads / kWarp; ++warp)
      total += warps[int(threadIdx.x) * (kThreads / kWarp) + warp];
    partial[int64_t(blockIdx.x) * grid.axes + threadIdx.x] = total;
  }
}

// Thread = one coordinate: the sum over its bands, in their order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    heatmap_bands_kernel(const T* partial /* [maps, bands, axes] */, int64_t coordinates,
                         int64_t bands, int axes, T* grad_points /* [maps, axes] */) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= coordinates)
    return;
  T total = 0;
  for (int64_t band = 0; band < bands; ++band)
    total += partial[(i / axes * bands + band) * axes + i % axes];
  grad_points[i] = total;
}

} // namespace

template <class T>
void heatmap(const Heatmap<T>& a, void* stream) {
  const Bands bands(a.grid);
  const bool vector = a.grid.W % kVector<T> == 0 && aligned(a.map);
  const int64_t shared = (kColumns + bands.rows) * int64_t(sizeof(T));
  launch("heatmap", vector ? heatmap_kernel<T, true> : heatmap_kernel<T, false>,
         a.grid.maps * bands.count * bands.columns, kThreads, shared, stream, a, bands);
}

template <class T>
int64_t heatmap_backward_workspace(const HeatmapBackward<T>& a) {
  const Bands bands(a.grid);
  return bands.count == 1 ? 0 : a.grid.maps * bands.count * a.grid.axes * int64_t(sizeof(T));
}

template <class T>
void heatmap_backward(const HeatmapBackward<T>& a, void* workspace, void* stream) {
  const Bands bands(a.grid);
  T* partial = bands.count == 1 ? a.grad_points : static_cast<T*>(workspace);
  const bool vector = a.grid.W % kVector<T> == 0 && aligned(a.grad);
  const int64_t row_words = std::max(3 * bands.rows, 3 * kThreads / kWarp);
  const int64_t shared = (2 * kColumns + row_words) * int64_t(sizeof(T));
  launch("heatmap_backward",
         vector ? heatmap_backward_kernel<T, true> : heatmap_backward_kernel<T, false>,
         a.grid.maps * bands.count, kThreads, shared, stream, a, bands, partial);
  if (bands.count > 1) {
    const int64_t coordinates = a.grid.maps * a.grid.axes;
    launch("heatmap_bands", heatmap_bands_kernel<T>, blocks_for(coordinates, kThreads), kThreads, 0,
           stream, partial, coordinates, bands.count, a.grid.axes, a.grad_points);
  }
}

#define INSTANTIATE(T)                                                                             \
  template void heatmap(const Heatmap<T>&, void*);                                                 \
  template int64_t heatmap_backward_workspace(const HeatmapBackward<T>&);                          \
  template void heatmap_backward(const HeatmapBackward<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

} // namespace pose_kernels::cuda
