// SPDX-License-Identifier: Apache-2.0
// flow_warp at one pixel: the four taps around its source position p + F, an axis at a time.
//
//   lower = floor(F), a = F - lower;  near tap p + lower with weight 1 - a, far tap + 1 with weight
//   a
//
// The fraction is that of the flow alone: as exact at the far end of a large image as at 0. At
// whole positions a = 0, and the slope is the derivative towards larger coordinates.
#pragma once

#include "scalar.h"

namespace pose_kernels {

enum FlowMode { kFlowPlain = 0, kFlowGate = 1, kFlowExpand = 2 };

// Where one output pixel goes: 0 or 1 is the half of the output channels ("expand" has two), -1
// nowhere. i: its flat index in the visibility map.
HD int flow_side(const uint8_t* visibility, int64_t i, int mode) {
  if (mode == kFlowPlain)
    return 0;
  const int v = visibility[i];
  return v >= 2 ? -1 : mode == kFlowExpand ? v : 0;
}

template <class A>
HD bool flow_finite(A x, A y) {
  return (x - x == A(0)) & (y - y == A(0));
}

// Near tap (maybe outside of the image) and fraction towards the next. `flow` is finite; sides are
// below 2^24. Under `border` the position is clamped into the image first.
template <class A>
HD void flow_position(A flow, int index, int size, bool border, int& near, A& a, bool& live) {
  const A far = A(1 << 25), most = flow < far ? flow : far, f = most > -far ? most : -far;
  const int whole = int(f);
  const int lower = whole - (A(whole) > f ? 1 : 0);
  a = f - A(lower);
  near = index + lower;
  live = true;
  if (border) {
    const int lowest = near < 0 ? 0 : near, inside = lowest < size - 1 ? lowest : size - 1;
    live = (near == inside) & (near < size - 1);
    a = live ? a : A(0);
    near = inside;
  }
}

// The two places that a position reads along one axis: `first` and the one after it (on an axis of
// one place, `first` again, with nothing). Both exist, whatever the flow; a place that is no tap
// has weight and slope 0.
template <class A>
struct FlowPair {
  int first;
  A weight0, weight1;
  A slope0, slope1; // d weight / d flow
};

template <class A>
HD FlowPair<A> flow_pair(A flow, int index, int size, bool border) {
  int near;
  A a;
  bool live;
  flow_position(flow, index, size, border, near, a, live);
  const int last = size > 1 ? size - 2 : 0, least = near > 0 ? near : 0;
  FlowPair<A> pair;
  pair.first = least < last ? least : last;
  const int ahead = near - pair.first; // of the first place is the near tap; the far one is next
  const A slope = live ? A(1) : A(0), second = size > 1 ? A(1) : A(0);
  pair.weight0 = ahead == 0 ? A(1) - a : ahead == -1 ? a : A(0);
  pair.weight1 = second * (ahead == 1 ? A(1) - a : ahead == 0 ? a : A(0));
  pair.slope0 = slope * (ahead == 0 ? A(-1) : ahead == -1 ? A(1) : A(0));
  pair.slope1 = slope * second * (ahead == 1 ? A(-1) : ahead == 0 ? A(1) : A(0));
  return pair;
}

} // namespace pose_kernels
