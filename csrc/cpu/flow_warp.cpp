// SPDX-License-Identifier: Apache-2.0
// flow_warp on the CPU.
//
// Pieces of output rows are independent. A piece's geometry is computed once, into arrays
// (flow_rows.h), the visibility with it: what is gated away has no taps and costs nothing. Then,
// contiguous, plane by plane: two neighbors in a row come with one load, eight pixels make a vector
// of pairs, and a sum over a pair is a shift and an addition. Channels last, pixel by pixel: the
// taps are runs of channels. Large outputs are streamed past the cache. "expand" writes its two
// halves from the same registers.

#include "../ops/flow_warp.h"

#include <memory>
#include <vector>

#include "flow_rows.h"
#include "memory.h"

namespace pose_kernels::cpu {
namespace {

// Eight pixels of one plane of float. Where not all taps are read, the others are replaced by -0,
// the number that changes no sum; a pixel without any becomes +0.
template <bool SOME>
ALWAYS_INLINE eight_t read_eight(const float* plane, const FlowTaps<float>& taps, int64_t i) {
  pairs_t top = load_pairs(plane, taps.base + i);
  pairs_t bottom = load_pairs(plane + taps.down, taps.base + i);
  const pairs_t w0 = load<float, 16>(taps.weight[0] + 2 * i);
  const pairs_t w1 = load<float, 16>(taps.weight[1] + 2 * i);
  if (!SOME) {
    const pairs_t sum = top * w0 + bottom * w1;
    return left_of(sum) + right_of(sum);
  }
  typedef int32_t mask_t __attribute__((vector_size(64)));
  typedef int32_t eight_mask_t __attribute__((vector_size(32)));
  const mask_t sign = (mask_t){} + INT32_MIN;
  mask_t read0, read1;
  memcpy(&read0, taps.read[0] + 2 * i, sizeof read0);
  memcpy(&read1, taps.read[1] + 2 * i, sizeof read1);
  top = (pairs_t)(((mask_t)top & read0) | (sign & ~read0));
  bottom = (pairs_t)(((mask_t)bottom & read1) | (sign & ~read1));
  const pairs_t sum = top * w0 + bottom * w1;
  const pairs_t any = (pairs_t)(read0 | read1);
  const eight_mask_t keep = (eight_mask_t)left_of(any) | (eight_mask_t)right_of(any);
  return (eight_t)((eight_mask_t)(left_of(sum) + right_of(sum)) & keep);
}

// The same for one pixel of any type.
template <class T>
ALWAYS_INLINE acc_t<T> read_one(const T* plane, const FlowTaps<acc_t<T>>& taps, int64_t i) {
  using A = acc_t<T>;
  const T* at = plane + taps.base[i];
  const T value[4] = {at[0], at[taps.right], at[taps.down], at[taps.down + taps.right]};
  A sum = A(-0.0), read = 0;
  for (int k = 0; k < 4; ++k) {
    const A w = taps.weight[k / 2][2 * i + k % 2];
    sum += w != A(0) ? w * widen(value[k]) : A(-0.0);
    read += w;
  }
  return read != A(0) ? sum : A(0);
}

// One plane of a piece: `line` holds full groups.
template <class T>
VECTOR_CLONES void read_line(const T* plane, const FlowTaps<acc_t<T>>& taps, int64_t count,
                             T* line) {
  for (int64_t i = 0; i < count; i += kGroup) {
    const Reads reads = taps.reads[i / kGroup];
    if (reads == Reads::nothing) {
      memset(static_cast<void*>(line + i), 0, kGroup * sizeof(T));
      continue;
    }
    if constexpr (std::is_same_v<T, float>) {
      if (taps.right) {
        store(line + i, reads == Reads::all ? read_eight<false>(plane, taps, i)
                                            : read_eight<true>(plane, taps, i));
        continue;
      }
    }
    for (int64_t k = i; k < i + kGroup; ++k)
      line[k] = narrow<T>(read_one(plane, taps, k));
  }
}

template <class T>
void put(T* to, const T* from, int64_t count, bool streamed) {
  if (streamed)
    stream_anywhere(to, from, count * int64_t(sizeof(T)));
  else
    memcpy(static_cast<void*>(to), from, size_t(count) * sizeof(T));
}

template <class T>
void warp_planes(const FlowWarp<T>& op, const FlowPiece& piece, const FlowTaps<acc_t<T>>& taps,
                 bool streamed) {
  const int64_t source = op.H * op.W, pixels = op.h * op.w;
  const T* image = op.image.data + piece.n * op.C * source;
  const bool expand = op.mode == kFlowExpand;
  T* out = op.out.data + piece.n * op.C * (expand ? 2 : 1) * pixels + piece.y * op.w + piece.x0;
  alignas(64) T line[kPiece], half[2][kPiece];
  for (int64_t c = 0; c < op.C; ++c) {
    read_line(image + c * source, taps, piece.count, line);
    if (!expand) {
      put(out + c * pixels, line, piece.count, streamed);
      continue;
    }
    for (int64_t i = 0; i < piece.count; ++i) {
      half[0][i] = taps.side[i] == 0 ? line[i] : T{};
      half[1][i] = taps.side[i] == 1 ? line[i] : T{};
    }
    put(out + c * pixels, half[0], piece.count, streamed);
    put(out + (op.C + c) * pixels, half[1], piece.count, streamed);
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

// One pixel, channels last: the taps that have a weight.
template <class T>
VECTOR_CLONES void warp_pixels(const FlowWarp<T>& op, const FlowPiece& piece,
                               const FlowTaps<acc_t<T>>& taps, T* buffer, bool streamed) {
  using A = acc_t<T>;
  const bool expand = op.mode == kFlowExpand;
  const int64_t C = op.C, wide = expand ? 2 * C : C;
  const T* image = op.image.data + piece.n * op.H * op.W * C;
  T* out = op.out.data + ((piece.n * op.h + piece.y) * op.w + piece.x0) * wide;
  for (int64_t i = 0; i < piece.count; ++i, out += wide) {
    T* row = streamed ? buffer : out;
    if (expand || !taps.any[i])
      memset(static_cast<void*>(row), 0, size_t(wide) * sizeof(T));
    if (!taps.any[i]) {
      if (streamed)
        stream_anywhere(out, row, wide * int64_t(sizeof(T)));
      continue;
    }
    const T* at[4];
    A w[4];
    int count = 0;
    for (int k = 0; k < 4; ++k) {
      const A weight = taps.weight[k / 2][2 * i + k % 2];
      at[count] = image + (taps.base[i] + k / 2 * taps.down + k % 2 * taps.right) * C;
      w[count] = weight;
      count += weight != A(0);
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
  const int64_t grain = grain_of(std::min(kPiece, op.w) * 4 * (op.C + 4));
  parallel(FlowPiece::number(op.N, op.h, op.w), grain, [&](int64_t begin, int64_t end) {
    const auto taps = std::make_unique<FlowTaps<A>>();
    std::vector<T> buffer(op.out.pixel > 1 ? channels : 0);
    for (int64_t i = begin; i < end; ++i) {
      const FlowPiece piece = FlowPiece::at(i, op.h, op.w);
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
