// SPDX-License-Identifier: Apache-2.0
// The triangles of uv_raster. Every 2 x 2 cell of pixels
//   n e
//   s d      is two triangles, (n, e, s) and (e, d, s),
// that lie on the tile of their part. Everything here is double whatever the features are: a
// texel's weights are then right to far less than the margin that decides whether it is covered,
// and all backends cover the same texels.
#pragma once

#include "bilinear.h"
#include "layout.h"

#ifdef __CUDA_ARCH__
#define NOT_UNROLLED _Pragma("unroll 1") // six copies are no faster, and long to compile
#else
#define NOT_UNROLLED
#endif

namespace pose_kernels {

constexpr double kLeastWeight = -1e-6;  // of each vertex, at a covered texel
constexpr double kLeastArea = 1e-10;    // of a triangle, in texels squared
constexpr double kLeastFallback = 1e-3; // of the splat's D at a texel it may color

// A pixel and where on its tile it lies.
struct SurfacePoint {
  int part;    // 0: background, beyond the image, or not finite
  double u, v; // clamped to [0, 1]
};

struct AtlasTriangle {
  double x, y;           // vertex 0, in texels
  double ex, ey, fx, fy; // from it to vertices 1 and 2
  double inverse;        // 1 / (ex fy - fx ey)
  int x0, x1, y0, y1;    // no texel outside of these columns and rows is covered

  // The vertices' weights at texel (column, row); false where it is not covered.
  HD bool weights(int column, int row, double w[3]) const {
    const double dx = column - x, dy = row - y;
    w[1] = (dx * fy - fx * dy) * inverse;
    w[2] = (ex * dy - dx * ey) * inverse;
    w[0] = 1 - w[1] - w[2];
    return w[0] >= kLeastWeight && w[1] >= kLeastWeight && w[2] >= kLeastWeight;
  }
};

HD double squared_distance(const SurfacePoint& a, const SurfacePoint& b) {
  const double du = a.u - b.u, dv = a.v - b.v;
  return du * du + dv * dv;
}

// The texels of a row of S within the numbers low .. high, and a little more: weights down to
// kLeastWeight reach beyond the vertices.
HD void texel_range(double a, double b, double c, int S, int& first, int& last) {
  const double low = a < b ? (a < c ? a : c) : (b < c ? b : c);
  const double high = a > b ? (a > c ? a : c) : (b > c ? b : c);
  const double slack = -4 * kLeastWeight * (high - low) + 1e-9;
  first = low > slack ? int(std::ceil(low - slack)) : 0;
  last = high + slack < S - 1 ? int(high + slack) : S - 1;
}

// False where the three pixels are no triangle. `longest`: square of the edges' limit, in uv.
HD bool make_triangle(const SurfacePoint& a, const SurfacePoint& b, const SurfacePoint& c, int S,
                      double longest, AtlasTriangle& t) {
  if (a.part == 0 || a.part != b.part || a.part != c.part)
    return false;
  if (!(squared_distance(a, b) < longest) || !(squared_distance(b, c) < longest) ||
      !(squared_distance(c, a) < longest))
    return false;
  const double scale = S - 1, bx = b.u * scale, by = (1 - b.v) * scale, cx = c.u * scale,
               cy = (1 - c.v) * scale;
  t.x = a.u * scale;
  t.y = (1 - a.v) * scale;
  t.ex = bx - t.x;
  t.ey = by - t.y;
  t.fx = cx - t.x;
  t.fy = cy - t.y;
  const double doubled = t.ex * t.fy - t.fx * t.ey;
  if (!(std::fabs(doubled) >= 2 * kLeastArea))
    return false;
  t.inverse = 1 / doubled;
  texel_range(t.x, bx, cx, S, t.x0, t.x1);
  texel_range(t.y, by, cy, S, t.y0, t.y1);
  return true;
}

// One triangle at a pixel: of the cell whose n lies (dy, dx) from it, number `which`; the pixel is
// vertex `vertex` there.
struct TriangleAt {
  int dy, dx, which, vertex;
};

// The six of a pixel, in the order of the cells.
HD TriangleAt triangle_at(int i) {
  return {i < 3 ? -1 : 0, i == 0 || i == 3 || i == 4 ? -1 : 0, i == 0 || i == 2 || i == 4,
          i == 1 || i == 2   ? 2
          : i == 0 || i == 3 ? 1
                             : 0};
}

// A pixel of uv_raster's lists: cells go by their pixel e, which always is a vertex of theirs, so
// that no pixel stands for two things.
constexpr int kNothing = 0, kLonely = 4; // 1, 2, 3: pixel e of a cell with these triangles

template <class A>
struct SurfaceGrid {
  PartMap part; // [N, H, W]
  const A* uv;  // [N, 2, H, W]
  int64_t H, W;
  int P, S;
  double longest; // square of max_edge

  HD SurfacePoint point(int64_t n, int64_t y, int64_t x) const {
    if (y < 0 || x < 0 || y >= H || x >= W)
      return {0, 0, 0};
    const int64_t p = y * W + x;
    const int label = part_at(part, n * H * W + p, P);
    if (label == 0)
      return {0, 0, 0};
    const double u = double(uv[n * 2 * H * W + p]), v = double(uv[(n * 2 + 1) * H * W + p]);
    if (!(u - u == 0.0) || !(v - v == 0.0))
      return {0, 0, 0};
    return {label, u < 0 ? 0.0 : u > 1 ? 1.0 : u, v < 0 ? 0.0 : v > 1 ? 1.0 : v};
  }

  // AtlasTriangle `which` of the cell with pixel n at (y, x).
  HD bool triangle(int64_t n, int64_t y, int64_t x, int which, AtlasTriangle& t) const {
    const SurfacePoint s = point(n, y + 1, x);
    if (s.part == 0)
      return false;
    return make_triangle(point(n, y, x + which), point(n, y + which, x + 1), s, S, longest, t);
  }

  // AtlasTriangle i of the six of a pixel.
  HD bool triangle_of(int64_t n, int64_t y, int64_t x, int i, AtlasTriangle& t) const {
    const TriangleAt at = triangle_at(i);
    return triangle(n, y + at.dy, x + at.dx, at.which, t);
  }

  // Bit i: triangle i of a pixel exists.
  HD int around(int64_t n, int64_t y, int64_t x) const {
    AtlasTriangle t;
    int found = 0;
    NOT_UNROLLED for (int i = 0; i < 6; ++i) found |= int(triangle_of(n, y, x, i, t)) << i;
    return found;
  }

  // What the pixel at (y, x) stands for in the lists.
  HD int standing(int64_t n, int64_t y, int64_t x) const {
    if (point(n, y, x).part == 0)
      return kNothing;
    AtlasTriangle t;
    int own = 0;
    NOT_UNROLLED for (int k = 3; k < 9; ++k) { // 3 and 4 are those of the cell it is e of
      if (triangle_of(n, y, x, k % 6, t)) {
        if (k > 4)
          return kNothing;
        own |= k == 3 ? 1 : 2;
      }
      if (k == 4 && own)
        return own;
    }
    return kLonely;
  }
};

// Sums come with the number of triangles, or with -D of the splat, where no triangle covers a
// texel. The weight that is returned: the number, or D where it is above kLeastFallback, else 0.
// A weight is an integer where triangles cover a texel and only there: a D that is one is replaced
// by the next number above (beyond 2^23, or 2^52, by the largest fraction there is).
HD bool is_whole(float x) {
  return x == std::floor(x);
}
HD bool is_whole(double x) {
  return x == std::floor(x);
}
HD float above(float x) {
  return x < 8388608.0f ? bits_to_float(float_to_bits(x) + 1u) : 8388607.5f;
}
HD double above(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  ++bits;
  double next;
  memcpy(&next, &bits, sizeof next);
  return x < 4503599627370496.0 ? next : 4503599627370495.5;
}
template <class A>
HD A raster_weight(A signed_weight) {
  const A D = -signed_weight;
  const A fallback = D > A(kLeastFallback) ? (is_whole(D) ? above(D) : D) : A(0);
  return signed_weight > A(0) ? signed_weight : fallback;
}

} // namespace pose_kernels
