// SPDX-License-Identifier: Apache-2.0
// The volume warp at one voxel: where an affine map A sends an output voxel (x, y, z), and the
// eight source voxels around that position.
//
//   s = A (x, y, z, 1)                                   voxel units, voxel centers at integers
//   w_q = k(s_x - q_x) k(s_y - q_y) k(s_z - q_z),        k(t) = max(0, 1 - |t|)
//
// Positions are sums of four products in a volume of many voxels: in plain float their fraction
// would be off by 1e-5 voxels. Each product is therefore split into an integer and a fraction that
// is rounded once (fma), and the two are summed apart.
//
// Corners are numbered x + 2 y + 4 z with x, y, z in {0, 1}.
#pragma once

#include "scalar.h"

namespace pose_kernels {

// A coordinate as whole + fraction; |whole| is an integer, the fraction may leave [0, 1).
template <class A>
struct Split {
  A whole, fraction;
};

// sum + a * index, the fraction exact to its own rounding.
template <class A>
HD Split<A> add_product(Split<A> sum, A a, A index) {
  const A whole = std::floor(a * index); // may be 1 off where a * index rounds to an integer
  return {sum.whole + whole, sum.fraction + std::fma(a, index, -whole)};
}

template <class A>
HD Split<A> split(A value) {
  const A whole = std::floor(value);
  return {whole, value - whole};
}

// One axis of a source position: lower corner and the fraction beyond it.
template <class A>
struct AxisPoint {
  A corner;   // an integer; inside() tells whether it may be used as an index
  A fraction; // in [0, 1)
};

template <class A>
HD AxisPoint<A> axis_point(Split<A> position) {
  const A carry = std::floor(position.fraction);
  return {position.whole + carry, position.fraction - carry};
}

// Whether any voxel of an axis of `size` voxels has a weight there: -1 < s < size. False for NaN.
// No short circuits in here and below: these run in vectorized loops.
template <class A>
HD bool inside(AxisPoint<A> p, int64_t size) {
  const bool before = (p.corner == A(-1)) & (p.fraction > A(0));
  return (p.corner <= A(size - 1)) & ((p.corner >= A(0)) | before);
}

// One axis of the cell that is read. It always lies in the volume: at the border, where one true
// corner is outside and counts 0, the weights are shifted to the corners that exist.
template <class A>
struct AxisCell {
  int base;        // lower corner of the cell, in [0, max(size - 2, 0)]
  A weight[2];     // of the lower and the upper corner; 0 for a corner that does not exist
  A derivative[2]; // of the weights by the position: +-1, or 0 where the corner takes no part
};

// To be called where inside(p, size) only.
template <class A>
HD AxisCell<A> axis_cell(AxisPoint<A> p, int64_t size) {
  const A last = size > 1 ? A(size - 2) : A(0), two = size > 1 ? A(1) : A(0);
  const A above = p.corner < A(0) ? A(0) : p.corner, base = above > last ? last : above;
  const A low = A(1) - p.fraction, high = p.fraction;
  // corner == base inside; corner == base - 1: only the upper corner exists, at the base;
  // corner == base + 1: only the lower one exists, above the base.
  const bool at = p.corner == base, below = p.corner<base, beyond = p.corner> base;
  AxisCell<A> cell;
  cell.base = int(base);
  cell.weight[0] = at ? low : (below ? high : A(0));
  cell.weight[1] = at ? high * two : (beyond ? low : A(0));
  cell.derivative[0] = at ? A(-1) : (below ? A(1) : A(0));
  cell.derivative[1] = at ? two : (beyond ? A(-1) : A(0));
  return cell;
}

} // namespace pose_kernels
