// SPDX-License-Identifier: Apache-2.0
// The surface ops at one pixel: where (u, v) lies on its tile, and the four texels around it.
//
//   t = (clamp(u, 0, 1) (S-1), (1 - clamp(v, 0, 1)) (S-1))        column, row; texel centers at
//   integers w_q = k(t_x - q_x) k(t_y - q_y),   k(t) = max(0, 1 - |t|)
//
// Corners are numbered 0: (x0, y0), 1: (x0+1, y0), 2: (x0, y0+1), 3: (x0+1, y0+1).
#pragma once

#include "scalar.h"

namespace pose_kernels {

template <class A>
struct TilePoint {
  int x0, y0; // texel of corner 0
  int dx, dy; // step to the right and lower corners: 1, or 0 on a tile of one texel
  A ax, ay;   // fractions towards them, in [0, 1]
  A du,
      dv; // d t_x / d u and d t_y / d v: +-(S-1), or 0 where that axis was clamped (0, 1 included)
};

template <class A>
HD bool is_finite_point(A u, A v) {
  return u - u == A(0) && v - v == A(0);
}

// Of finite coordinates.
template <class A>
HD TilePoint<A> place_on_tile(A u, A v, int S) {
  const A scale = A(S - 1);
  const bool inside_u = u > A(0) && u<A(1), inside_v = v> A(0) && v < A(1);
  const A tx = (u < A(0) ? A(0) : u > A(1) ? A(1) : u) * scale;
  const A ty = (A(1) - (v < A(0) ? A(0) : v > A(1) ? A(1) : v)) * scale;
  const int last = S > 1 ? S - 2 : 0;
  const int x = int(tx), y = int(ty);
  TilePoint<A> point;
  point.x0 = x < last ? x : last;
  point.y0 = y < last ? y : last;
  point.dx = point.dy = S > 1;
  point.ax = tx - A(point.x0);
  point.ay = ty - A(point.y0);
  point.du = inside_u ? scale : A(0);
  point.dv = inside_v ? -scale : A(0);
  return point;
}

// False when a coordinate is not finite: such a pixel takes no part at all.
template <class A>
HD bool tile_point(A u, A v, int S, TilePoint<A>& point) {
  if (!is_finite_point(u, v))
    return false;
  point = place_on_tile(u, v, S);
  return true;
}

template <class A>
HD void corner_weights(A ax, A ay, A w[4]) {
  const A bx = A(1) - ax, by = A(1) - ay;
  w[0] = bx * by;
  w[1] = ax * by;
  w[2] = bx * ay;
  w[3] = ax * ay;
}

// Flat texel offsets of the four corners on an S x S tile.
template <class A>
HD void corner_texels(const TilePoint<A>& point, int S, int q[4]) {
  q[0] = point.y0 * S + point.x0;
  q[1] = q[0] + point.dx;
  q[2] = q[0] + point.dy * S;
  q[3] = q[2] + point.dx;
}

// Gradient of a function of the four weights to (u, v), given g_k = d f / d w_k. Zero on an axis
// that was clamped, whatever g is: 0 times NaN would be NaN.
template <class A>
HD void corner_gradient(A ax, A ay, A du, A dv, const A g[4], A& gu, A& gv) {
  const A by_x = (A(1) - ay) * (g[1] - g[0]) + ay * (g[3] - g[2]);
  const A by_y = (A(1) - ax) * (g[2] - g[0]) + ax * (g[3] - g[1]);
  gu = du == A(0) ? A(0) : du * by_x;
  gv = dv == A(0) ? A(0) : dv * by_y;
}

template <class A>
HD void corner_gradient(const TilePoint<A>& point, const A g[4], A& gu, A& gv) {
  corner_gradient(point.ax, point.ay, point.du, point.dv, g, gu, gv);
}

} // namespace pose_kernels
