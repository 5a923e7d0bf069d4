// SPDX-License-Identifier: Apache-2.0
// uv_raster on the CPU.
//
//   1. Sort the cells of four pixels that hold a triangle, and the pixels without one, by tile, in
//      pixel order (surface_cells.h).
//   2. One task per band of a tile: as many texel rows as fit the cache with a few channels. It
//      draws its triangles in order, row by row, then the splats of the lonely pixels,
//      divides, and writes its rows once, past the cache. Rows that nothing touches are zeros.
// A task owns its texels and adds in pixel order: the same bits for any number of threads.

#include "../ops/uv_raster.h"

#include <algorithm>
#include <vector>

#include "memory.h"
#include "parallel.h"
#include "surface_cells.h"
#include "triangle_rows.h"

namespace pose_kernels::cpu {
namespace {

constexpr int kLanes = 16;          // texels drawn at once
constexpr int64_t kAtOnce = 8;      // planes summed at once
constexpr int64_t kBand = 96 << 10; // bytes of sums that a task works on

// What one task works on: rows first .. last of a tile, `channels` channels from `channel` on. Sums
// have room beyond a row for a block that begins in it.
template <class T>
struct Band {
  using A = acc_t<T>;
  int64_t first, last, channel, channels, stride, plane;
  bool channels_last, opened, splatted;
  std::vector<A> weight; // [rows, stride]
  std::vector<A> sum;    // [channels, rows, stride], or [rows, stride, channels]
  std::vector<uint8_t> touched;
  std::vector<A> color; // [3, channels]
  std::vector<T> line;  // one row on its way out

  // Something falls on it: sums from 0 on.
  void open() {
    if (opened)
      return;
    opened = true;
    plane = (last - first + 1) * stride;
    weight.assign(plane, A(0));
    sum.assign(plane * channels, A(0));
    touched.assign(last - first + 1, 0);
    color.resize(3 * channels);
  }
};

// Adds a triangle to rows first .. last. color[c]: of its three vertices, planes of `stride` texels
// a row.
template <class A>
VECTOR_CLONES void draw(const AtlasTriangle& t, int S, int first, int last, const A* color,
                        int64_t channels, A* weight, A* sum, int64_t stride, int64_t plane) {
  constexpr int L = kTexels<A>;
  const TriangleRows rows(t, S);
  texels_t<A> steps;
  for (int j = 0; j < L; ++j)
    steps[j] = A(j);
  TriangleRow row;
  for (int y = first; y <= last; ++y, weight += stride, sum += stride) {
    if (!rows.at(y, row))
      continue;
    const A w0 = A(row.w[0]), w1 = A(row.w[1]), w2 = A(row.w[2]);
    const bool one = row.count == 1; // its slope may be anything
    const A s0 = one ? A(0) : A(rows.slope[0]), s1 = one ? A(0) : A(rows.slope[1]),
            s2 = one ? A(0) : A(rows.slope[2]);
    for (int j = 0; j < row.count; j += L) {
      const auto bits = first_texels<A>(row.count - j);
      const texels_t<A> along = steps + A(j);
      A* at = weight + row.first + j;
      store(at, load<A, L>(at) + only(texels_t<A>{} + A(1), bits));
      const texels_t<A> v0 = w0 + s0 * along, v1 = w1 + s1 * along, v2 = w2 + s2 * along;
      at = sum + row.first + j;
      for (int64_t c = 0; c < channels; ++c, at += plane) {
        const A* k = color + 3 * c;
        store(at, load<A, L>(at) + only(v0 * k[0] + v1 * k[1] + v2 * k[2], bits));
      }
    }
  }
}

// The same to sums [stride, channels] a row.
template <class A>
VECTOR_CLONES void draw_last(const AtlasTriangle& t, int S, int first, int last, const A* color,
                             int64_t channels, A* weight, A* sum, int64_t stride) {
  const TriangleRows rows(t, S);
  TriangleRow row;
  for (int y = first; y <= last; ++y, weight += stride, sum += stride * channels) {
    if (!rows.at(y, row))
      continue;
    for (int x = row.first; x < row.first + row.count; ++x) {
      t.weights(x, y, row.w);
      const A w0 = A(row.w[0]), w1 = A(row.w[1]), w2 = A(row.w[2]);
      weight[x] += A(1);
      A* at = sum + x * channels;
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        at[c] += w0 * color[c] + w1 * color[channels + c] + w2 * color[2 * channels + c];
    }
  }
}

template <class T>
VECTOR_CLONES void divide(const acc_t<T>* sum, const acc_t<T>* weight, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    const acc_t<T> mean = sum[i] / weight[i];
    to[i] = narrow<T>(weight[i] > acc_t<T>(0) ? mean : acc_t<T>(0));
  }
}

template <class T>
VECTOR_CLONES void divide_last(const acc_t<T>* sum, const acc_t<T>* weight, int64_t count,
                               int64_t channels, T* to) {
  for (int64_t i = 0; i < count; ++i, sum += channels, to += channels) {
    const acc_t<T> w = weight[i];
    for (int64_t c = 0; c < channels; ++c) {
      const acc_t<T> mean = sum[c] / w;
      to[c] = narrow<T>(w > acc_t<T>(0) ? mean : acc_t<T>(0));
    }
  }
}

template <class T>
void draw_cell(const UvRaster<T>& op, int64_t n, const Record& record, Band<T>& band) {
  using A = acc_t<T>;
  const int64_t y = record.pixel / op.W, x = record.pixel % op.W - 1;
  const T* image = op.image.data + n * op.C * op.H * op.W + band.channel * op.image.channel;
  const int64_t corner[2][3] = {{y * op.W + x, y * op.W + x + 1, (y + 1) * op.W + x},
                                {y * op.W + x + 1, (y + 1) * op.W + x + 1, (y + 1) * op.W + x}};
  const auto grid = op.grid();
  for (int which = 0; which < 2; ++which) {
    AtlasTriangle t;
    if (!grid.triangle(n, y, x, which, t))
      continue;
    const int first = std::max(t.y0, int(band.first)), last = std::min(t.y1, int(band.last));
    if (first > last)
      continue;
    band.open();
    const int64_t by_vertex = band.channels_last ? band.channels : 1,
                  by_channel = band.channels_last ? 1 : 3;
    for (int i = 0; i < 3; ++i)
      for (int64_t c = 0; c < band.channels; ++c)
        band.color[i * by_vertex + c * by_channel] =
            widen(image[corner[which][i] * op.image.pixel + c * op.image.channel]);
    const int64_t row = first - band.first;
    std::fill(&band.touched[row], &band.touched[row] + last - first + 1, uint8_t(1));
    A* weight = band.weight.data() + row * band.stride;
    if (band.channels_last)
      draw_last<A>(t, int(op.S), first, last, band.color.data(), band.channels, weight,
                   band.sum.data() + row * band.stride * band.channels, band.stride);
    else
      draw<A>(t, int(op.S), first, last, band.color.data(), band.channels, weight,
              band.sum.data() + row * band.stride, band.stride, band.plane);
  }
}

// Where no triangle covers a texel, its weight counts -D.
template <class T>
void splat_pixel(const UvRaster<T>& op, int64_t n, const Record& record, Band<T>& band) {
  using A = acc_t<T>;
  const A* uv = op.uv + n * 2 * op.H * op.W + record.pixel;
  const T* color = op.image.data + n * op.C * op.H * op.W + band.channel * op.image.channel +
                   record.pixel * op.image.pixel;
  TilePoint<A> point;
  if (!tile_point(uv[0], uv[op.H * op.W], int(op.S), point))
    return;
  A w[4];
  corner_weights(point.ax, point.ay, w);
  for (int k = 0; k < 4; ++k) {
    const int64_t row = point.y0 + k / 2 * point.dy - band.first;
    if (row < 0 || row > band.last - band.first)
      continue;
    band.open();
    band.splatted = true;
    const int64_t q = row * band.stride + point.x0 + k % 2 * point.dx;
    if (band.weight[q] > A(0))
      continue;
    band.touched[row] = 1;
    band.weight[q] -= w[k];
    for (int64_t c = 0; c < band.channels; ++c)
      band.sum[band.channels_last ? q * band.channels + c : c * band.plane + q] +=
          w[k] * widen(color[c * op.image.channel]);
  }
}

template <class T>
void write_out(void* to, const T* line, int64_t count, bool streamed) {
  if (streamed)
    stream(to, line, count * int64_t(sizeof(T)));
  else
    memcpy(to, line, count * sizeof(T));
}

inline void write_zeros(void* to, int64_t bytes, bool streamed) {
  if (streamed)
    stream_zeros(to, bytes);
  else
    memset(to, 0, bytes);
}

// The finished rows of `planes` planes, `wide` values a row; `row_of(plane, row)` holds one that
// something fell on. Rows without go out together.
template <class V, class Row>
void write_rows(V* to, int64_t planes, int64_t apart, int64_t rows, int64_t wide,
                const std::vector<uint8_t>& touched, bool opened, bool streamed,
                const Row& row_of) {
  for (int64_t c = 0; c < planes; ++c, to += apart)
    for (int64_t row = 0; row < rows;) {
      int64_t end = row;
      while (end < rows && !(opened && touched[end]))
        ++end;
      if (end > row)
        write_zeros(to + row * wide, (end - row) * wide * int64_t(sizeof(V)), streamed);
      for (row = end; row < rows && touched[row]; ++row)
        write_out(to + row * wide, row_of(c, row), wide, streamed);
    }
}

// Weights go out once, with the first channels.
template <class T>
void finish(const UvRaster<T>& op, int64_t tile, Band<T>& band, bool streamed,
            bool weight_streamed) {
  using A = acc_t<T>;
  const int64_t S = op.S, rows = band.last - band.first + 1;
  if (band.splatted)
    for (A& weight : band.weight)
      weight = raster_weight(weight);
  const auto weight = [&](int64_t row) { return band.weight.data() + row * band.stride; };
  if (band.channel == 0)
    write_rows(op.weight + (tile * S + band.first) * S, 1, 0, rows, S, band.touched, band.opened,
               weight_streamed, [&](int64_t, int64_t row) { return weight(row); });
  if (band.channels_last) {
    band.line.resize(S * op.C);
    write_rows(op.atlas.data + (tile * S + band.first) * S * op.C, 1, 0, rows, S * op.C,
               band.touched, band.opened, streamed, [&](int64_t, int64_t row) {
                 divide_last(band.sum.data() + row * band.stride * op.C, weight(row), S, op.C,
                             band.line.data());
                 return band.line.data();
               });
  } else {
    band.line.resize(S);
    write_rows(op.atlas.data + (tile * op.C + band.channel) * S * S + band.first * S, band.channels,
               S * S, rows, S, band.touched, band.opened, streamed, [&](int64_t c, int64_t row) {
                 divide(band.sum.data() + c * band.plane + row * band.stride, weight(row), S,
                        band.line.data());
                 return band.line.data();
               });
  }
}

} // namespace

template <class T>
void uv_raster(const UvRaster<T>& op) {
  using A = acc_t<T>;
  const Partition sorted = partition(op);
  const int64_t S = op.S, tiles = op.N * op.P;
  const bool last = op.atlas.pixel > 1;
  const int64_t at_once = last ? op.C : std::min(op.C, kAtOnce);
  const int64_t row_bytes = (S + kTexels<A>)*(at_once + 1) * int64_t(sizeof(A));
  const int64_t rows = std::clamp<int64_t>(kBand / row_bytes, 1, S);
  const int64_t bands = (S + rows - 1) / rows;
  const int64_t piece = S * int64_t(sizeof(T)) * (last ? op.C : 1);
  const bool streamed = can_stream(piece, tiles * S * S * op.C * int64_t(sizeof(T)));
  const bool weight_streamed =
      can_stream(S * int64_t(sizeof(A)), tiles * S * S * int64_t(sizeof(A)));
  parallel(tiles * bands, 1, [&](int64_t begin, int64_t end) {
    Band<T> band;
    band.stride = S + kTexels<A>;
    band.channels_last = last;
    for (int64_t job = begin; job < end; ++job) {
      const int64_t tile = job / bands, n = tile / op.P;
      band.first = job % bands * rows;
      band.last = std::min(band.first + rows, S) - 1;
      const auto within = [&](const Record& r) {
        return r.first <= band.last && r.last >= band.first;
      };
      band.channel = 0;
      do {
        band.channels = std::min(at_once, op.C - band.channel);
        band.opened = band.splatted = false;
        for (int64_t i = sorted.begin[2 * tile]; i < sorted.begin[2 * tile + 1]; ++i)
          if (within(sorted.records[i]))
            draw_cell(op, n, sorted.records[i], band);
        for (int64_t i = sorted.begin[2 * tile + 1]; i < sorted.begin[2 * tile + 2]; ++i)
          if (within(sorted.records[i]))
            splat_pixel(op, n, sorted.records[i], band);
        finish(op, tile, band, streamed, weight_streamed);
        band.channel += band.channels;
      } while (band.channel < op.C);
    }
    stream_fence();
  });
}

template void uv_raster(const UvRaster<float>&);
template void uv_raster(const UvRaster<double>&);
template void uv_raster(const UvRaster<float16>&);
template void uv_raster(const UvRaster<bfloat16>&);

} // namespace pose_kernels::cpu
