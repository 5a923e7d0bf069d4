// SPDX-License-Identifier: Apache-2.0
// uv_gather on the CPU, and with it every backward of the surface ops: each is a gather.
//
// Rows of pixels are independent. Per row: first the geometry of its foreground pixels into a short
// list, prefetching the texel lines they will need; then, one row later, the reads. The latency of
// memory is hidden behind a row of geometry, neighboring pixels share cache lines, background
// costs one fill, and nothing depends on the number of threads.

#include "../ops/uv_gather.h"

#include <algorithm>
#include <vector>

#include "../math/bilinear.h"
#include "../ops/uv_splat.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

template <class A>
struct Sample {
  int64_t x;    // pixel in its row
  int64_t tile; // n P + part - 1
  int64_t q;    // texel of corner 0
  TilePoint<A> point;
};

// Foreground samples of row y of image n. Asks for the texel lines of their channels, once a line.
template <class T>
int64_t locate_row(const UvSplatBackward<T>& op, int64_t n, int64_t y, Sample<acc_t<T>>* samples) {
  using A = acc_t<T>;
  const int64_t pixels = op.H * op.W, texels = op.S * op.S;
  const A* u = op.uv + n * 2 * pixels + y * op.W;
  const A* v = u + pixels;
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  const bool planar = op.grad_atlas.pixel == 1;
  const int64_t planes = planar ? op.C : (op.C + line - 1) / line;
  const int64_t stride = planar ? texels : line;
  int64_t count = 0, previous = -1;
  for (int64_t x = 0; x < op.W; ++x) {
    const int part = part_at(op.part, n * pixels + y * op.W + x, int(op.P));
    Sample<A>& sample = samples[count];
    if (part == 0 || !tile_point(u[x], v[x], int(op.S), sample.point))
      continue;
    sample.x = x;
    sample.tile = n * op.P + part - 1;
    sample.q = int64_t(sample.point.y0) * op.S + sample.point.x0;
    ++count;
    const int64_t at = sample.tile * op.C * texels + sample.q * op.grad_atlas.pixel;
    if (at / line == previous)
      continue;
    previous = at / line;
    const int64_t below = op.S * sample.point.dy;
    for (int64_t plane = 0; plane < planes; ++plane) {
      const int64_t first = at + plane * stride, second = first + below * op.grad_atlas.pixel;
      __builtin_prefetch(op.grad_atlas.data + first);
      __builtin_prefetch(op.grad_atlas.data + second);
      if (op.atlas.data) {
        __builtin_prefetch(op.atlas.data + first);
        __builtin_prefetch(op.atlas.data + second);
      }
    }
    if (op.weight) {
      __builtin_prefetch(op.weight + sample.tile * texels + sample.q);
      __builtin_prefetch(op.weight + sample.tile * texels + sample.q + below);
    }
  }
  return count;
}

// What one pixel gathers. Flags are template parameters so that the plain gather is nothing else.
template <class T, bool kChannelsLast, bool kImage, bool kUv, bool kNormalized>
VECTOR_CLONES void gather_row(const UvSplatBackward<T>& op, int64_t n, int64_t y,
                              const Sample<acc_t<T>>* samples, int64_t count) {
  using A = acc_t<T>;
  const int64_t pixels = op.H * op.W, texels = op.S * op.S;
  const int64_t channel = kChannelsLast ? 1 : texels, pixel_channel = kChannelsLast ? 1 : pixels;
  for (int64_t i = 0; i < count; ++i) {
    const Sample<A>& s = samples[i];
    const int64_t pixel = kChannelsLast ? op.C : 1;
    const int64_t p = n * op.C * pixels + (y * op.W + s.x) * pixel;
    const int64_t q[4] = {s.q, s.q + s.point.dx, s.q + op.S * s.point.dy,
                          s.q + op.S * s.point.dy + s.point.dx};
    A w[4], scale[4];
    corner_weights(s.point.ax, s.point.ay, w);
    const T* gradient[4];
    const T* value[4];
    for (int k = 0; k < 4; ++k) {
      const int64_t at = s.tile * op.C * texels + q[k] * pixel;
      gradient[k] = op.grad_atlas.data + at;
      value[k] = kUv && kNormalized ? op.atlas.data + at : nullptr;
      if (kNormalized) { // an invisible texel: no color, no gradient, and 0 times whatever is there
        const A D = op.weight[s.tile * texels + q[k]];
        scale[k] = D > op.min_weight ? A(1) / D : A(0);
      }
    }
    const T* color = kUv ? op.image.data + p : nullptr;
    T* out = kImage ? op.grad_image.data + p : nullptr;
    A g0 = 0, g1 = 0, g2 = 0, g3 = 0;
    auto add = [&](int64_t c) __attribute__((always_inline)) {
      A r[4];
      for (int k = 0; k < 4; ++k) {
        r[k] = widen(gradient[k][c * channel]);
        if (kNormalized)
          r[k] = scale[k] > A(0) ? r[k] * scale[k] : A(0);
      }
      if (kImage)
        out[c * pixel_channel] = narrow<T>(w[0] * r[0] + w[1] * r[1] + w[2] * r[2] + w[3] * r[3]);
      if (kUv) {
        const A x = widen(color[c * pixel_channel]);
        g0 += (kNormalized ? x - widen(value[0][c * channel]) : x) * r[0];
        g1 += (kNormalized ? x - widen(value[1][c * channel]) : x) * r[1];
        g2 += (kNormalized ? x - widen(value[2][c * channel]) : x) * r[2];
        g3 += (kNormalized ? x - widen(value[3][c * channel]) : x) * r[3];
      }
    };
    if (kChannelsLast) {
#pragma omp simd reduction(+ : g0, g1, g2, g3)
      for (int64_t c = 0; c < op.C; ++c)
        add(c);
    } else {
      for (int64_t c = 0; c < op.C; ++c)
        add(c);
    }
    if (kUv) {
      A g[4] = {g0, g1, g2, g3};
      if (op.grad_weight)
        for (int k = 0; k < 4; ++k)
          g[k] += op.grad_weight[s.tile * texels + q[k]];
      A* grad_u = op.grad_uv + n * 2 * pixels + y * op.W + s.x;
      corner_gradient(s.point, g, grad_u[0], grad_u[pixels]);
    }
  }
}

template <class T>
void clear_row(const UvSplatBackward<T>& op, int64_t n, int64_t y) {
  const int64_t pixels = op.H * op.W;
  if (op.grad_image.data && op.grad_image.pixel == 1) {
    for (int64_t c = 0; c < op.C; ++c)
      memset(op.grad_image.data + (n * op.C + c) * pixels + y * op.W, 0, op.W * sizeof(T));
  } else if (op.grad_image.data) {
    memset(op.grad_image.data + (n * pixels + y * op.W) * op.C, 0, op.W * op.C * sizeof(T));
  }
  if (op.grad_uv)
    for (int64_t axis = 0; axis < 2; ++axis)
      memset(op.grad_uv + (n * 2 + axis) * pixels + y * op.W, 0, op.W * sizeof(acc_t<T>));
}

template <class T>
using GatherRow = void (*)(const UvSplatBackward<T>&, int64_t, int64_t, const Sample<acc_t<T>>*,
                           int64_t);

template <class T, bool kChannelsLast>
GatherRow<T> choose(const UvSplatBackward<T>& op) {
  const bool image = op.grad_image.data, uv = op.grad_uv, normalized = op.weight;
  if (image && uv)
    return normalized ? gather_row<T, kChannelsLast, true, true, true>
                      : gather_row<T, kChannelsLast, true, true, false>;
  if (image)
    return normalized ? gather_row<T, kChannelsLast, true, false, true>
                      : gather_row<T, kChannelsLast, true, false, false>;
  return normalized ? gather_row<T, kChannelsLast, false, true, true>
                    : gather_row<T, kChannelsLast, false, true, false>;
}

} // namespace

template <class T>
void uv_splat_backward(const UvSplatBackward<T>& op) {
  if (!op.grad_image.data && !op.grad_uv)
    return;
  const bool channels_last = op.grad_atlas.pixel > 1;
  const GatherRow<T> gather = channels_last ? choose<T, true>(op) : choose<T, false>(op);
  const int64_t rows = op.N * op.H;
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, op.W * op.C));
  parallel(rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<Sample<acc_t<T>>> lists[2] = {std::vector<Sample<acc_t<T>>>(op.W),
                                              std::vector<Sample<acc_t<T>>>(op.W)};
    int64_t counts[2] = {0, 0};
    for (int64_t row = begin; row <= end; ++row) {
      if (row < end)
        counts[row & 1] = locate_row(op, row / op.H, row % op.H, lists[row & 1].data());
      if (row > begin) {
        const int64_t ready = row - 1;
        clear_row(op, ready / op.H, ready % op.H);
        gather(op, ready / op.H, ready % op.H, lists[ready & 1].data(), counts[ready & 1]);
      }
    }
  });
}

template <class T>
void uv_gather(const UvGather<T>& op) {
  UvSplatBackward<T> gather{};
  gather.N = op.N, gather.C = op.C, gather.H = op.H, gather.W = op.W;
  gather.P = op.P, gather.S = op.S;
  gather.grad_atlas = op.atlas, gather.part = op.part, gather.uv = op.uv;
  gather.grad_image = op.image;
  uv_splat_backward(gather);
}

#define INSTANTIATE(T)                                                                             \
  template void uv_splat_backward(const UvSplatBackward<T>&);                                      \
  template void uv_gather(const UvGather<T>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)

} // namespace pose_kernels::cpu
