// SPDX-License-Identifier: Apache-2.0
#include "../ops/region_crop.h"

#include <tuple>

#include "tensor.h"

namespace pose_kernels {
namespace {

void launch(const RegionCrop& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::region_crop(op, current_stream(like));
#else
  cpu::region_crop(op);
#endif
}

template <class T>
void launch(const RegionCropBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::region_crop_backward(op, current_stream(like));
#else
  cpu::region_crop_backward(op);
#endif
}

Centers centers(const Tensor& center) {
  return {center.data_ptr(), center.scalar_type() == ScalarType::Double};
}

void check_windows(const Tensor& features, const Tensor& center, int64_t C, int64_t H, int64_t W,
                   int64_t size) {
  STD_TORCH_CHECK(center.dim() == 3 && center.size(2) == 2 && center.size(1) >= 1,
                  "center must be (N, K, 2) with K at least 1");
  STD_TORCH_CHECK(center.size(0) == features.size(0), "image and center must agree in N");
  STD_TORCH_CHECK(center.scalar_type() == ScalarType::Float ||
                      center.scalar_type() == ScalarType::Double,
                  "center must be float32 or float64");
  STD_TORCH_CHECK(size >= 1 && size <= H && size <= W, "size must be 1 to the sides of the image");
  STD_TORCH_CHECK(C * size <= INT32_MAX, "too many channels");
  check_pixels(H, W);
  check_device(center, features);
}

std::tuple<Tensor, Tensor> region_crop(const Tensor& image_, const Tensor& center_, int64_t size) {
  STD_TORCH_CHECK(image_.dim() == 4, "image must be (N, C, H, W)");
  const int64_t N = image_.size(0), C = image_.size(1), H = image_.size(2), W = image_.size(3);
  check_windows(image_, center_, C, H, W, size);
  for_dtype(image_, [](auto) {});
  POSE_KERNELS_GUARD(image_);
  const bool last = is_channels_last(image_);
  const Tensor image = dense(image_, last), center = torch::stable::contiguous(center_);
  const int64_t K = center.size(1), element = int64_t(image.element_size());
  Tensor crops = empty(image, {N, K, C, size, size}, image.scalar_type(), last);
  Tensor valid = torch::stable::new_empty(image, {N, K}, ScalarType::Bool);
  launch(RegionCrop{N, K, last ? 1 : C, H, W, size, last ? C * element : element, centers(center),
                    image.data_ptr(), crops.mutable_data_ptr(),
                    static_cast<bool*>(valid.mutable_data_ptr())},
         image);
  return {crops, valid};
}

Tensor region_crop_backward(const Tensor& grad_, const Tensor& center_, int64_t H, int64_t W) {
  STD_TORCH_CHECK(grad_.dim() == 5 && grad_.size(3) == grad_.size(4),
                  "grad must be (N, K, C, s, s)");
  const int64_t N = grad_.size(0), K = grad_.size(1), C = grad_.size(2), size = grad_.size(3);
  check_windows(grad_, center_, C, H, W, size);
  STD_TORCH_CHECK(center_.size(1) == K, "grad and center must agree in K");
  POSE_KERNELS_GUARD(grad_);
  const bool last = is_channels_last(grad_);
  const Tensor grad = dense(grad_, last), center = torch::stable::contiguous(center_);
  Tensor grad_image = empty(grad, {N, C, H, W}, grad.scalar_type(), last);
  for_dtype(grad, [&](auto type) {
    using T = decltype(type);
    launch(RegionCropBackward<T>{N, K, last ? 1 : C, H, W, size, last ? C : 1, centers(center),
                                 static_cast<const T*>(grad.data_ptr()),
                                 static_cast<T*>(grad_image.mutable_data_ptr())},
           grad);
  });
  return grad_image;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("region_crop", TORCH_BOX(&region_crop));
  m.impl("region_crop_backward", TORCH_BOX(&region_crop_backward));
}

} // namespace pose_kernels
