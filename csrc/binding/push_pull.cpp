// SPDX-License-Identifier: Apache-2.0
#include "../ops/push_pull.h"

#include "tensor.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const PushPull<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const Tensor space = workspace(like, cuda::push_pull_workspace(op));
  cuda::push_pull(op, space.data_ptr(), current_stream(like));
#else
  cpu::push_pull(op);
#endif
}

Tensor push_pull(const Tensor& atlas_, const Tensor& weight_, int64_t radius, double min_weight,
                 bool adjoint) {
  STD_TORCH_CHECK(atlas_.dim() == 4 && weight_.dim() == 3,
                  "atlas must be (M, C, H, W) and weight (M, H, W)");
  const int64_t M = atlas_.size(0), C = atlas_.size(1), H = atlas_.size(2), W = atlas_.size(3);
  STD_TORCH_CHECK(weight_.size(0) == M && weight_.size(1) == H && weight_.size(2) == W,
                  "atlas and weight must agree in M, H and W");
  STD_TORCH_CHECK(weight_.scalar_type() == geometry_dtype(atlas_),
                  "weight must be float32, or float64 with a float64 atlas");
  check_pixels(H, W);
  check_device(weight_, atlas_);
  POSE_KERNELS_GUARD(atlas_);
  const bool last = is_channels_last(atlas_);
  const Tensor atlas = dense(atlas_, last), weight = torch::stable::contiguous(weight_);
  Tensor filled = empty(atlas, {M, C, H, W}, atlas.scalar_type(), last);
  for_dtype(atlas, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(PushPull<T>{M, C, H, W, planes<const T>(atlas, last),
                       static_cast<const A*>(weight.data_ptr()), A(min_weight), radius, adjoint,
                       planes<T>(filled, last)},
           atlas);
  });
  return filled;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("push_pull", TORCH_BOX(&push_pull));
}

} // namespace pose_kernels
