// SPDX-License-Identifier: Apache-2.0
// flow_warp on the CPU.
//
// Pieces of the output are independent. A piece's geometry is computed once, into arrays
// (flow_rows.h), the visibility with it: what is gated away has no taps and costs nothing. Then,
// contiguous, a few planes at a time, which share addresses and weights: two neighbors in a row
// come with one load, and eight pixels make vectors of left and of right neighbors. Channels last,
// pixel by pixel: the taps are runs of channels. Large outputs are streamed past the cache.
// "expand" writes its two halves from what was read once.

#include "../ops/flow_warp.h"

#include <memory>
#include <vector>

#include "flow_rows.h"
#include "memory.h"

namespace pose_kernels::cpu {
namespace {

// Four pixels of K planes of float. Where not all taps are read, the others are replaced by -0, the
// number that changes no sum; a pixel without any becomes +0.
template <int K, bool SOME>
ALWAYS_INLINE void read_four(const float* plane, int64_t source, const FlowTaps<float>& taps,
                             int64_t i, float* to, int64_t step) {
  four_t weight[4];
  mask_t read[4], any = {};
  for (int k = 0; k < 4; ++k) {
    weight[k] = load<float, 4>(taps.weight[k] + i);
    if (SOME) {
      read[k] = load<int32_t, 4>(taps.read + i) << (31 - k) >> 31;
      any |= read[k];
    }
  }
  const int64_t base[4] = {taps.base[i], taps.base[i + 1], taps.base[i + 2], taps.base[i + 3]};
  const float* lower = plane + taps.down;
  for (int p = 0; p < K; ++p, plane += source, lower += source, to += step) {
    __builtin_prefetch(lower + taps.base[i + kAhead]); // mostly the next row: the upper was read
    four_t tap[4];
    load_pairs(plane, base, tap[0], tap[1]);
    load_pairs(lower, base, tap[2], tap[3]);
    if (SOME)
      for (int k = 0; k < 4; ++k)
        tap[k] = (four_t)(((mask_t)tap[k] & read[k]) | (~read[k] & INT32_MIN));
    four_t sum = weight[0] * tap[0];
    for (int k = 1; k < 4; ++k)
      sum += weight[k] * tap[k];
    store(to, SOME ? (four_t)((mask_t)sum & any) : sum);
  }
}

// Pixels [begin, end) of a piece, of K planes: to `to`, from plane to plane `step` elements. Writes
// full groups.
template <int K>
VECTOR_CLONES void read_pairs(const float* plane, int64_t source, const FlowTaps<float>& taps,
                              int64_t begin, int64_t end, float* to, int64_t step) {
  for (int64_t i = begin; i < end; i += kGroup, to += kGroup) {
    uint64_t read[2]; // of two pixels each
    memcpy(read, taps.read + i, sizeof read);
    if ((read[0] & read[1]) == 0x0000000f0000000f)
      read_four<K, false>(plane, source, taps, i, to, step);
    else if (read[0] | read[1])
      read_four<K, true>(plane, source, taps, i, to, step);
    else
      for (int p = 0; p < K; ++p)
        store(to + p * step, four_t{});
  }
}

// The same of one plane of any type.
template <class T>
VECTOR_CLONES void read_one_by_one(const T* plane, const FlowTaps<acc_t<T>>& taps, int64_t begin,
                                   int64_t end, T* to) {
  using A = acc_t<T>;
  for (int64_t i = begin; i < end; ++i) {
    const T* at = plane + taps.base[i];
    const T value[4] = {at[0], at[taps.right], at[taps.down], at[taps.down + taps.right]};
    A sum = A(-0.0);
    for (int k = 0; k < 4; ++k)
      sum += taps.read[i] >> k & 1 ? taps.weight[k][i] * widen(value[k]) : A(-0.0);
    *to++ = narrow<T>(taps.read[i] ? sum : A(0));
  }
}

// Planes that are read together, where `left` are left.
template <class T>
int64_t together(const FlowTaps<acc_t<T>>& taps, int64_t left) {
  return !std::is_same_v<T, float> || !taps.right ? 1 : left >= 4 ? 4 : left == 3 ? 3 : 1;
}

template <class T>
void read_planes(int64_t count, const T* plane, int64_t source, const FlowTaps<acc_t<T>>& taps,
                 int64_t begin, int64_t end, T* to, int64_t step) {
  if constexpr (std::is_same_v<T, float>)
    if (taps.right) {
      const auto read = count == 4 ? read_pairs<4> : count == 3 ? read_pairs<3> : read_pairs<1>;
      return read(plane, source, taps, begin, end, to, step);
    }
  read_one_by_one(plane, taps, begin, end, to);
}

// From an array of a piece to rows `step` elements apart.
template <class T>
void put(T* to, int64_t step, const T* from, int64_t rows, int64_t length, bool streamed) {
  for (int64_t r = 0; r < rows; ++r, to += step, from += length)
    if (streamed)
      stream_anywhere(to, from, length * int64_t(sizeof(T)));
    else
      memcpy(static_cast<void*>(to), from, size_t(length) * sizeof(T));
}

template <class T>
void warp_planes(const FlowWarp<T>& op, const FlowPiece& piece, const FlowTaps<acc_t<T>>& taps,
                 bool streamed) {
  const int64_t source = op.H * op.W, pixels = op.h * op.w, count = piece.count();
  const T* image = op.image.data + piece.n * op.C * source;
  const bool expand = op.mode == kFlowExpand;
  T* out = op.out.data + piece.n * op.C * (expand ? 2 : 1) * pixels + piece.y0 * op.w + piece.x0;
  const bool direct = !expand && !streamed && piece.columns % kGroup == 0;
  alignas(64) T lines[4][kPiece], half[kPiece];
  for (int64_t c = 0, planes; c < op.C; c += planes) {
    planes = together<T>(taps, op.C - c);
    const T* from = image + c * source;
    T* to = out + c * pixels;
    if (direct) {
      for (int64_t i = 0; i < count; i += piece.columns, to += op.w)
        read_planes(planes, from, source, taps, i, i + piece.columns, to, pixels);
      continue;
    }
    read_planes(planes, from, source, taps, 0, count, lines[0], kPiece);
    for (int64_t p = 0; p < planes; ++p, to += pixels) {
      if (!expand) {
        put(to, op.w, lines[p], piece.rows, piece.columns, streamed);
        continue;
      }
      for (int side = 0; side < 2; ++side) {
        for (int64_t i = 0; i < count; ++i)
          half[i] = taps.side[i] == side ? lines[p][i] : T{};
        put(to + side * op.C * pixels, op.w, half, piece.rows, piece.columns, streamed);
      }
    }
  }
}

// The pixels of a piece of a float image of three channels, channels last: two neighbors are six
// values, and both lie in vectors of four that end where they end. The fourth value of a sum is
// nothing; the next pixel is stored over it.
VECTOR_CLONES void read_colors(const float* image, const FlowTaps<float>& taps, int64_t count,
                               float* line) {
  for (int64_t i = 0; i < count; ++i) {
    const float* upper = image + 3 * int64_t(taps.base[i]);
    const float* at[2] = {upper, upper + 3 * int64_t(taps.down)};
    if (i % kGroup == 0)
      __builtin_prefetch(image + 3 * int64_t(taps.base[i + kAhead] + taps.down));
    four_t tap[4];
    for (int row = 0; row < 2; ++row) {
      const four_t right = load<float, 4>(at[row] + 2);
      tap[2 * row] = load<float, 4>(at[row]);
      tap[2 * row + 1] = __builtin_shufflevector(right, right, 1, 2, 3, 3);
    }
    const int read = taps.read[i];
    four_t sum;
    if (read == 15) {
      sum = taps.weight[0][i] * tap[0];
      for (int k = 1; k < 4; ++k)
        sum += taps.weight[k][i] * tap[k];
    } else {
      const float start = read ? -0.0f : 0.0f; // -0 changes no sum
      sum = four_t{start, start, start, start};
      for (int k = 0; k < 4; ++k)
        if (read >> k & 1)
          sum += taps.weight[k][i] * tap[k];
    }
    store(line + 3 * i, sum);
  }
}

template <class T, int TAPS>
ALWAYS_INLINE void sum_taps(const T* const* at, const acc_t<T>* w, int64_t C, T* out) {
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    acc_t<T> sum = w[0] * widen(at[0][c]);
    for (int k = 1; k < TAPS; ++k)
      sum += w[k] * widen(at[k][c]);
    out[c] = narrow<T>(sum);
  }
}

// Channels last, pixel by pixel: the taps that have a weight.
template <class T>
VECTOR_CLONES void warp_pixels(const FlowWarp<T>& op, const FlowPiece& piece,
                               const FlowTaps<acc_t<T>>& taps, T* buffer, bool streamed) {
  using A = acc_t<T>;
  const bool expand = op.mode == kFlowExpand;
  const int64_t C = op.C, wide = expand ? 2 * C : C, columns = piece.columns;
  const T* image = op.image.data + piece.n * op.H * op.W * C;
  T* out = op.out.data + ((piece.n * op.h + piece.y0) * op.w + piece.x0) * wide;
  if constexpr (std::is_same_v<T, float>)
    if (C == 3 && !expand && taps.right) {
      alignas(64) float line[3 * kPiece + 1];
      read_colors(image, taps, piece.rows * columns, line);
      put(out, 3 * op.w, line, piece.rows, 3 * columns, streamed);
      return;
    }
  for (int64_t i = 0; i < piece.rows * columns; ++i, out += wide) {
    if (i && i % columns == 0)
      out += (op.w - columns) * wide;
    T* row = streamed ? buffer : out;
    if (expand || !taps.read[i])
      memset(static_cast<void*>(row), 0, size_t(wide) * sizeof(T));
    if (!taps.read[i]) {
      if (streamed)
        stream_anywhere(out, row, wide * int64_t(sizeof(T)));
      continue;
    }
    const T* at[4];
    A w[4];
    int count = 0;
    for (int k = 0; k < 4; ++k) {
      at[count] = image + (taps.base[i] + k / 2 * taps.down + k % 2 * taps.right) * C;
      w[count] = taps.weight[k][i];
      count += taps.read[i] >> k & 1;
    }
    T* to = row + (taps.side[i] == 1 ? C : 0);
    if (count == 4 && C == 3) // colors: no loop
      sum_taps<T, 4>(at, w, 3, to);
    else if (count == 4)
      sum_taps<T, 4>(at, w, C, to);
    else if (count == 3)
      sum_taps<T, 3>(at, w, C, to);
    else if (count == 2)
      sum_taps<T, 2>(at, w, C, to);
    else
      sum_taps<T, 1>(at, w, C, to);
    if (streamed)
      stream_anywhere(out, row, wide * int64_t(sizeof(T)));
  }
}

} // namespace

template <class T>
void flow_warp(const FlowWarp<T>& op) {
  using A = acc_t<T>;
  const int64_t channels = op.mode == kFlowExpand ? 2 * op.C : op.C;
  const bool streamed = op.N * channels * op.h * op.w * int64_t(sizeof(T)) >= kStreamBytes;
  if (channels == 0)
    return;
  const FlowPieces pieces(op.h, op.w);
  const int64_t grain = grain_of(pieces.rows * pieces.columns * 4 * (op.C + 4));
  parallel(op.N * pieces.per_sample, grain, [&](int64_t begin, int64_t end) {
    const auto taps = std::make_unique<FlowTaps<A>>();
    std::vector<T> buffer(op.out.pixel > 1 ? channels : 0);
    for (int64_t i = begin; i < end; ++i) {
      const FlowPiece piece = pieces.at(i);
      place_taps<A, false>(op.flow, op.visibility, op.mode, op.border, op.h, op.w, int(op.H),
                           int(op.W), piece, *taps);
      if (op.out.pixel > 1)
        warp_pixels(op, piece, *taps, buffer.data(), streamed);
      else
        warp_planes(op, piece, *taps, streamed);
    }
    stream_fence();
  });
}

template void flow_warp(const FlowWarp<float>&);
template void flow_warp(const FlowWarp<double>&);
template void flow_warp(const FlowWarp<float16>&);
template void flow_warp(const FlowWarp<bfloat16>&);

} // namespace pose_kernels::cpu
