// SPDX-License-Identifier: Apache-2.0
// The geometry of flow_warp for a small rectangle of the output at a time, in arrays: it is
// computed once for all channels, sixteen pixels to an instruction, and forward and backward read
// from it. Rectangles, not rows: a flow slopes, and what one row reads the next reads again.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../ops/flow_warp.h"
#include "lanes.h"
#include "parallel.h"

namespace pose_kernels::cpu {

constexpr int64_t kPiece = 512;   // pixels at most
constexpr int64_t kColumns = 128; // of a piece at most
constexpr int64_t kGroup = 4;     // pixels that are read together
constexpr int64_t kAhead = 64;    // pixels ahead of which planes are fetched into the cache

// Pixel i of a piece is (y0 + i / columns, x0 + i % columns).
struct FlowPiece {
  int64_t n, y0, x0, rows, columns;

  int64_t count() const { return rows * columns; }
};

// How outputs of h x w are cut.
struct FlowPieces {
  int64_t h, w, across, columns, rows, per_sample;

  FlowPieces(int64_t h, int64_t w)
      : h(h), w(w), across(std::max<int64_t>(1, (w + kColumns - 1) / kColumns)),
        columns(std::max<int64_t>(1, (w + across - 1) / across)),
        rows(std::max<int64_t>(1, std::min(h, kPiece / columns))),
        per_sample(w > 0 ? (h + rows - 1) / rows * across : 0) {}

  // Piece number `i`, those of a sample after each other.
  FlowPiece at(int64_t i) const {
    const int64_t n = i / per_sample, place = i % per_sample;
    const int64_t y0 = place / across * rows, x0 = place % across * columns;
    return {n, y0, x0, std::min(rows, h - y0), std::min(columns, w - x0)};
  }
};

// Units for one thread at least, where one takes about so many additions: small work stays in one.
inline int64_t grain_of(int64_t additions) {
  return std::max<int64_t>(1, 131072 / std::max<int64_t>(1, additions));
}

// Pixel i reads base[i], base[i] + 1 (`right` of them), and the same a row (`down`) below: taps 0
// to 3. Entries up to a full group are filled.
template <class A>
struct FlowTaps {
  int32_t base[kPiece + kAhead]; // the last ones are only asked for ahead
  int32_t row[kPiece];           // the upper one of the two
  int32_t side[kPiece];          // half of the output channels, -1: nowhere
  int32_t read[kPiece];          // bit k: tap k has a weight
  A weight[4][kPiece];
  A slope_x[4][kPiece], slope_y[4][kPiece]; // d weight / d flow, where asked for
  int right, down; // elements of a plane from a tap to its neighbors; 0: there is none
};

// What the geometry is computed from, in arrays of its own: compilers vectorize a choice between
// values that are there in any case, and no load under a condition.
template <class A>
struct FlowInputs {
  A x[kPiece], y[kPiece]; // the flow
  int32_t column[kPiece], row[kPiece];
  int32_t taken[kPiece];
};

template <class A, bool SLOPES>
ALWAYS_INLINE void weigh_taps(const FlowInputs<A>& in, int W, int H, bool border, int64_t count,
                              FlowTaps<A>& taps) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const A fx = in.x[i], fy = in.y[i];
    const bool taken = in.taken[i];
    const FlowPair<A> x = flow_pair(taken ? fx : A(0), in.column[i], W, border);
    const FlowPair<A> y = flow_pair(taken ? fy : A(0), in.row[i], H, border);
    const A one = taken ? A(1) : A(0);
    const A left = one * x.weight0, right = one * x.weight1;
    const A w0 = left * y.weight0, w1 = right * y.weight0;
    const A w2 = left * y.weight1, w3 = right * y.weight1;
    taps.row[i] = y.first;
    taps.base[i] = y.first * W + x.first;
    taps.weight[0][i] = w0;
    taps.weight[1][i] = w1;
    taps.weight[2][i] = w2;
    taps.weight[3][i] = w3;
    taps.read[i] =
        (w0 != A(0) ? 1 : 0) | (w1 != A(0) ? 2 : 0) | (w2 != A(0) ? 4 : 0) | (w3 != A(0) ? 8 : 0);
    if (SLOPES) {
      const A sx0 = one * x.slope0, sx1 = one * x.slope1;
      taps.slope_x[0][i] = sx0 * y.weight0;
      taps.slope_x[1][i] = sx1 * y.weight0;
      taps.slope_x[2][i] = sx0 * y.weight1;
      taps.slope_x[3][i] = sx1 * y.weight1;
      taps.slope_y[0][i] = left * y.slope0;
      taps.slope_y[1][i] = right * y.slope0;
      taps.slope_y[2][i] = left * y.slope1;
      taps.slope_y[3][i] = right * y.slope1;
    }
  }
}

template <class A, bool SLOPES>
VECTOR_CLONES void place_taps(const A* flow, const uint8_t* visibility, int mode, bool border,
                              int64_t h, int64_t w, int H, int W, const FlowPiece& piece,
                              FlowTaps<A>& taps) {
  const int64_t columns = std::min(piece.columns, kColumns), count = piece.rows * columns;
  FlowInputs<A> in;
  for (int64_t r = 0; r < piece.rows; ++r) {
    const int64_t at = (piece.y0 + r) * w + piece.x0, i = r * columns;
    const A* from = flow + piece.n * 2 * h * w + at;
    memcpy(in.x + i, from, size_t(columns) * sizeof(A));
    memcpy(in.y + i, from + h * w, size_t(columns) * sizeof(A));
    for (int64_t k = 0; k < columns; ++k) {
      in.column[i + k] = int32_t(piece.x0 + k);
      in.row[i + k] = int32_t(piece.y0 + r);
    }
    if (mode != kFlowPlain) {
      const uint8_t* seen = visibility + piece.n * h * w + at;
      for (int64_t k = 0; k < columns; ++k)
        taps.side[i + k] = flow_side(seen, k, mode);
    }
  }
  if (mode == kFlowPlain)
    memset(taps.side, 0, size_t(count) * sizeof taps.side[0]);
  for (int64_t i = 0; i < count; ++i)
    in.taken[i] = flow_finite(in.x[i], in.y[i]) ? taps.side[i] >= 0 : 0;
  taps.right = W > 1 ? 1 : 0;
  taps.down = H > 1 ? W : 0;
  if (border) // the constant leaves no branch in the loop
    weigh_taps<A, SLOPES>(in, W, H, true, count, taps);
  else
    weigh_taps<A, SLOPES>(in, W, H, false, count, taps);

  const int64_t full = (count + kGroup - 1) / kGroup * kGroup;
  for (int64_t i = count; i < full; ++i) {
    taps.base[i] = 0, taps.side[i] = -1, taps.read[i] = 0;
    for (int k = 0; k < 4; ++k)
      taps.weight[k][i] = taps.slope_x[k][i] = taps.slope_y[k][i] = 0;
  }
}

// ---- pairs of neighbors in a plane of float: one load each

using four_t = lanes_t<float, 4>;
using mask_t = lanes_t<int32_t, 4>;
using couple_t = lanes_t<double, 2>; // the bits of two pairs

ALWAYS_INLINE double couple(const float* at) {
  double bits;
  memcpy(&bits, at, sizeof bits);
  return bits;
}

// The values at four places, and those to the right of them. Not more at a time: the places stay in
// registers for the next plane, and the loads are what takes time.
ALWAYS_INLINE void load_pairs(const float* plane, const int64_t* base, four_t& left,
                              four_t& right) {
  const couple_t a = {couple(plane + base[0]), couple(plane + base[1])};
  const couple_t b = {couple(plane + base[2]), couple(plane + base[3])};
  left = __builtin_shufflevector((four_t)a, (four_t)b, 0, 2, 4, 6);
  right = __builtin_shufflevector((four_t)a, (four_t)b, 1, 3, 5, 7);
}

} // namespace pose_kernels::cpu
