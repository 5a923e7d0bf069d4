// SPDX-License-Identifier: Apache-2.0
// push_pull and its adjoint: what a launcher gets.
#pragma once

#include "../math/layout.h"

namespace pose_kernels {

template <class T>
struct PushPull {
  int64_t M, C, H, W;     // M tiles of C channels
  Planes<const T> atlas;  // [M, C, H W]   values where known; others are never read
  const acc_t<T>* weight; // [M, H, W]     known where weight > min_weight
  acc_t<T> min_weight;
  int64_t radius; // fill no farther (Chebyshev, texels) than this from a known texel; < 0: no limit
  bool adjoint;   // apply the transpose of the (linear) fill instead
  Planes<T> filled; // [M, C, H W]   out
};

namespace cpu {
template <class T>
void push_pull(const PushPull<T>&);
}

namespace cuda {
template <class T>
int64_t push_pull_workspace(const PushPull<T>&);
template <class T>
void push_pull(const PushPull<T>&, void* workspace, void* stream);
} // namespace cuda

} // namespace pose_kernels
