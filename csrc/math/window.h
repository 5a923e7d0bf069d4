// SPDX-License-Identifier: Apache-2.0
// region_crop at one center: the corner of its window.
//
//   x0 = clamp(round(x) - floor(s / 2), 0, W - s)      round half to even; y0 likewise with H
//
// So a center on a pixel is that pixel of the window's column and row s / 2, and a window that
// would stick out is moved back into the image.
#pragma once

#include "scalar.h"

namespace pose_kernels {

// Centers of windows, [.., 2] in order (x, y).
struct Centers {
  const void* data;
  bool wide; // double, else float
};

struct Window {
  int x0, y0;
  bool valid; // both coordinates finite; else x0 and y0 say nothing
};

// 1 <= s <= extent < 2^31.
template <class A>
HD int window_start(A center, int64_t extent, int64_t s) {
  constexpr A kFar = A(1099511627776.0); // 2^40: beyond every image, and within an integer
  const A node = std::rint(center);
  const int64_t start = int64_t(node < -kFar  ? -kFar
                                : node > kFar ? kFar
                                              : node) -
                        s / 2,
                last = extent - s;
  return int(start < 0 ? 0 : start > last ? last : start);
}

template <class A>
HD Window window_around(A x, A y, int64_t H, int64_t W, int64_t s) {
  if (!(x - x == A(0)) || !(y - y == A(0)))
    return {0, 0, false};
  return {window_start(x, W, s), window_start(y, H, s), true};
}

// The window of the i-th center.
HD Window window_at(Centers centers, int64_t i, int64_t H, int64_t W, int64_t s) {
  if (centers.wide) {
    const double* center = static_cast<const double*>(centers.data) + 2 * i;
    return window_around(center[0], center[1], H, W, s);
  }
  const float* center = static_cast<const float*>(centers.data) + 2 * i;
  return window_around(center[0], center[1], H, W, s);
}

} // namespace pose_kernels
