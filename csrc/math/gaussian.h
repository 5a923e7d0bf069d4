// SPDX-License-Identifier: Apache-2.0
// heatmap at one node: every kind of map is made of one number per axis.
//
//   d_a = stride_a i_a - point_a                       node i minus the point, in the point's units
//   gaussian  exp(-|d|^2 / (2 sigma^2)) = prod_a e_a   e_a = exp(-(d_a / sigma)^2 / 2)
//   disc      [sum_a d_a^2 <= sigma^2]
//   impulse   prod_a [i_a = floor(point_a / stride_a + 1/2)]
//   gradient  d gaussian / d point_a = gaussian d_a / sigma^2
//
// Gaussian values below the smallest normal number are 0: x86 takes some 150 cycles for every
// vector with a subnormal number in it, and a ring of them lies around every point.
#pragma once

#include <limits>

#include "scalar.h"

namespace pose_kernels {

constexpr int kGaussian = 0, kDisc = 1, kImpulse = 2; // the dispatcher's numbers

template <class A>
constexpr A kTiny = std::numeric_limits<A>::min();

// Factors below are left out of a gradient's sums, and nothing of the incoming gradient is read
// there: an error of at most 2^-100 (double: 2^-900) of that gradient times |d| / sigma^2.
template <class A>
constexpr A kNegligible = A(7.888609052210118e-31);
template <>
inline constexpr double kNegligible<double> = 1.1830521861667747e-271;

// What a map of N J has to say about one axis. A point with a coordinate that is not finite has
// no map: callers ask is_finite first.
template <class A>
struct HeatmapAxis {
  A point, stride;

  HD A offset(int64_t i) const { return stride * A(i) - point; }

  HD A gaussian(int64_t i, A inverse_sigma) const {
    const A z = offset(i) * inverse_sigma; // may be infinite, never NaN
    const A e = std::exp(A(-0.5) * z * z);
    return e < kTiny<A> ? A(0) : e;
  }

  // d gaussian / d point, given the former.
  HD A slope(A gaussian, int64_t i, A inverse_sigma) const {
    return gaussian < kNegligible<A> ? A(0)
                                     : gaussian * (offset(i) * inverse_sigma * inverse_sigma);
  }

  // The number of node i: a factor, or with discs a squared distance.
  HD A value(int kind, int64_t i, A inverse_sigma) const {
    if (kind == kGaussian)
      return gaussian(i, inverse_sigma);
    if (kind == kDisc)
      return offset(i) * offset(i);
    return A(i) == std::floor(point / stride + A(0.5)) ? A(1) : A(0);
  }
};

template <class A>
HD bool is_finite(A x) {
  return x - x == A(0);
}

// Two axes together.
template <class A>
HD A join(int kind, A a, A b) {
  if (kind == kDisc)
    return a + b;
  const A product = a * b;
  return product < kTiny<A> ? A(0) : product;
}

} // namespace pose_kernels
