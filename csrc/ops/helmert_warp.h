// SPDX-License-Identifier: Apache-2.0
// helmert_warp and its backward: what a launcher gets.
//
//   out[x, c] = max over parts i of v_i(x, c),    v_i(x, c) = sum over 8 corners q of
//               w_q(A_i x) m_i(q) V(q, c)         accumulated in acc_t
//
// A part is *covered* at x when A_i x is finite and inside, and one of its true corners (derivative
// != 0 on each axis, see axis_cell) has a mask that is not 0. Elsewhere v_i = 0 exactly, and such a
// part takes part in the max with that 0 but passes no gradient to anything.
// The winner is the lowest i among equal values. NaN wins over every number; the first NaN stays.
// Positions are computed with add_product from the row: whole and fraction of (A_i3), then + A_i1
// y,
// + A_i2 z, + A_i0 x, in this order.
#pragma once

#include "../math/layout.h"

namespace pose_kernels {

template <class T>
struct HelmertWarp {
  int64_t N, C, D, H, W, P;
  Planes<const T> volume;    // [N, C, D H W]
  const int32_t* bits;       // [N, D, H, W] bit p = part p, or null: the mask is `mask`
  const acc_t<T>* mask;      // [N, P, D, H, W], or null: the mask is `bits`
  const acc_t<T>* transform; // [N, P, 3, 4] output voxel -> source position
  Planes<T> out;             // [N, C, D H W]     out
};

template <class T>
struct HelmertWarpBackward {
  int64_t N, C, D, H, W, P;
  Planes<const T> grad;      // [N, C, D H W]
  Planes<const T> volume;    // [N, C, D H W]
  const int32_t* bits;       // as above
  const acc_t<T>* mask;      //
  const acc_t<T>* transform; // [N, P, 3, 4]
  Planes<T> grad_volume;     // [N, C, D H W]     out, or null
  acc_t<T>* grad_mask;       // [N, P, D, H, W]   out, or null
  acc_t<T>* grad_transform;  // [N, P, 3, 4]      out, or null
};

namespace cpu {
template <class T>
void helmert_warp(const HelmertWarp<T>&);
template <class T>
void helmert_warp_backward(const HelmertWarpBackward<T>&);
} // namespace cpu

namespace cuda {
// Bytes of scratch memory on the device; at most one byte per element of the volume, where that is
// more than a few megabytes.
template <class T>
int64_t helmert_warp_workspace(const HelmertWarp<T>&);
template <class T>
void helmert_warp(const HelmertWarp<T>&, void* workspace, void* stream);
template <class T>
int64_t helmert_warp_backward_workspace(const HelmertWarpBackward<T>&);
template <class T>
void helmert_warp_backward(const HelmertWarpBackward<T>&, void* workspace, void* stream);
} // namespace cuda

} // namespace pose_kernels
