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

  int64_t voxels() const {
    int64_t product = 1;
    for (int r = 0; r < 3; ++r)
      product *= std::max(0, high[r] - low[r] + 1);
    return product;
  }
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

// Voxels of a row whose geometry is computed at once: what it takes stays in L1.
constexpr int kRun = 128;

// What one part reads in a run of voxels of one row.
template <class A>
struct RunReads {
  int32_t cell[kRun];    // flat index of corner 0
  int32_t corners[kRun]; // how many weights are not 0
  A weight[8][kRun];     // of the corners, times the mask
  A axis[3][2][kRun];    // their factors, per axis and side
  A slope[3][2][kRun];   // derivatives of the factors; -1, 0 or 1
  A mask[8][kRun];       // of the corners
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

// Cells and factors of `count` voxels from `first` on, of one axis; `step` is one along it.
template <class A, bool kSlopes>
static VECTOR_CLONES void locate_axis(int axis, Split<A> base, A a, int64_t size, int32_t step,
                                      int first, int count, RunReads<A>& reads) {
  A *low = reads.axis[axis][0], *high = reads.axis[axis][1];
  A *low_slope = reads.slope[axis][0], *high_slope = reads.slope[axis][1];
#pragma GCC ivdep // "omp simd" would keep the structs in memory, and then vectorize nothing
  for (int i = 0; i < count; ++i) {
    const AxisPoint<A> point = axis_point(add_product(base, a, A(first + i)));
    const bool in = inside(point, size);
    const AxisPoint<A> safe{in ? point.corner : A(0), in ? point.fraction : A(0)};
    const AxisCell<A> at = axis_cell(safe, size);
    reads.cell[i] += at.base * step;
    low[i] = in ? at.weight[0] : A(0);
    high[i] = in ? at.weight[1] : A(0);
    if (kSlopes) {
      low_slope[i] = in ? at.derivative[0] : A(0);
      high_slope[i] = in ? at.derivative[1] : A(0);
    }
  }
}

// found[k, i] = from[cell[i] + to[k]]. Not cloned: in wider vectors compilers put gathers together
// from scalars one by one, which takes several times as long as the loads.
template <class E>
static void gather_corners(const E* from, const int32_t* cell, const CellSteps& steps, int count,
                           E (*found)[kRun]) {
  for (int i = 0; i < count; ++i) {
    const E* corner = from + cell[i];
    for (int k = 0; k < 8; ++k)
      found[k][i] = corner[steps.to[k]];
  }
}

template <class A>
static VECTOR_CLONES void bits_to_mask(const int32_t (*bits)[kRun], int part, int count,
                                       A (*mask)[kRun]) {
  for (int k = 0; k < 8; ++k)
    for (int i = 0; i < count; ++i)
      mask[k][i] = A((bits[k][i] >> part) & 1);
}

template <class A>
static VECTOR_CLONES void weigh(int count, RunReads<A>& reads) {
  for (int i = 0; i < count; ++i)
    reads.corners[i] = 0;
  for (int k = 0; k < 8; ++k) {
    const A *x = reads.axis[0][k & 1], *y = reads.axis[1][k >> 1 & 1], *z = reads.axis[2][k >> 2];
    const A* m = reads.mask[k];
    A* weight = reads.weight[k];
    for (int i = 0; i < count; ++i) {
      const A factor = (x[i] * y[i]) * z[i];
      const A w = factor != A(0) ? factor * m[i] : A(0); // no corner: its mask may be NaN
      weight[i] = w;
      reads.corners[i] += w != A(0) ? 1 : 0;
    }
  }
}

// Everything one part reads in `count` voxels of row (y, z) from `first` on; at most kRun.
template <class A, bool kSlopes>
void read_run(const Part<A>& part, VolumeSize size, const CellSteps& steps, int64_t y, int64_t z,
              int64_t first, int64_t count, RunReads<A>& reads) {
  const int64_t sizes[3] = {size.x, size.y, size.z};
  const int32_t step[3] = {1, int32_t(size.x), int32_t(size.x * size.y)};
  std::fill(reads.cell, reads.cell + count, 0);
  for (int r = 0; r < 3; ++r) {
    const A* a = part.map + 4 * r;
    Split<A> base = split(a[3]);
    base = add_product(base, a[1], A(y));
    base = add_product(base, a[2], A(z));
    locate_axis<A, kSlopes>(r, base, a[0], sizes[r], step[r], int(first), int(count), reads);
  }
  if (part.bits) {
    int32_t bits[8][kRun];
    gather_corners(part.bits, reads.cell, steps, int(count), bits);
    bits_to_mask<A>(bits, part.index, int(count), reads.mask);
  } else {
    gather_corners(part.mask, reads.cell, steps, int(count), reads.mask);
  }
  weigh<A>(int(count), reads);
}

// body(first, count) for the runs of an interval.
template <class Body>
void for_runs(Interval at, const Body& body) {
  for (int64_t x = at.first; x <= at.last; x += kRun)
    body(x, std::min<int64_t>(kRun, at.last + 1 - x));
}

} // namespace pose_kernels::cpu
