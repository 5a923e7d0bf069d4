// SPDX-License-Identifier: Apache-2.0
// A capsule at one voxel: the segment a b swept by an ellipsoid with half-axes r.
//
//   d^2(v) = min over t in [0, 1] of |q|^2,   q_i = (v_i - a_i - t (b_i - a_i)) / r_i
//
// In units of the half-axes, w_a = (v - a) / r and w_b = (v - b) / r, the segment is e = w_a - w_b,
//
//   t = clamp(w_a . e / |e|^2, 0, 1),   q = (1 - t) w_a + t w_b
//
// v is inside where d^2 <= 1; softly, to the degree sigma((1 - d) / s). Written with both ends, q
// is bit for bit the same for two capsules of one r whose nearest point is an end they share: such
// ties are ties in every arithmetic. t is a minimizer or fixed at its limit, so by the envelope
// theorem the gradient of d^2 is the one at fixed t:
//
//   d d^2 / d a_i = -2 (1 - t) q_i / r_i    d d^2 / d b_i = -2 t q_i / r_i    d d^2 / d r_i = -2
//   q_i^2 / r_i
#pragma once

#include "elementary.h"

namespace pose_kernels {

template <class A>
struct Capsule {
  A a[3], b[3]; // ends, voxel coordinates (x, y, z)
  A inv[3];     // 1 / half-axis
  A along[3];   // e / |e|^2
  A last;       // largest t: 1, or 0 where a = b; then all gradient goes to a
};

// Numbers beyond this make a capsule empty, as do half-axes below its inverse: up to here every q
// is finite, and what has no weight in a sum cannot spoil it.
template <class A>
constexpr A kLargest = A(1e18);

// False for a capsule that is empty: a number that is NaN or too large, a half-axis not positive.
template <class A>
HD bool make_capsule(const A a[3], const A b[3], const A r[3], Capsule<A>& c) {
  const A most = kLargest<A>;
  A e[3], length2 = 0;
  bool counts = true;
  for (int i = 0; i < 3; ++i) {
    c.a[i] = a[i], c.b[i] = b[i], c.inv[i] = A(1) / r[i];
    e[i] = (b[i] - a[i]) * c.inv[i];
    length2 += e[i] * e[i];
    counts = counts && a[i] >= -most && a[i] <= most && b[i] >= -most && b[i] <= most &&
             r[i] > A(0) && r[i] <= most && c.inv[i] <= most;
  }
  const A tiny = A(1.1754943508222875e-38); // below, 1 / length2 could overflow
  c.last = length2 >= tiny ? A(1) : A(0);
  const A scale = length2 >= tiny ? A(1) / length2 : A(0);
  for (int i = 0; i < 3; ++i)
    c.along[i] = e[i] * scale;
  return counts && length2 - length2 == A(0); // |e|^2 may be infinite in float
}

// What the voxels of a row (y, z) have in common: w_a and w_b in y and z, and their share of t.
template <class A>
struct CapsuleRow {
  A ya, yb, za, zb, t;
};

template <class A>
HD CapsuleRow<A> capsule_row(const Capsule<A>& c, A y, A z) {
  CapsuleRow<A> row;
  row.ya = (y - c.a[1]) * c.inv[1], row.yb = (y - c.b[1]) * c.inv[1];
  row.za = (z - c.a[2]) * c.inv[2], row.zb = (z - c.b[2]) * c.inv[2];
  row.t = row.ya * c.along[1] + row.za * c.along[2];
  return row;
}

template <class A>
struct CapsulePoint {
  A t, x, y, z; // t and q
  A d2;         // |q|^2; may be NaN or infinite for numbers near the limits of A
};

// xa, xb: w_a and w_b in x.
template <class A>
HD CapsulePoint<A> capsule_point(const Capsule<A>& c, const CapsuleRow<A>& row, A xa, A xb) {
  CapsulePoint<A> q;
  A t = c.along[0] * xa + row.t;
  t = t > A(0) ? t : A(0);       // NaN goes to 0
  q.t = t < c.last ? t : c.last; // between two constants, a compiler would make cases of it
  const A u = A(1) - q.t;
  q.x = u * xa + q.t * xb;
  q.y = u * row.ya + q.t * row.yb;
  q.z = u * row.za + q.t * row.zb;
  q.d2 = q.x * q.x + q.y * q.y + q.z * q.z;
  return q;
}

template <class A>
HD CapsulePoint<A> capsule_point(const Capsule<A>& c, const CapsuleRow<A>& row, A x) {
  return capsule_point(c, row, (x - c.a[0]) * c.inv[0], (x - c.b[0]) * c.inv[0]);
}

// Squared distances are cut here: beyond, sigma is 0 for every softness that is of use.
template <class A>
constexpr A kFarthest2 = A(1e30);

template <class A>
struct SoftStep {
  A value;             // sigma((1 - d) / s)
  A slope_by_distance; // sigma (1 - sigma) / d; at d = 0 some finite number, for q is 0 there
};

template <class A>
struct Softness {
  A sharpness; // log2(e) / s
  A low, high; // limits of the exponent; above, sigma < 5e-38 is made 0. Data, as Capsule::last is.
};

template <class A>
Softness<A> make_softness(double s) {
  return {A(1.4426950408889634 / s), A(-124), A(124)};
}

// d2 in [0, 1e30].
template <class A>
HD SoftStep<A> soft_step(A d2, const Softness<A>& s) {
  const A d = std::sqrt(d2), z = d * s.sharpness - s.sharpness;
  const A above = z > s.low ? z : s.low;
  const A u = power_of_two(above < s.high ? above : s.high);
  const A sigma = z < s.high ? inverse(A(1) + u) : A(0);
  // u sigma is 1 - sigma without cancellation
  return {sigma, sigma * (u * sigma) * inverse(d > A(1e-20) ? d : A(1e-20))};
}

// ---- bounds, so that voxels far from a capsule cost nothing

// r and a margin beyond every rounding error above: a voxel inside is always within reach.
template <class A>
HD A capsule_reach(A a, A b, A r) {
  const A far = (a < A(0) ? -a : a) + (b < A(0) ? -b : b) + r;
  return r + A(1e-2) + A(1e-5) * far;
}

// The voxels of 0 .. size - 1 in [low, high], as [first, end).
template <class A>
HD void voxel_range(A low, A high, int size, int& first, int& end) {
  first = low > A(0) ? (low < A(size) ? int(low) : size) : 0;
  end = high < A(size - 1) ? (high >= A(0) ? int(high) + 1 : 0) : size;
}

// Narrows [t0, t1] to where a + t (b - a) is within `reach` of v; false when nothing is left.
template <class A>
HD bool narrow_along(A a, A b, A v, A reach, A& t0, A& t1) {
  const A d = b - a;
  if (d == A(0))
    return (v < a ? a - v : v - a) <= reach && t0 <= t1;
  const A s0 = (v - reach - a) / d, s1 = (v + reach - a) / d;
  const A low = s0 < s1 ? s0 : s1, high = s0 < s1 ? s1 : s0;
  t0 = low > t0 ? low : t0;
  t1 = high < t1 ? high : t1;
  return t0 <= t1;
}

} // namespace pose_kernels
