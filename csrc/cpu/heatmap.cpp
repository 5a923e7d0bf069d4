// SPDX-License-Identifier: Apache-2.0
// heatmap on the CPU.
//
// A map is an outer product: a table of factors per axis and map, and one multiplication per node.
// Forward, blocks of rows are independent and the time is that of writing them; large outputs
// bypass the cache. Backward, a row needs two sums over x, of the incoming gradient times the
// table and times its derivative; y and z follow from the first. Rows and columns too far from the
// point to count are not read. Sums have a fixed order: bands of rows whose number depends on the
// sizes alone, then the bands.

#include "../ops/heatmap.h"

#include <algorithm>
#include <vector>

#include "../math/gaussian.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

// Nodes that are calculated before they are written: short, so that the next ones are calculated
// while streamed ones are still on their way (1.2 times as fast as 4,096).
constexpr int64_t kBlock = 256;

// The axes of map m, z last; a plane has one node along z, on the point. False where a coordinate
// is not finite.
template <class T>
bool axes_of(const HeatmapGrid<T>& grid, int64_t m, HeatmapAxis<T> axes[3]) {
  bool finite = true;
  axes[2] = {T(0), T(1)}; // 1 as a factor, 0 as a distance, whatever the kind
  for (int a = 0; a < grid.axes; ++a) {
    axes[a] = {grid.points[m * grid.axes + a], grid.stride[a]};
    finite = finite && is_finite(axes[a].point);
  }
  return finite;
}

// out[r, x] = rows[r] columns[x]. The operand is chosen before the multiplication, so that no
// product is subnormal.
template <class T>
VECTOR_CLONES void outer_product(const T* rows, int64_t count, const T* columns, int64_t W,
                                 T* out) {
  for (int64_t r = 0; r < count; ++r, out += W) {
    const T row = rows[r], least = kTiny<T> / row;
    for (int64_t x = 0; x < W; ++x)
      out[x] = row * (columns[x] >= least ? columns[x] : T(0));
  }
}

template <class T>
VECTOR_CLONES void outer_disc(const T* rows, int64_t count, const T* columns, T squared_sigma,
                              int64_t W, T* out) {
  for (int64_t r = 0; r < count; ++r, out += W) {
    const T row = rows[r];
    for (int64_t x = 0; x < W; ++x)
      out[x] = row + columns[x] <= squared_sigma ? T(1) : T(0);
  }
}

template <class T>
VECTOR_CLONES void row_sums(const T* grad, const T* table, const T* slope, int64_t count, T& sum,
                            T& sloped) {
  T a = 0, b = 0;
#pragma omp simd reduction(+ : a, b)
  for (int64_t x = 0; x < count; ++x) {
    a += grad[x] * table[x];
    b += grad[x] * slope[x];
  }
  sum = a, sloped = b;
}

// Factors of every node of every axis of one map, and their derivatives to the point.
template <class T>
struct Tables {
  std::vector<T> factor[3], slope[3];

  explicit Tables(const HeatmapGrid<T>& grid) {
    const int64_t nodes[3] = {grid.W, grid.H, grid.D};
    for (int a = 0; a < 3; ++a)
      factor[a].resize(nodes[a]), slope[a].resize(nodes[a]);
  }

  void fill(int kind, const HeatmapGrid<T>& grid, const HeatmapAxis<T> axes[3]) {
    for (int a = 0; a < 3; ++a)
      for (size_t i = 0; i < factor[a].size(); ++i)
        factor[a][i] = axes[a].value(kind, int64_t(i), grid.inverse_sigma);
  }

  void fill_slopes(const HeatmapGrid<T>& grid, const HeatmapAxis<T> axes[3]) {
    for (int a = 0; a < 3; ++a)
      for (size_t i = 0; i < factor[a].size(); ++i)
        slope[a][i] = axes[a].slope(factor[a][i], int64_t(i), grid.inverse_sigma);
  }
};

// Gradient of a map from the rows [begin, end) of D H.
template <class T>
void band_gradient(const HeatmapGrid<T>& grid, const T* grad, int64_t begin, int64_t end,
                   const Tables<T>& tables, T sums[3]) {
  const T *columns = tables.factor[0].data(), *slopes = tables.slope[0].data();
  int64_t first = 0, last = grid.W;
  while (first < last && columns[first] < kNegligible<T>)
    ++first;
  while (first < last && columns[last - 1] < kNegligible<T>)
    --last;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t y = r % grid.H, z = r / grid.H;
    const T row = tables.factor[1][y] * tables.factor[2][z];
    if (first == last || row < kNegligible<T>)
      continue;
    T sum, sloped;
    row_sums(grad + r * grid.W + first, columns + first, slopes + first, last - first, sum, sloped);
    sums[0] += row * sloped;
    sums[1] += tables.slope[1][y] * tables.factor[2][z] * sum;
    sums[2] += tables.factor[1][y] * tables.slope[2][z] * sum;
  }
}

} // namespace

template <class T>
void heatmap(const Heatmap<T>& op) {
  const HeatmapGrid<T>& grid = op.grid;
  const int64_t rows = grid.D * grid.H, W = grid.W, row_bytes = W * int64_t(sizeof(T));
  const bool streamed = can_stream(row_bytes, grid.maps * rows * row_bytes);
  const int64_t per_block = std::max<int64_t>(1, kBlock / W);
  // Discs add, the others multiply: with this for a row none of its nodes is reached.
  const T nothing = op.kind == kDisc ? std::numeric_limits<T>::infinity() : T(0);
  parallel(grid.maps * rows, std::max<int64_t>(1, 16384 / W), [&](int64_t begin, int64_t end) {
    Tables<T> tables(grid);
    std::vector<T> block(streamed ? per_block * W : 0), factors(per_block);
    HeatmapAxis<T> axes[3];
    bool finite = false;
    for (int64_t i = begin, m = -1, count; i < end; i += count) {
      if (i / rows != m) {
        m = i / rows;
        finite = axes_of(grid, m, axes);
        if (finite)
          tables.fill(op.kind, grid, axes);
      }
      count = std::min({per_block, end - i, (m + 1) * rows - i});
      for (int64_t r = 0; r < count; ++r) {
        const int64_t y = (i + r) % grid.H, z = (i + r - m * rows) / grid.H;
        factors[r] = finite ? join(op.kind, tables.factor[1][y], tables.factor[2][z]) : nothing;
      }
      T* out = op.map + i * W;
      T* target = streamed ? block.data() : out;
      const T* columns = tables.factor[0].data();
      if (op.kind == kDisc)
        outer_disc(factors.data(), count, columns, grid.squared_sigma, W, target);
      else
        outer_product(factors.data(), count, columns, W, target);
      if (streamed)
        stream(out, target, count * row_bytes);
    }
    if (streamed)
      stream_fence();
  });
}

template <class T>
void heatmap_backward(const HeatmapBackward<T>& op) {
  const HeatmapGrid<T>& grid = op.grid;
  const int64_t rows = grid.D * grid.H, per_band = std::max<int64_t>(1, 65536 / grid.W);
  const int64_t bands = (rows + per_band - 1) / per_band;
  std::vector<T> partial(grid.maps * bands * 3);
  parallel(grid.maps * bands, 1, [&](int64_t begin, int64_t end) {
    Tables<T> tables(grid);
    HeatmapAxis<T> axes[3];
    bool finite = false;
    for (int64_t i = begin, m = -1; i < end; ++i) {
      if (i / bands != m) {
        m = i / bands;
        finite = axes_of(grid, m, axes);
        if (finite) {
          tables.fill(kGaussian, grid, axes);
          tables.fill_slopes(grid, axes);
        }
      }
      const int64_t r = i % bands * per_band;
      if (finite)
        band_gradient(grid, op.grad + m * rows * grid.W, r, std::min(rows, r + per_band), tables,
                      &partial[i * 3]);
    }
  });
  for (int64_t m = 0; m < grid.maps; ++m)
    for (int a = 0; a < grid.axes; ++a) {
      T sum = 0;
      for (int64_t band = 0; band < bands; ++band)
        sum += partial[(m * bands + band) * 3 + a];
      op.grad_points[m * grid.axes + a] = sum;
    }
}

#define INSTANTIATE(T)                                                                             \
  template void heatmap(const Heatmap<T>&);                                                        \
  template void heatmap_backward(const HeatmapBackward<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

} // namespace pose_kernels::cpu
