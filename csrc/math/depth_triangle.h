// SPDX-License-Identifier: Apache-2.0
// A triangle of a depth buffer at one pixel p (x right, y down, depth away from the viewer).
//
//   q_i = v_i - p     E_0 = q_1 x q_2,  E_1 = q_2 x q_0,  E_2 = q_0 x q_1     (a x b = a_x b_y -
//   a_y b_x) p is covered where no E_i is negative (of a triangle that is turned so that its area
//   is not) barycentrics E_i / (E_0 + E_1 + E_2), depth z_0 + (E_1 w_1 + E_2 w_2), w_i = (z_i -
//   z_0) / 2 area
//
// Every backend must find the same face at every pixel, so the arithmetic is part of the
// definition: doubles, every operation rounded by itself, in this order; reference/mesh_raster.py
// does the same. No product may be fused with the sum it enters: on a GPU __dmul_rn sees to that,
// on the CPU the source that includes this file is compiled without contraction. Exchanging two
// vertices then changes signs and nothing else: triangles agree about the edge they share, bit for
// bit.
#pragma once

#include "scalar.h"

namespace pose_kernels {

constexpr double kLargestCoordinate = 3.4028234663852886e38; // of float32
constexpr double kLeastDoubledArea =
    1e-150; // twice the area; no float32 triangle lies between it and 0

HD double product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

HD double cross(double ax, double ay, double bx, double by) {
  return product(ax, by) - product(ay, bx);
}

struct DepthTriangle {
  double x[3], y[3]; // turned so that the area is positive: vertices 1 and 2 may be exchanged
  double z0, w1, w2, nearest, farthest;
};

struct PixelBox {
  int x0, y0, x1, y1; // first and last pixel
  HD bool empty() const { return x0 > x1 || y0 > y1; }
};

// The first of pixels 0 .. n - 1 at or after `low`, and the last at or before `high`.
HD int first_pixel(double low, int n) {
  if (!(low > 0))
    return 0;
  if (low > n - 1)
    return n;
  const int below = int(low);
  return below + (double(below) < low);
}
HD int last_pixel(double high, int n) {
  return high < 0 ? -1 : high >= n - 1 ? n - 1 : int(high);
}

HD double least(const double v[3]) {
  const double first = v[0] < v[1] ? v[0] : v[1];
  return first < v[2] ? first : v[2];
}
HD double greatest(const double v[3]) {
  const double first = v[0] > v[1] ? v[0] : v[1];
  return first > v[2] ? first : v[2];
}

// False where the triangle reaches no pixel center of an H x W image, has a number that is not
// finite in float32, or no area. `turned`: vertices 1 and 2 were exchanged.
HD bool make_triangle(const double x[3], const double y[3], const double z[3], int H, int W,
                      DepthTriangle& t, PixelBox& box, bool& turned) {
  for (int i = 0; i < 3; ++i) {
    const bool known = x[i] >= -kLargestCoordinate && x[i] <= kLargestCoordinate &&
                       y[i] >= -kLargestCoordinate && y[i] <= kLargestCoordinate &&
                       z[i] >= -kLargestCoordinate && z[i] <= kLargestCoordinate;
    if (!known) // false for NaN
      return false;
  }
  box = {first_pixel(least(x), W), first_pixel(least(y), H), last_pixel(greatest(x), W),
         last_pixel(greatest(y), H)};
  if (box.empty())
    return false;
  const double area = cross(x[1] - x[0], y[1] - y[0], x[2] - x[0], y[2] - y[0]);
  turned = area < 0;
  const double size = turned ? -area : area;
  if (!(size >= kLeastDoubledArea))
    return false;
  t.x[0] = x[0], t.x[1] = turned ? x[2] : x[1], t.x[2] = turned ? x[1] : x[2];
  t.y[0] = y[0], t.y[1] = turned ? y[2] : y[1], t.y[2] = turned ? y[1] : y[2];
  t.z0 = z[0];
  t.w1 = ((turned ? z[2] : z[1]) - z[0]) / size;
  t.w2 = ((turned ? z[1] : z[2]) - z[0]) / size;
  t.nearest = least(z);
  t.farthest = greatest(z);
  return true;
}

struct Edges {
  double e[3];
  HD bool covered() const { return e[0] >= 0 && e[1] >= 0 && e[2] >= 0; }
};

HD Edges edges_at(const DepthTriangle& t, double px, double py) {
  const double x0 = t.x[0] - px, x1 = t.x[1] - px, x2 = t.x[2] - px;
  const double y0 = t.y[0] - py, y1 = t.y[1] - py, y2 = t.y[2] - py;
  return {{cross(x1, y1, x2, y2), cross(x2, y2, x0, y0), cross(x0, y0, x1, y1)}};
}

// In float32, within the depths of the vertices; -0 becomes 0.
HD float depth_at(const DepthTriangle& t, double e1, double e2) {
  const double plane = t.z0 + (product(e1, t.w1) + product(e2, t.w2));
  const double above = plane < t.nearest ? t.nearest : plane;
  return float(above > t.farthest ? t.farthest : above) + 0.0f;
}

// Barycentrics of a covered pixel, at least 0; the vertices may come in either order, then all E_i
// are negative. A needle may round to nothing: then its first vertex.
HD void barycentrics(double e0, double e1, double e2, double& b0, double& b1, double& b2) {
  const double sum = (e0 + e1) + e2;
  const bool some = sum != 0;
  const double inverse = 1.0 / (some ? sum : 1.0);
  const double first = product(e0, inverse) + 0.0; // + 0.0: never -0
  b0 = some ? first : 1.0;
  b1 = product(e1, inverse) + 0.0;
  b2 = product(e2, inverse) + 0.0;
}

// Orders first by depth, then by face; kNoFace is behind everything.
constexpr int64_t kNoFace = INT64_MAX;
HD int64_t depth_key(float depth, int32_t face) {
  const int32_t bits = int32_t(float_to_bits(depth));
  const int32_t ordered = bits < 0 ? bits ^ 0x7fffffff : bits; // as the floats are ordered
  return int64_t(ordered) * (int64_t(1) << 32) + face;
}

} // namespace pose_kernels
