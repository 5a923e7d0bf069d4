// SPDX-License-Identifier: Apache-2.0
// The backward of uv_raster on the CPU: no scatter into the atlas, every pixel is a sum over the
// texels of its triangles.
//
// One task per stretch of pixel rows. It walks over the cells that have a pixel there, reads the
// texels of each triangle once, row by row, for all three of its pixels, and adds to those that
// are its own. A pixel so gets its triangles in pixel order, whatever the stretches are.

#include "../ops/uv_raster.h"

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "triangle_rows.h"

namespace pose_kernels::cpu {
namespace {

constexpr int64_t kRows = 8;         // pixel rows of a task ..
constexpr int64_t kSums = 256 << 10; // .. fewer where their sums would take more bytes

// sums[3][C]: of the texels of one triangle, their weights divided by the texels'. `total` holds
// [C, 3] vectors.
template <class T>
VECTOR_CLONES void gather_planar(const AtlasTriangle& t, const T* grad, int64_t channel, int64_t C,
                                 const acc_t<T>* weight, int64_t S, acc_t<T>* total,
                                 acc_t<T>* sums) {
  using A = acc_t<T>;
  constexpr int L = kTexels<A>;
  std::fill(total, total + C * 3 * L, A(0));
  const TriangleRows rows(t, int(S));
  texels_t<A> steps;
  for (int j = 0; j < L; ++j)
    steps[j] = A(j);
  TriangleRow row;
  for (int y = t.y0; y <= t.y1; ++y) {
    if (!rows.at(y, row))
      continue;
    const bool one = row.count == 1; // its slope may be anything
    const A s0 = one ? A(0) : A(rows.slope[0]), s1 = one ? A(0) : A(rows.slope[1]),
            s2 = one ? A(0) : A(rows.slope[2]);
    const int64_t q = int64_t(y) * S + row.first;
    for (int j = 0; j < row.count; j += L) {
      const auto bits = first_texels<A>(row.count - j);
      const texels_t<A> along = steps + A(j);
      const texels_t<A> D = load_texels(weight + q + j, S * S - q - j);
      const texels_t<A> v0 = only((A(row.w[0]) + s0 * along) / D, bits),
                        v1 = only((A(row.w[1]) + s1 * along) / D, bits),
                        v2 = only((A(row.w[2]) + s2 * along) / D, bits);
      A* at = total;
      for (int64_t c = 0; c < C; ++c, at += 3 * L) {
        const texels_t<A> g = only(load_texels(grad + c * channel + q + j, S * S - q - j), bits);
        store(at, load<A, L>(at) + v0 * g);
        store(at + L, load<A, L>(at + L) + v1 * g);
        store(at + 2 * L, load<A, L>(at + 2 * L) + v2 * g);
      }
    }
  }
  for (int64_t c = 0; c < C; ++c)
    for (int i = 0; i < 3; ++i)
      sums[i * C + c] = sum_of<A, L>(load<A, L>(total + (c * 3 + i) * L));
}

template <class T>
VECTOR_CLONES void gather_last(const AtlasTriangle& t, const T* grad, int64_t C,
                               const acc_t<T>* weight, int64_t S, acc_t<T>* sums) {
  using A = acc_t<T>;
  std::fill(sums, sums + 3 * C, A(0));
  const TriangleRows rows(t, int(S));
  TriangleRow row;
  for (int y = t.y0; y <= t.y1; ++y) {
    if (!rows.at(y, row))
      continue;
    for (int x = row.first; x < row.first + row.count; ++x) {
      t.weights(x, y, row.w);
      const int64_t q = int64_t(y) * S + x;
      const A share = A(1) / weight[q];
      const A w0 = A(row.w[0]) * share, w1 = A(row.w[1]) * share, w2 = A(row.w[2]) * share;
      const T* from = grad + q * C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) {
        const A g = widen(from[c]);
        sums[c] += w0 * g;
        sums[C + c] += w1 * g;
        sums[2 * C + c] += w2 * g;
      }
    }
  }
}

template <class T>
struct Rows {
  using A = acc_t<T>;
  int64_t n, first, last;         // pixel rows of this task
  std::vector<A> sum;             // [rows, W, C]
  std::vector<uint8_t> triangles; // [rows, W]: how many a pixel has
  std::vector<A> total, sums;     // workspaces of one triangle
};

template <class T>
void add_cell(const UvRasterBackward<T>& op, int64_t y, int64_t x, Rows<T>& rows) {
  const auto grid = op.grid();
  const int64_t corner[2][3][2] = {{{y, x}, {y, x + 1}, {y + 1, x}},
                                   {{y, x + 1}, {y + 1, x + 1}, {y + 1, x}}};
  for (int which = 0; which < 2; ++which) {
    AtlasTriangle t;
    if (!grid.triangle(rows.n, y, x, which, t))
      continue;
    const int part = part_at(op.part, (rows.n * op.H + y) * op.W + x + 1, int(op.P));
    const int64_t tile = rows.n * op.P + part - 1, texels = op.S * op.S;
    const T* grad = op.grad_atlas.data + tile * op.C * texels;
    if (op.grad_atlas.pixel > 1)
      gather_last(t, grad, op.C, op.weight + tile * texels, op.S, rows.sums.data());
    else
      gather_planar(t, grad, texels, op.C, op.weight + tile * texels, op.S, rows.total.data(),
                    rows.sums.data());
    for (int i = 0; i < 3; ++i) {
      const auto [row, column] = corner[which][i];
      if (row < rows.first || row > rows.last)
        continue;
      const int64_t p = (row - rows.first) * op.W + column;
      ++rows.triangles[p];
      for (int64_t c = 0; c < op.C; ++c)
        rows.sum[p * op.C + c] += rows.sums[i * op.C + c];
    }
  }
}

// A pixel without a triangle reads its four texels, where no triangle covers them.
template <class T>
void add_lonely(const UvRasterBackward<T>& op, int64_t y, int64_t x, Rows<T>& rows) {
  using A = acc_t<T>;
  const int64_t texels = op.S * op.S, p = y * op.W + x;
  const int part = part_at(op.part, rows.n * op.H * op.W + p, int(op.P));
  const A* uv = op.uv + rows.n * 2 * op.H * op.W + p;
  TilePoint<A> point;
  if (part == 0 || !tile_point(uv[0], uv[op.H * op.W], int(op.S), point))
    return;
  const int64_t tile = rows.n * op.P + part - 1;
  A w[4];
  int q[4];
  corner_weights(point.ax, point.ay, w);
  corner_texels(point, int(op.S), q);
  A* sum = &rows.sum[((y - rows.first) * op.W + x) * op.C];
  for (int k = 0; k < 4; ++k) {
    const A D = op.weight[tile * texels + q[k]];
    if (is_whole(D)) // triangles cover it, or nothing does
      continue;
    const T* from = op.grad_atlas.data + tile * op.C * texels + q[k] * op.grad_atlas.pixel;
    for (int64_t c = 0; c < op.C; ++c)
      sum[c] += w[k] / D * widen(from[c * op.grad_atlas.channel]);
  }
}

} // namespace

template <class T>
void uv_raster_backward(const UvRasterBackward<T>& op) {
  using A = acc_t<T>;
  if (op.C == 0 || op.W == 0)
    return;
  const int64_t height = std::clamp<int64_t>(kSums / (op.W * op.C * int64_t(sizeof(A))), 1, kRows);
  const int64_t stretches = (op.H + height - 1) / height;
  parallel(op.N * stretches, 1, [&](int64_t begin, int64_t end) {
    Rows<T> rows;
    rows.total.resize(op.C * 3 * kTexels<A>);
    rows.sums.resize(3 * op.C);
    for (int64_t job = begin; job < end; ++job) {
      rows.n = job / stretches;
      rows.first = job % stretches * height;
      rows.last = std::min(rows.first + height, op.H) - 1;
      const int64_t count = (rows.last - rows.first + 1) * op.W;
      rows.sum.assign(count * op.C, A(0));
      rows.triangles.assign(count, 0);
      for (int64_t y = rows.first - 1; y <= rows.last; ++y)
        for (int64_t x = 0; x + 1 < op.W && y >= 0; ++x)
          add_cell(op, y, x, rows);
      for (int64_t i = 0; i < count; ++i)
        if (rows.triangles[i] == 0)
          add_lonely(op, rows.first + i / op.W, i % op.W, rows);
      T* out = op.grad_image.data + rows.n * op.C * op.H * op.W +
               rows.first * op.W * op.grad_image.pixel;
      for (int64_t c = 0; c < op.C; ++c)
        for (int64_t i = 0; i < count; ++i)
          out[c * op.grad_image.channel + i * op.grad_image.pixel] =
              narrow<T>(rows.sum[i * op.C + c]);
    }
  });
}

template void uv_raster_backward(const UvRasterBackward<float>&);
template void uv_raster_backward(const UvRasterBackward<double>&);
template void uv_raster_backward(const UvRasterBackward<float16>&);
template void uv_raster_backward(const UvRasterBackward<bfloat16>&);

} // namespace pose_kernels::cpu
