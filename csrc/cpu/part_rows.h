// SPDX-License-Identifier: Apache-2.0
// Which output voxels of a row a part reaches, and what it reads there.
//
// A part can only reach an output voxel whose source position lies within one voxel of the box
// around the part's mask. A source position is affine in x, so that box leaves one interval of
// every output row, and one range of rows of every slab. Inside the interval the geometry is
// computed for all x at once, into arrays.
#pragma once

#include <algorithm>
#include <vector>

#include "../math/trilinear.h"
#include "lanes.h"
#include "parallel.h"

namespace pose_kernels::cpu {

struct VolumeSize {
  int64_t x, y, z;

  int64_t voxels() const { return x * y * z; }
};

template <class Op>
VolumeSize size_of(const Op& op) {
  return {op.W, op.H, op.D};
}

// Voxels of a part's mask that are not 0; high < low: there is none.
struct PartBox {
  int low[3], high[3]; // x, y, z
};

struct Interval {
  int64_t first, last; // inclusive; last < first: empty
  bool empty() const { return last < first; }
};

// One part of one sample: its map, where it has anything, and the mask.
template <class A>
struct Part {
  int index;
  const A* map; // [3, 4]
  PartBox box;
  const int32_t* bits; // [D, H, W], or null
  const A* mask;       // [D, H, W], or null

  // Where low < a x + b < high, widened by the rounding of a x + b.
  static Interval solve(double a, double b, double low, double high, int64_t size) {
    const double margin = 1e-5 * (1 + (a < 0 ? -a : a) * double(size) + (b < 0 ? -b : b));
    low -= margin, high += margin;
    if (a > -1e-9 && a < 1e-9) {
      const double reach = 1e-9 * double(size);
      return b + reach > low && b - reach < high ? Interval{0, size - 1} : Interval{0, -1};
    }
    double from = (low - b) / a, to = (high - b) / a;
    if (a < 0)
      std::swap(from, to);
    if (!(from < double(size)) || !(to >= 0))
      return {0, -1};
    return {from > 0 ? int64_t(from) : 0, to < double(size - 1) ? int64_t(to) + 1 : size - 1};
  }

  // Rows of slab z that may have something of this part.
  Interval rows(VolumeSize size, int64_t z) const {
    Interval all{0, size.y - 1};
    for (int r = 0; r < 3; ++r) {
      const double a = double(map[4 * r]) * double(size.x - 1);
      const double b = double(map[4 * r + 2]) * double(z) + double(map[4 * r + 3]);
      const Interval own = solve(map[4 * r + 1], b, box.low[r] - 1 - std::max(a, 0.0),
                                 box.high[r] + 1 - std::min(a, 0.0), size.y);
      all = {std::max(all.first, own.first), std::min(all.last, own.last)};
    }
    return all;
  }

  // Voxels of row (y, z) that may have something of this part.
  Interval voxels(VolumeSize size, int64_t y, int64_t z) const {
    Interval all{0, size.x - 1};
    for (int r = 0; r < 3; ++r) {
      const double b = double(map[4 * r + 1]) * double(y) + double(map[4 * r + 2]) * double(z) +
                       double(map[4 * r + 3]);
      const Interval own = solve(map[4 * r], b, box.low[r] - 1, box.high[r] + 1, size.x);
      all = {std::max(all.first, own.first), std::min(all.last, own.last)};
    }
    return all;
  }
};

// What one part reads in one row; arrays are indexed by x.
template <class A>
struct RowReads {
  std::vector<int32_t> cell;  // flat index of corner 0
  std::vector<A> weight[8];   // of the corners, times the mask
  std::vector<A> axis[3][2];  // their factors, per axis and side
  std::vector<A> slope[3][2]; // derivatives of the factors; -1, 0 or 1
  std::vector<A> mask[8];     // of the corners
  std::vector<A> any;         // 1 where a weight is not 0, else 0

  explicit RowReads(int64_t W) : cell(W), any(W) {
    for (auto* group : {weight, mask})
      for (int k = 0; k < 8; ++k)
        group[k].resize(W);
    for (int r = 0; r < 3; ++r)
      for (int side = 0; side < 2; ++side)
        axis[r][side].resize(W), slope[r][side].resize(W);
  }
};

// Steps to the corners of a cell; 0 on an axis of one voxel.
struct CellSteps {
  int32_t to[8];
  explicit CellSteps(VolumeSize size) {
    const int32_t x = size.x > 1 ? 1 : 0, y = size.y > 1 ? int32_t(size.x) : 0,
                  z = size.z > 1 ? int32_t(size.x * size.y) : 0;
    for (int k = 0; k < 8; ++k)
      to[k] = (k & 1 ? x : 0) + (k & 2 ? y : 0) + (k & 4 ? z : 0);
  }
};

// One axis of the geometry for x in [first, last].
template <class A, bool kSlopes>
static VECTOR_CLONES void locate_axis(Split<A> base, A a, int64_t size, int32_t step, int64_t first,
                                      int64_t last, int32_t* __restrict__ cell, A* __restrict__ low,
                                      A* __restrict__ high, A* __restrict__ low_slope,
                                      A* __restrict__ high_slope) {
#pragma GCC ivdep // "omp simd" would keep the structs in memory, and then vectorize nothing
  for (int x = int(first); x <= int(last); ++x) {
    const AxisPoint<A> point = axis_point(add_product(base, a, A(x)));
    const bool in = inside(point, size);
    const AxisPoint<A> safe{in ? point.corner : A(0), in ? point.fraction : A(0)};
    const AxisCell<A> at = axis_cell(safe, size);
    cell[x] += at.base * step;
    low[x] = in ? at.weight[0] : A(0);
    high[x] = in ? at.weight[1] : A(0);
    if (kSlopes) {
      low_slope[x] = in ? at.derivative[0] : A(0);
      high_slope[x] = in ? at.derivative[1] : A(0);
    }
  }
}

template <class A>
static VECTOR_CLONES void weigh(const int32_t* cell, const int32_t* bits, const A* mask, int part,
                                int32_t step, int64_t first, int64_t last, const A* wx, const A* wy,
                                const A* wz, A* m, A* weight, A* any) {
  if (bits) {
#pragma omp simd
    for (int64_t x = first; x <= last; ++x)
      m[x] = A((bits[cell[x] + step] >> part) & 1);
  } else {
#pragma omp simd
    for (int64_t x = first; x <= last; ++x)
      m[x] = mask[cell[x] + step];
  }
#pragma omp simd
  for (int64_t x = first; x <= last; ++x) {
    const A w = (wx[x] * wy[x]) * wz[x] * m[x];
    weight[x] = w;
    any[x] = w != A(0) ? A(1) : any[x];
  }
}

// Everything one part reads in row (y, z) for x in the interval.
template <class A, bool kSlopes>
void read_row(const Part<A>& part, VolumeSize size, const CellSteps& steps, int64_t y, int64_t z,
              Interval at, RowReads<A>& reads) {
  const int64_t sizes[3] = {size.x, size.y, size.z};
  const int32_t step[3] = {1, int32_t(size.x), int32_t(size.x * size.y)};
  std::fill(reads.cell.begin() + at.first, reads.cell.begin() + at.last + 1, 0);
  std::fill(reads.any.begin() + at.first, reads.any.begin() + at.last + 1, A(0));
  for (int r = 0; r < 3; ++r) {
    const A* a = part.map + 4 * r;
    Split<A> base = split(a[3]);
    base = add_product(base, a[1], A(y));
    base = add_product(base, a[2], A(z));
    locate_axis<A, kSlopes>(base, a[0], sizes[r], step[r], at.first, at.last, reads.cell.data(),
                            reads.axis[r][0].data(), reads.axis[r][1].data(),
                            reads.slope[r][0].data(), reads.slope[r][1].data());
  }
  for (int k = 0; k < 8; ++k)
    weigh<A>(reads.cell.data(), part.bits, part.mask, part.index, steps.to[k], at.first, at.last,
             reads.axis[0][k & 1].data(), reads.axis[1][k >> 1 & 1].data(),
             reads.axis[2][k >> 2].data(), reads.mask[k].data(), reads.weight[k].data(),
             reads.any.data());
}

} // namespace pose_kernels::cpu
