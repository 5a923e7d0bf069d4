// SPDX-License-Identifier: Apache-2.0
// The geometry of flow_warp for a piece of one output row at a time, in arrays: it is computed once
// for all channels, sixteen pixels to an instruction, and forward and backward read from it.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../ops/flow_warp.h"
#include "lanes.h"
#include "parallel.h"

namespace pose_kernels::cpu {

constexpr int64_t kPiece = 256; // pixels
constexpr int64_t kGroup = 8;   // pixels that one vector of pairs of neighbors serves

// A piece of `count` pixels of row y from x0 on.
struct FlowPiece {
  int64_t n, y, x0, count;

  // Number `i` in an output of `w` columns and `h` rows.
  static FlowPiece at(int64_t i, int64_t h, int64_t w) {
    const int64_t per_row = (w + kPiece - 1) / kPiece, row = i / per_row;
    const int64_t x0 = i % per_row * kPiece;
    return {row / h, row % h, x0, std::min(kPiece, w - x0)};
  }
  static int64_t number(int64_t N, int64_t h, int64_t w) {
    return N * h * ((w + kPiece - 1) / kPiece);
  }
};

// Units for one thread at least, where one takes about so many additions: small work stays in one.
inline int64_t grain_of(int64_t additions) {
  return std::max<int64_t>(1, 131072 / std::max<int64_t>(1, additions));
}

enum class Reads : uint8_t { nothing, some, all }; // of the four taps of a group's pixels

// Pixel i reads base[i], base[i] + 1 (`right` of them), and the same a row (`down`) below, weights
// weight[0][2 i], [2 i + 1] and weight[1][2 i], [2 i + 1]. Entries up to a full group are filled.
template <class A>
struct FlowTaps {
  int32_t base[kPiece], row[kPiece]; // row: the upper one of the two
  A weight[2][2 * kPiece];
  int32_t read[2][2 * kPiece]; // -1 where the weight is not 0, for groups that read some
  A slope_x[2][2 * kPiece], slope_y[2][2 * kPiece]; // d weight / d flow, where asked for
  int8_t side[kPiece];                              // half of the output channels, -1: nowhere
  alignas(8) uint8_t any[kPiece], all[kPiece];      // of the four taps: 1 where they have a weight
  Reads reads[kPiece / kGroup];
  int right, down; // elements of a plane from a tap to its neighbors; 0: there is none
};

// One axis of a piece: pixel i has index `index + i step`. A pixel that is not taken has nothing.
template <class A>
struct FlowAxis {
  int32_t first[kPiece];
  A weight0[kPiece], weight1[kPiece], slope0[kPiece], slope1[kPiece];
};

template <bool SLOPES, class A>
ALWAYS_INLINE void place_axis(const A* flow, const int32_t* taken, int index, int step, int size,
                              bool border, int64_t count, FlowAxis<A>& axis) {
  A finite[kPiece], one[kPiece]; // arrays again: compilers vectorize no load under a condition
  for (int64_t i = 0; i < count; ++i) {
    const A f = flow[i];
    finite[i] = taken[i] ? f : A(0);
    one[i] = A(taken[i]);
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const FlowPair<A> pair = flow_pair(finite[i], index + int(i) * step, size, border);
    axis.first[i] = pair.first;
    axis.weight0[i] = one[i] * pair.weight0;
    axis.weight1[i] = one[i] * pair.weight1;
    if (SLOPES) {
      axis.slope0[i] = one[i] * pair.slope0;
      axis.slope1[i] = one[i] * pair.slope1;
    }
  }
}

template <class A, bool SLOPES>
VECTOR_CLONES void place_taps(const A* flow, const uint8_t* visibility, int mode, bool border,
                              int64_t h, int64_t w, int H, int W, const FlowPiece& piece,
                              FlowTaps<A>& taps) {
  const int64_t at = piece.y * w + piece.x0, count = std::min(piece.count, kPiece);
  const A* flow_x = flow + piece.n * 2 * h * w + at;
  const A* flow_y = flow_x + h * w;
  taps.right = W > 1 ? 1 : 0;
  taps.down = H > 1 ? W : 0;
  int32_t taken[kPiece];
  for (int64_t i = 0; i < count; ++i)
    taken[i] = flow_finite(flow_x[i], flow_y[i]);
  if (mode == kFlowPlain) {
    memset(taps.side, 0, sizeof taps.side);
  } else {
    const uint8_t* seen = visibility + piece.n * h * w + at;
    for (int64_t i = 0; i < count; ++i) {
      const int side = flow_side(seen, i, mode);
      taps.side[i] = int8_t(side);
      taken[i] = side >= 0 ? taken[i] : 0;
    }
  }
  FlowAxis<A> x, y;
  if (border) { // the constant leaves no branch in the loop
    place_axis<SLOPES>(flow_x, taken, int(piece.x0), 1, W, true, count, x);
    place_axis<SLOPES>(flow_y, taken, int(piece.y), 0, H, true, count, y);
  } else {
    place_axis<SLOPES>(flow_x, taken, int(piece.x0), 1, W, false, count, x);
    place_axis<SLOPES>(flow_y, taken, int(piece.y), 0, H, false, count, y);
  }
  const A *wx0 = x.weight0, *wx1 = x.weight1, *wy0 = y.weight0, *wy1 = y.weight1;
  const A *sx0 = x.slope0, *sx1 = x.slope1, *sy0 = y.slope0, *sy1 = y.slope1;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    taps.row[i] = y.first[i];
    taps.base[i] = y.first[i] * W + x.first[i];
  }
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    taps.weight[0][2 * i] = wx0[i] * wy0[i];
    taps.weight[0][2 * i + 1] = wx1[i] * wy0[i];
    taps.weight[1][2 * i] = wx0[i] * wy1[i];
    taps.weight[1][2 * i + 1] = wx1[i] * wy1[i];
  }
  for (int64_t i = 0; i < count; ++i) {
    const A left = wx0[i], right = wx1[i], upper = wy0[i], lower = wy1[i];
    const A a = left * upper, b = right * upper, c = left * lower, d = right * lower;
    taps.any[i] = a + b + c + d != A(0);
    taps.all[i] = (a != A(0)) & (b != A(0)) & (c != A(0)) & (d != A(0));
  }
  if (SLOPES) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      taps.slope_x[0][2 * i] = sx0[i] * wy0[i];
      taps.slope_x[0][2 * i + 1] = sx1[i] * wy0[i];
      taps.slope_x[1][2 * i] = sx0[i] * wy1[i];
      taps.slope_x[1][2 * i + 1] = sx1[i] * wy1[i];
      taps.slope_y[0][2 * i] = wx0[i] * sy0[i];
      taps.slope_y[0][2 * i + 1] = wx1[i] * sy0[i];
      taps.slope_y[1][2 * i] = wx0[i] * sy1[i];
      taps.slope_y[1][2 * i + 1] = wx1[i] * sy1[i];
    }
  }
  const int64_t full = (count + kGroup - 1) / kGroup * kGroup;
  for (int64_t i = count; i < full; ++i) {
    taps.base[i] = 0, taps.side[i] = -1, taps.any[i] = taps.all[i] = 0;
    for (int j = 0; j < 2; ++j)
      for (int64_t k = 2 * i; k < 2 * i + 2; ++k)
        taps.weight[j][k] = taps.slope_x[j][k] = taps.slope_y[j][k] = 0;
  }
  for (int64_t g = 0; g < full / kGroup; ++g) {
    uint64_t any, all;
    memcpy(&any, taps.any + g * kGroup, sizeof any);
    memcpy(&all, taps.all + g * kGroup, sizeof all);
    taps.reads[g] = any == 0                       ? Reads::nothing
                    : all == 0x0101010101010101ull ? Reads::all
                                                   : Reads::some;
    if (taps.reads[g] == Reads::some)
      for (int64_t k = 2 * g * kGroup; k < 2 * (g + 1) * kGroup; ++k) {
        taps.read[0][k] = taps.weight[0][k] != A(0) ? -1 : 0;
        taps.read[1][k] = taps.weight[1][k] != A(0) ? -1 : 0;
      }
  }
}

// ---- pairs of neighbors in a plane of float: one load each

typedef float pairs_t __attribute__((vector_size(64)));    // 8 pairs (left, right)
typedef double couples_t __attribute__((vector_size(64))); // the same bits, to load a pair at once
typedef uint64_t words_t __attribute__((vector_size(64)));
typedef uint32_t halves_t __attribute__((vector_size(32)));
typedef float eight_t __attribute__((vector_size(32)));

ALWAYS_INLINE double couple(const float* at) {
  double bits;
  memcpy(&bits, at, sizeof bits);
  return bits;
}

ALWAYS_INLINE pairs_t load_pairs(const float* plane, const int32_t* base) {
  const couples_t loaded = {couple(plane + base[0]), couple(plane + base[1]),
                            couple(plane + base[2]), couple(plane + base[3]),
                            couple(plane + base[4]), couple(plane + base[5]),
                            couple(plane + base[6]), couple(plane + base[7])};
  return (pairs_t)loaded;
}

ALWAYS_INLINE eight_t left_of(pairs_t pairs) {
  return (eight_t) __builtin_convertvector((words_t)pairs, halves_t);
}
ALWAYS_INLINE eight_t right_of(pairs_t pairs) {
  return (eight_t) __builtin_convertvector((words_t)pairs >> 32, halves_t);
}
ALWAYS_INLINE pairs_t twice(eight_t values) {
  const words_t wide = __builtin_convertvector((halves_t)values, words_t);
  return (pairs_t)(wide | wide << 32);
}

} // namespace pose_kernels::cpu
