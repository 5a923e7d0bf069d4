// SPDX-License-Identifier: Apache-2.0
// region_crop and its adjoint: what a launcher gets. One layout for both memory formats: planes of
// pixels. Contiguous, a plane is a channel; channels last, all channels are one plane.
#pragma once

#include "../math/window.h"

namespace pose_kernels {

// Copies bytes: element types do not matter.
struct RegionCrop {
  int64_t N, K, planes, H, W, size;
  int64_t pixel;     // bytes
  Centers center;    // [N, K, 2]
  const void* image; // [N, planes, H, W] pixels
  void* crops;       // [N, K, planes, size, size] pixels      out
  bool* valid;       // [N, K]                                 out
};

template <class T>
struct RegionCropBackward {
  int64_t N, K, planes, H, W, size;
  int64_t across; // elements of a pixel; 1 unless planes is 1
  Centers center; // [N, K, 2]
  const T* grad;  // [N, K, planes, size, size, across]
  T* grad_image;  // [N, planes, H, W, across]                 out
};

namespace cpu {
void region_crop(const RegionCrop&);
template <class T>
void region_crop_backward(const RegionCropBackward<T>&);
} // namespace cpu

namespace cuda {
void region_crop(const RegionCrop&, void* stream);
template <class T>
void region_crop_backward(const RegionCropBackward<T>&, void* stream);
} // namespace cuda

} // namespace pose_kernels
