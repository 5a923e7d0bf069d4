// SPDX-License-Identifier: Apache-2.0
// uv_gather on the CPU, and with it every backward of the surface ops: each is a gather.
//
// Pixels are independent; they are taken in chunks. Per chunk: first its foreground pixels into
// lists, then their geometry, in vectors, then the reads. The lines a pixel will read are asked for
// a few pixels ahead, so that the latency of memory hides behind the arithmetic. Background costs
// one fill, and nothing depends on the number of threads.

#include "../ops/uv_gather.h"

#include <algorithm>
#include <type_traits>

#include "../math/bilinear.h"
#include "../ops/uv_splat.h"
#include "lanes.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

constexpr int64_t kChunk = 512; // pixels located at once
constexpr int64_t kAhead = 8;   // pixels between asking for a line and reading it

// Foreground pixels of a chunk, and where they lie on their tiles.
template <class A>
struct Samples {
  int64_t count;
  int32_t pixel[kChunk]; // in its image
  int32_t tile[kChunk];  // part - 1
  A u[kChunk], v[kChunk];
  int32_t texel[kChunk]; // of corner 0
  A ax[kChunk], ay[kChunk], du[kChunk], dv[kChunk];
};

// Pixels [first, last) of image n.
template <class T>
void find(const UvSplatBackward<T>& op, int64_t n, int64_t first, int64_t last,
          Samples<acc_t<T>>& samples) {
  const int64_t pixels = op.H * op.W;
  const acc_t<T>* u = op.uv + n * 2 * pixels;
  const acc_t<T>* v = u + pixels;
  int64_t count = 0;
  for (int64_t p = first; p < last; ++p) {
    const int part = part_at(op.part, n * pixels + p, int(op.P));
    if (part == 0 || !is_finite_point(u[p], v[p]))
      continue;
    samples.pixel[count] = int32_t(p);
    samples.tile[count] = part - 1;
    samples.u[count] = u[p];
    samples.v[count] = v[p];
    ++count;
  }
  samples.count = count;
}

template <class A>
VECTOR_CLONES void locate(Samples<A>& samples, int S) {
#pragma GCC ivdep
  for (int64_t i = 0; i < samples.count; ++i) {
    const TilePoint<A> point = place_on_tile(samples.u[i], samples.v[i], S);
    samples.texel[i] = point.y0 * S + point.x0;
    samples.ax[i] = point.ax;
    samples.ay[i] = point.ay;
    samples.du[i] = point.du;
    samples.dv[i] = point.dv;
  }
}

// The four texels of a plane around a pixel, neighbors in a row in one load. `right` is 1, or 0 on
// a tile of one texel.
template <class T>
ALWAYS_INLINE lanes_t<acc_t<T>, 4> corners(const T* top, int64_t right, int64_t below) {
  using A = acc_t<T>;
  const T* bottom = top + below;
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
  if constexpr (std::is_same_v<T, A>)
    if (right)
      return __builtin_shufflevector(load<A, 2>(top), load<A, 2>(bottom), 0, 1, 2, 3);
#endif
  return lanes_t<A, 4>{widen(top[0]), widen(top[right]), widen(bottom[0]), widen(bottom[right])};
}

// What the pixels gather. Flags are template parameters so that the plain gather is nothing else.
template <class T, bool kChannelsLast, bool kImage, bool kUv, bool kNormalized>
VECTOR_CLONES void gather(const UvSplatBackward<T>& op, int64_t n,
                          const Samples<acc_t<T>>& samples) {
  using A = acc_t<T>;
  const int64_t pixels = op.H * op.W, texels = op.S * op.S;
  const int64_t pixel = kChannelsLast ? op.C : 1, right = op.S > 1, below = right * op.S;
  using V = lanes_t<A, 4>;
  const V zero{};

  auto ask = [&](int64_t i) __attribute__((always_inline)) {
    const int64_t tile = n * op.P + samples.tile[i], q = samples.texel[i];
    auto ask_rows = [&](const T* top) __attribute__((always_inline)) {
      __builtin_prefetch(top);
      __builtin_prefetch(top + below * pixel);
    };
    auto ask_texels = [&](const T* data) __attribute__((always_inline)) {
      const T* top = data + tile * op.C * texels + q * pixel;
      constexpr int64_t line = 64 / int64_t(sizeof(T));
      if (kChannelsLast) { // two texels in a row, whatever lines they begin and end in
        for (int64_t c = 0; c < 2 * op.C - 1; c += line)
          ask_rows(top + c);
        ask_rows(top + 2 * op.C - 1);
      } else {
        for (int64_t c = 0; c < op.C; ++c)
          ask_rows(top + c * texels);
      }
    };
    auto ask_plane = [&](const A* data) __attribute__((always_inline)) {
      __builtin_prefetch(data + tile * texels + q);
      __builtin_prefetch(data + tile * texels + q + below);
    };
    ask_texels(op.grad_atlas.data);
    if (kUv && kNormalized)
      ask_texels(op.atlas.data);
    if (kNormalized)
      ask_plane(op.weight);
    if (kUv && op.grad_weight)
      ask_plane(op.grad_weight);
  };

  for (int64_t i = 0; i < std::min(kAhead, samples.count); ++i)
    ask(i);
  for (int64_t i = 0; i < samples.count; ++i) {
    if (i + kAhead < samples.count)
      ask(i + kAhead);
    const int64_t tile = n * op.P + samples.tile[i], q = samples.texel[i];
    const int64_t at = tile * op.C * texels + q * pixel;
    const int64_t p = n * op.C * pixels + samples.pixel[i] * pixel;
    const T* gradient = op.grad_atlas.data + at;
    const T* value = kUv && kNormalized ? op.atlas.data + at : nullptr;
    const T* color = kUv ? op.image.data + p : nullptr;
    T* out = kImage ? op.grad_image.data + p : nullptr;
    A w[4];
    corner_weights(samples.ax[i], samples.ay[i], w);
    V scale{}, g{};
    if (kNormalized) { // an invisible texel: no color, no gradient, and 0 times whatever is there
      const V D = corners(op.weight + tile * texels + q, right, below);
      scale = D > op.min_weight ? A(1) / D : zero;
    }
    if (kChannelsLast) {
      const int64_t corner[4] = {0, right * op.C, below * op.C, (below + right) * op.C};
      A g0 = 0, g1 = 0, g2 = 0, g3 = 0;
#pragma omp simd reduction(+ : g0, g1, g2, g3)
      for (int64_t c = 0; c < op.C; ++c) {
        A r[4], difference[4];
        for (int k = 0; k < 4; ++k) {
          r[k] = widen(gradient[corner[k] + c]);
          if (kNormalized)
            r[k] = scale[k] > A(0) ? r[k] * scale[k] : A(0);
          if (kUv)
            difference[k] = widen(color[c]) - (kNormalized ? widen(value[corner[k] + c]) : A(0));
        }
        if (kImage)
          out[c] = narrow<T>(w[0] * r[0] + w[1] * r[1] + w[2] * r[2] + w[3] * r[3]);
        if (kUv) {
          g0 += difference[0] * r[0];
          g1 += difference[1] * r[1];
          g2 += difference[2] * r[2];
          g3 += difference[3] * r[3];
        }
      }
      g = V{g0, g1, g2, g3};
    } else {
      for (int64_t c = 0; c < op.C; ++c) {
        V r = corners(gradient + c * texels, right, below);
        if (kNormalized)
          r = scale > zero ? r * scale : zero;
        if (kImage) {
          const V part = load<A, 4>(w) * r;
          out[c * pixels] = narrow<T>((part[0] + part[1]) + (part[2] + part[3]));
        }
        if (kUv) {
          V difference = zero + widen(color[c * pixels]);
          if (kNormalized)
            difference -= corners(value + c * texels, right, below);
          g += difference * r;
        }
      }
    }
    if (kUv) {
      if (op.grad_weight)
        g += corners(op.grad_weight + tile * texels + q, right, below);
      const A g_of[4] = {g[0], g[1], g[2], g[3]};
      A* grad_u = op.grad_uv + n * 2 * pixels + samples.pixel[i];
      corner_gradient(samples.ax[i], samples.ay[i], samples.du[i], samples.dv[i], g_of, grad_u[0],
                      grad_u[pixels]);
    }
  }
}

template <class T>
void clear(const UvSplatBackward<T>& op, int64_t n, int64_t first, int64_t last) {
  const int64_t pixels = op.H * op.W, count = last - first;
  if (op.grad_image.data && op.grad_image.pixel == 1) {
    for (int64_t c = 0; c < op.C; ++c)
      memset(op.grad_image.data + (n * op.C + c) * pixels + first, 0, count * sizeof(T));
  } else if (op.grad_image.data) {
    memset(op.grad_image.data + (n * pixels + first) * op.C, 0, count * op.C * sizeof(T));
  }
  if (op.grad_uv)
    for (int64_t axis = 0; axis < 2; ++axis)
      memset(op.grad_uv + (n * 2 + axis) * pixels + first, 0, count * sizeof(acc_t<T>));
}

template <class T>
using Gather = void (*)(const UvSplatBackward<T>&, int64_t, const Samples<acc_t<T>>&);

template <class T, bool kChannelsLast>
Gather<T> choose(const UvSplatBackward<T>& op) {
  const bool image = op.grad_image.data, uv = op.grad_uv, normalized = op.weight;
  if (image && uv)
    return normalized ? gather<T, kChannelsLast, true, true, true>
                      : gather<T, kChannelsLast, true, true, false>;
  if (image)
    return normalized ? gather<T, kChannelsLast, true, false, true>
                      : gather<T, kChannelsLast, true, false, false>;
  return normalized ? gather<T, kChannelsLast, false, true, true>
                    : gather<T, kChannelsLast, false, true, false>;
}

} // namespace

template <class T>
void uv_splat_backward(const UvSplatBackward<T>& op) {
  if (!op.grad_image.data && !op.grad_uv)
    return;
  const bool channels_last = op.grad_atlas.pixel > 1;
  const Gather<T> gather = channels_last ? choose<T, true>(op) : choose<T, false>(op);
  const int64_t pixels = op.H * op.W, chunks = (pixels + kChunk - 1) / kChunk;
  const int64_t grain = std::max<int64_t>(1, 4096 / (kChunk * std::max<int64_t>(1, op.C)));
  parallel(op.N * chunks, grain, [&](int64_t begin, int64_t end) {
    Samples<acc_t<T>> samples;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t n = chunk / chunks, first = chunk % chunks * kChunk;
      const int64_t last = std::min(first + kChunk, pixels);
      find(op, n, first, last, samples);
      locate(samples, int(op.S));
      clear(op, n, first, last);
      gather(op, n, samples);
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
