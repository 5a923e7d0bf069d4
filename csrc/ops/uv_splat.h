// SPDX-License-Identifier: Apache-2.0
// uv_splat and its backward: what a launcher gets. The same structs serve the CPU and the CUDA
// library.
#pragma once

#include "../math/layout.h"

namespace pose_kernels {

template <class T>
struct UvSplat {
  int64_t N, C, H, W, P, S;
  Planes<const T> image; // [N, C, H W]
  PartMap part;          // [N, H, W]
  const acc_t<T>* uv;    // [N, 2, H, W]
  Planes<T> atlas;       // [N P, C, S S]   out: A, or A / D
  acc_t<T>* weight;      // [N, P, S, S]    out: D, or null: not wanted
  bool normalize;        // atlas = A / D where D > min_weight, else 0
  acc_t<T> min_weight;
};

// Pure gather: every pixel reads the four texels it was splatted to.
//   q_k        = grad_atlas_k [/ D_k where D_k > min_weight, else 0]
//   grad_image = sum_k w_k q_k
//   g_k        = sum_c (image_c - atlas_kc) q_kc [+ grad_weight_k]     (atlas_kc only when
//   normalized) grad_uv    = sum_k g_k d w_k / d uv
template <class T>
struct UvSplatBackward {
  int64_t N, C, H, W, P, S;
  Planes<const T> grad_atlas;  // [N P, C, S S]
  const acc_t<T>* grad_weight; // [N, P, S, S]    or null: zero
  Planes<const T> image;       // [N, C, H W]     read for grad_uv only
  PartMap part;                // [N, H, W]
  const acc_t<T>* uv;          // [N, 2, H, W]
  Planes<const T> atlas;       // [N P, C, S S]   read for grad_uv when normalized
  const acc_t<T>* weight;      // [N, P, S, S]    D when normalized, else null
  acc_t<T> min_weight;
  Planes<T> grad_image; // [N, C, H W]     out, or null: not wanted
  acc_t<T>* grad_uv;    // [N, 2, H, W]    out, or null: not wanted
};

namespace cpu {
template <class T>
void uv_splat(const UvSplat<T>&);
template <class T>
void uv_splat_backward(const UvSplatBackward<T>&);
} // namespace cpu

namespace cuda { // `workspace` holds at least *_workspace() bytes; `stream` is a cudaStream_t
template <class T>
int64_t uv_splat_workspace(const UvSplat<T>&);
template <class T>
void uv_splat(const UvSplat<T>&, void* workspace, void* stream);
template <class T>
void uv_splat_backward(const UvSplatBackward<T>&, void* stream);
} // namespace cuda

} // namespace pose_kernels
