// SPDX-License-Identifier: Apache-2.0
// The texels that a triangle covers, row by row. Along a row every weight is linear, so the covered
// texels are one stretch; its ends come from a multiplication, and from the exact test of
// math/atlas_triangle.h wherever rounding could move them.
#pragma once

#include <algorithm>
#include <type_traits>

#include "../math/atlas_triangle.h"
#include "lanes.h"

namespace pose_kernels::cpu {

// Vectors of 32 bytes: registers of AVX2, and AVX-512 has them too.
template <class A>
constexpr int kTexels = 32 / int(sizeof(A));
template <class A>
using texels_t = lanes_t<A, kTexels<A>>;

struct TriangleRow {
  int first, count; // columns first .. first + count - 1 are covered
  double w[3];      // the vertices' weights at the first
};

class TriangleRows {
public:
  double slope[3]; // of the weights, along a row

  explicit TriangleRows(const AtlasTriangle& triangle, int S) : t(triangle) {
    slope[1] = t.fy * t.inverse;
    slope[2] = -t.ey * t.inverse;
    slope[0] = (t.ey - t.fy) * t.inverse;
    // A weight is right to a few 2^-52 S^2 inverse, the end of a row to that over the slope.
    const double error = 64 * 2.3e-16 * double(S) * S * std::fabs(t.inverse) + 1e-12;
    for (int i = 0; i < 3; ++i) {
      level[i] = slope[i] == 0; // all of a row is on one side of a level edge
      run[i] = level[i] ? 0 : 1 / slope[i];
      doubt = std::max(doubt, error * std::fabs(run[i]));
    }
    level_doubt = error;
    exact = !(doubt < 0.25);
  }

  // Row y; false where none of it is covered.
  ALWAYS_INLINE bool at(int y, TriangleRow& row) const {
    const double dx = t.x0 - t.x, dy = y - t.y;
    double w[3];
    w[1] = (dx * t.fy - t.fx * dy) * t.inverse;
    w[2] = (t.ex * dy - dx * t.ey) * t.inverse;
    w[0] = 1 - w[1] - w[2];
    if (exact)
      return search(y, row);
    double low = 0, high = t.x1 - t.x0; // relative to column x0
    for (int i = 0; i < 3; ++i) {
      const double missing = kLeastWeight - w[i], end = missing * run[i];
      low = slope[i] > 0 && end > low ? end : low;
      high = slope[i] < 0 && end < high ? end : high;
      if (level[i]) {
        if (std::fabs(missing) < level_doubt)
          return search(y, row);
        high = missing > 0 ? -1 : high;
      }
    }
    if (!(low <= high + 2 * doubt))
      return false;
    const int first = int(low) + (low > int(low)), last = high >= 0 ? int(high) : -1;
    const double before = first - low, behind = high - last;
    if ((low > 0 && (before < doubt || before > 1 - doubt)) ||
        (high < t.x1 - t.x0 && (behind < doubt || behind > 1 - doubt)))
      return search(y, row);
    if (first > last)
      return false;
    return found(y, t.x0 + first, t.x0 + last, row);
  }

private:
  const AtlasTriangle& t;
  double run[3]; // texels per unit of a weight
  double doubt = 0, level_doubt = 0;
  bool level[3], exact;

  ALWAYS_INLINE bool found(int y, int first, int last, TriangleRow& row) const {
    row.first = first;
    row.count = last - first + 1;
    t.weights(first, y, row.w);
    return true;
  }

  bool search(int y, TriangleRow& row) const {
    double w[3];
    int first = t.x0, last = t.x1;
    while (first <= last && !t.weights(first, y, w))
      ++first;
    while (last > first && !t.weights(last, y, w))
      --last;
    return first <= last && found(y, first, last, row);
  }
};

// All bits of `count` texels, then none.
template <class A>
ALWAYS_INLINE auto first_texels(int count) {
  using Bits = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  constexpr int L = kTexels<A>;
  alignas(32) static const Bits edge[2 * L] = {
      -1, -1, -1, -1, L > 4 ? -1 : 0, L > 4 ? -1 : 0, L > 4 ? -1 : 0, L > 4 ? -1 : 0};
  return load<Bits, L>(edge + L - (count < L ? count : L));
}

// `value` where the bits are set, 0 elsewhere, whatever it is there.
template <class V, class Bits>
ALWAYS_INLINE V only(V value, Bits bits) {
  return (V)((Bits)value & bits);
}

// A vector of texels, of which `room` may be read.
template <class T>
ALWAYS_INLINE texels_t<acc_t<T>> load_texels(const T* from, int64_t room) {
  using A = acc_t<T>;
  constexpr int L = kTexels<A>;
  T near[L] = {};
  if (room < L) {
    for (int64_t j = 0; j < room; ++j)
      near[j] = from[j];
    from = near;
  }
  A wide[L];
  for (int j = 0; j < L; ++j)
    wide[j] = widen(from[j]);
  return load<A, L>(wide);
}

} // namespace pose_kernels::cpu
