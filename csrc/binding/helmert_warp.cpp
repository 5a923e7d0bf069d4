// SPDX-License-Identifier: Apache-2.0
#include "../ops/helmert_warp.h"

#include <tuple>

#include "tensor.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const HelmertWarp<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const Tensor space = workspace(like, cuda::helmert_warp_workspace(op));
  cuda::helmert_warp(op, space.data_ptr(), current_stream(like));
#else
  cpu::helmert_warp(op);
#endif
}

template <class T>
void launch(const HelmertWarpBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const Tensor space = workspace(like, cuda::helmert_warp_backward_workspace(op));
  cuda::helmert_warp_backward(op, space.data_ptr(), current_stream(like));
#else
  cpu::helmert_warp_backward(op);
#endif
}

void check(const Tensor& volume, const Tensor& mask, const Tensor& transform) {
  STD_TORCH_CHECK(volume.dim() == 5, "volume must be (N, C, D, H, W)");
  STD_TORCH_CHECK(transform.dim() == 4 && transform.size(0) == volume.size(0) &&
                      transform.size(1) >= 1 && transform.size(1) <= 255 &&
                      transform.size(2) == 3 && transform.size(3) == 4,
                  "transform must be (N, P, 3, 4) with 1 to 255 parts");
  const bool bits = mask.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(bits || mask.scalar_type() == geometry_dtype(volume),
                  "mask must be int32, or float32, or float64 with float64 features");
  STD_TORCH_CHECK(!bits || transform.size(1) <= 31, "an int32 mask has bits for 31 parts");
  STD_TORCH_CHECK(mask.dim() == (bits ? 4 : 5) && mask.size(0) == volume.size(0) &&
                      (bits || mask.size(1) == transform.size(1)),
                  "mask must be (N, D, H, W) int32 or (N, P, D, H, W)");
  int64_t voxels = 1;
  for (int64_t i = 1; i <= 3; ++i) {
    STD_TORCH_CHECK(volume.size(-i) >= 1 && mask.size(-i) == volume.size(-i),
                    "volume and mask must agree in D, H and W, each at least 1");
    voxels *= volume.size(-i);
  }
  STD_TORCH_CHECK(voxels <= INT32_MAX, "a volume must have fewer than 2^31 voxels");
  STD_TORCH_CHECK(transform.scalar_type() == geometry_dtype(volume),
                  "transform must be float32, or float64 with float64 features");
  check_device(mask, volume);
  check_device(transform, volume);
}

template <class A>
const A* float_mask(const Tensor& mask) {
  return mask.scalar_type() == ScalarType::Int ? nullptr : static_cast<const A*>(mask.data_ptr());
}

const int32_t* bit_mask(const Tensor& mask) {
  return mask.scalar_type() == ScalarType::Int ? static_cast<const int32_t*>(mask.data_ptr())
                                               : nullptr;
}

std::vector<int64_t> shape_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

Tensor helmert_warp(const Tensor& volume_, const Tensor& mask_, const Tensor& transform_) {
  check(volume_, mask_, transform_);
  POSE_KERNELS_GUARD(volume_);
  const bool last = is_channels_last(volume_, 3);
  const Tensor volume = dense(volume_, last, 3), mask = torch::stable::contiguous(mask_),
               transform = torch::stable::contiguous(transform_);
  Tensor out = empty(volume, shape_of(volume), volume.scalar_type(), last, 3);
  for_dtype(volume, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(HelmertWarp<T>{volume.size(0), volume.size(1), volume.size(2), volume.size(3),
                          volume.size(4), transform.size(1), planes<const T>(volume, last, 3),
                          bit_mask(mask), float_mask<A>(mask),
                          static_cast<const A*>(transform.data_ptr()), planes<T>(out, last, 3)},
           volume);
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> helmert_warp_backward(const Tensor& grad_, const Tensor& volume_,
                                                         const Tensor& mask_,
                                                         const Tensor& transform_, bool need_volume,
                                                         bool need_mask, bool need_transform) {
  check(volume_, mask_, transform_);
  STD_TORCH_CHECK(grad_.dim() == 5, "grad must be (N, C, D, H, W)");
  for (int64_t i = 0; i < 5; ++i)
    STD_TORCH_CHECK(grad_.size(i) == volume_.size(i), "grad must have the shape of volume");
  STD_TORCH_CHECK(grad_.scalar_type() == volume_.scalar_type(), "grad must have volume's dtype");
  STD_TORCH_CHECK(!need_mask || bit_mask(mask_) == nullptr, "an int32 mask has no gradient");
  check_device(grad_, volume_);
  POSE_KERNELS_GUARD(volume_);
  // Each of the two in its own format: a copy would be one more volume.
  const bool grad_last = is_channels_last(grad_, 3), last = is_channels_last(volume_, 3);
  const Tensor grad = dense(grad_, grad_last, 3), volume = dense(volume_, last, 3),
               mask = torch::stable::contiguous(mask_),
               transform = torch::stable::contiguous(transform_);
  const std::vector<int64_t> none{0};
  const ScalarType geometry = geometry_dtype(volume);
  Tensor grad_volume = need_volume
                           ? empty(grad, shape_of(volume), volume.scalar_type(), grad_last, 3)
                           : empty(volume, none, volume.scalar_type());
  Tensor grad_mask = empty(mask, need_mask ? shape_of(mask) : none, mask.scalar_type());
  Tensor grad_transform = empty(transform, need_transform ? shape_of(transform) : none, geometry);
  for_dtype(volume, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(
        HelmertWarpBackward<T>{
            volume.size(0), volume.size(1), volume.size(2), volume.size(3), volume.size(4),
            transform.size(1), planes<const T>(grad, grad_last, 3),
            planes<const T>(volume, last, 3), bit_mask(mask), float_mask<A>(mask),
            static_cast<const A*>(transform.data_ptr()),
            need_volume ? planes<T>(grad_volume, grad_last, 3) : Planes<T>{nullptr, 0, 0},
            need_mask ? static_cast<A*>(grad_mask.data_ptr()) : nullptr,
            need_transform ? static_cast<A*>(grad_transform.data_ptr()) : nullptr},
        volume);
  });
  return {grad_volume, grad_mask, grad_transform};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("helmert_warp", TORCH_BOX(&helmert_warp));
  m.impl("helmert_warp_backward", TORCH_BOX(&helmert_warp_backward));
}

} // namespace pose_kernels
