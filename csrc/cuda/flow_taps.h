// SPDX-License-Identifier: Apache-2.0
// The four taps of one output pixel of flow_warp, in a thread's registers.
#pragma once

#include "../ops/flow_warp.h"
#include "channels.h"

namespace pose_kernels::cuda {

template <class A>
struct FlowTaps {
  int side;         // half of the output channels, -1: nowhere, and nothing is read
  int64_t pixel[4]; // of the image: (0, 0), (1, 0), (0, 1), (1, 1); all exist
  FlowPair<A> x, y;

  __device__ __forceinline__ A weight(int k) const {
    return (k % 2 ? x.weight1 : x.weight0) * (k / 2 ? y.weight1 : y.weight0);
  }
  __device__ __forceinline__ A slope_x(int k) const {
    return (k % 2 ? x.slope1 : x.slope0) * (k / 2 ? y.weight1 : y.weight0);
  }
  __device__ __forceinline__ A slope_y(int k) const {
    return (k % 2 ? x.weight1 : x.weight0) * (k / 2 ? y.slope1 : y.slope0);
  }
};

// `pixel`: flat index in the output of sample n.
template <class Op, class A>
__device__ __forceinline__ void place_taps(const Op& a, int64_t n, int64_t pixel,
                                           FlowTaps<A>& taps) {
  const int64_t pixels = a.h * a.w;
  const A* flow = a.flow + n * 2 * pixels + pixel;
  taps.side = flow_side(a.visibility, n * pixels + pixel, a.mode);
  if (taps.side < 0)
    return;
  const A fx = flow[0], fy = flow[pixels];
  if (!flow_finite(fx, fy)) {
    taps.side = -1;
    return;
  }
  const int row = int(pixel / a.w), column = int(pixel - int64_t(row) * a.w);
  taps.x = flow_pair(fx, column, int(a.W), a.border);
  taps.y = flow_pair(fy, row, int(a.H), a.border);
  const int64_t first = int64_t(taps.y.first) * a.W + taps.x.first;
  const int right = a.W > 1, down = a.H > 1 ? int(a.W) : 0;
  taps.pixel[0] = first;
  taps.pixel[1] = first + right;
  taps.pixel[2] = first + down;
  taps.pixel[3] = first + down + right;
}

} // namespace pose_kernels::cuda
