// SPDX-License-Identifier: Apache-2.0
// flow_warp and its backward: what a launcher gets.
#pragma once

#include "../math/flow.h"
#include "../math/layout.h"

namespace pose_kernels {

template <class T>
struct FlowWarp {
  int64_t N, C, H, W, h, w;  // image H x W, output h x w
  Planes<const T> image;     // [N, C, H W]
  const acc_t<T>* flow;      // [N, 2, h, w]
  const uint8_t* visibility; // [N, h, w]      or null where mode is kFlowPlain
  int mode;                  // a FlowMode
  bool border;
  Planes<T> out; // [N, C, h w], kFlowExpand: [N, 2 C, h w]     out
};

// grad_image is the exact adjoint of the warp.
//   d_k = sum_c g_c image_kc        grad_flow = sum_k d_k d w_k / d flow     over the four taps k
template <class T>
struct FlowWarpBackward {
  int64_t N, C, H, W, h, w;
  Planes<const T> grad;      // [N, C or 2 C, h w]
  Planes<const T> image;     // [N, C, H W]    read for grad_flow only
  const acc_t<T>* flow;      // [N, 2, h, w]
  const uint8_t* visibility; // [N, h, w]      or null
  int mode;
  bool border;
  Planes<T> grad_image; // [N, C, H W]    out, or null: not wanted
  acc_t<T>* grad_flow;  // [N, 2, h, w]   out, or null: not wanted

  HD int64_t out_channels() const { return mode == kFlowExpand ? 2 * C : C; }
};

namespace cpu {
template <class T>
void flow_warp(const FlowWarp<T>&);
template <class T>
void flow_warp_backward(const FlowWarpBackward<T>&);
} // namespace cpu

namespace cuda { // `workspace` holds at least *_workspace() bytes; `stream` is a cudaStream_t
template <class T>
void flow_warp(const FlowWarp<T>&, void* stream);
template <class T>
int64_t flow_warp_backward_workspace(const FlowWarpBackward<T>&);
template <class T>
void flow_warp_backward(const FlowWarpBackward<T>&, void* workspace, void* stream);
} // namespace cuda

} // namespace pose_kernels
