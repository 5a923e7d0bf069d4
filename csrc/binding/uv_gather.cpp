// SPDX-License-Identifier: Apache-2.0
#include "../ops/uv_gather.h"

#include "surface.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const UvGather<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::uv_gather(op, current_stream(like));
#else
  cpu::uv_gather(op);
#endif
}

Tensor uv_gather(const Tensor& atlas_, const Tensor& part_, const Tensor& uv_) {
  STD_TORCH_CHECK(atlas_.dim() == 5 && atlas_.size(3) == atlas_.size(4) && atlas_.size(3) >= 1,
                  "atlas must be (N, P, C, S, S)");
  check_surface(atlas_, part_, uv_, atlas_.size(0));
  const int64_t N = atlas_.size(0), P = atlas_.size(1), C = atlas_.size(2), S = atlas_.size(3),
                H = part_.size(1), W = part_.size(2);
  STD_TORCH_CHECK(P <= INT32_MAX, "too many parts");
  check_pixels(S, S);
  POSE_KERNELS_GUARD(atlas_);
  const bool last = is_channels_last(atlas_);
  const Tensor atlas = dense(atlas_, last), part = torch::stable::contiguous(part_),
               uv = torch::stable::contiguous(uv_);
  Tensor image = empty(atlas, {N, C, H, W}, atlas.scalar_type(), last);
  for_dtype(atlas, [&](auto type) {
    using T = decltype(type);
    launch(UvGather<T>{N, C, H, W, P, S, planes<const T>(atlas, last), part_map(part),
                       static_cast<const acc_t<T>*>(uv.data_ptr()), planes<T>(image, last)},
           atlas);
  });
  return image;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("uv_gather", TORCH_BOX(&uv_gather));
}

} // namespace pose_kernels
