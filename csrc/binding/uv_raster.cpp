// SPDX-License-Identifier: Apache-2.0
#include "../ops/uv_raster.h"

#include <tuple>

#include "surface.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const UvRaster<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const Tensor space = workspace(like, cuda::uv_raster_workspace(op));
  cuda::uv_raster(op, space.data_ptr(), current_stream(like));
#else
  cpu::uv_raster(op);
#endif
}

template <class T>
void launch(const UvRasterBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::uv_raster_backward(op, current_stream(like));
#else
  cpu::uv_raster_backward(op);
#endif
}

void check_tiles(int64_t P, int64_t S, double max_edge) {
  STD_TORCH_CHECK(P >= 1 && P <= INT32_MAX && S >= 1, "num_parts and size must be at least 1");
  check_pixels(S, S);
  STD_TORCH_CHECK(max_edge >= 0, "max_edge must be a number of at least 0");
}

std::tuple<Tensor, Tensor> uv_raster(const Tensor& image_, const Tensor& part_, const Tensor& uv_,
                                     int64_t P, int64_t S, double max_edge) {
  STD_TORCH_CHECK(image_.dim() == 4, "image must be (N, C, H, W)");
  const int64_t N = image_.size(0), C = image_.size(1), H = image_.size(2), W = image_.size(3);
  check_surface(image_, part_, uv_, N);
  STD_TORCH_CHECK(part_.size(1) == H && part_.size(2) == W, "part must have the size of image");
  check_tiles(P, S, max_edge);
  POSE_KERNELS_GUARD(image_);
  const bool last = is_channels_last(image_);
  const Tensor image = dense(image_, last), part = torch::stable::contiguous(part_),
               uv = torch::stable::contiguous(uv_);
  Tensor atlas = empty(image, {N, P, C, S, S}, image.scalar_type(), last);
  Tensor weight = empty(uv, {N, P, S, S}, uv.scalar_type());
  for_dtype(image, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(UvRaster<T>{N, C, H, W, P, S, planes<const T>(image, last), part_map(part),
                       static_cast<const A*>(uv.data_ptr()), planes<T>(atlas, last),
                       static_cast<A*>(weight.data_ptr()), max_edge},
           image);
  });
  return {atlas, weight};
}

Tensor uv_raster_backward(const Tensor& grad_atlas_, const Tensor& part_, const Tensor& uv_,
                          const Tensor& weight_, double max_edge) {
  STD_TORCH_CHECK(grad_atlas_.dim() == 5 && grad_atlas_.size(3) == grad_atlas_.size(4),
                  "grad_atlas must be (N, P, C, S, S)");
  const int64_t N = grad_atlas_.size(0), P = grad_atlas_.size(1), C = grad_atlas_.size(2),
                S = grad_atlas_.size(3), H = part_.size(-2), W = part_.size(-1);
  check_surface(grad_atlas_, part_, uv_, N);
  check_tiles(P, S, max_edge);
  STD_TORCH_CHECK(weight_.dim() == 4 && weight_.size(0) == N && weight_.size(1) == P &&
                      weight_.size(2) == S && weight_.size(3) == S &&
                      weight_.scalar_type() == uv_.scalar_type(),
                  "weight must be (N, P, S, S) in the dtype of uv");
  check_device(weight_, grad_atlas_);
  POSE_KERNELS_GUARD(grad_atlas_);
  const bool last = is_channels_last(grad_atlas_);
  const Tensor grad_atlas = dense(grad_atlas_, last), part = torch::stable::contiguous(part_),
               uv = torch::stable::contiguous(uv_), weight = torch::stable::contiguous(weight_);
  Tensor grad_image = empty(grad_atlas, {N, C, H, W}, grad_atlas.scalar_type(), last);
  for_dtype(grad_atlas, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(UvRasterBackward<T>{N, C, H, W, P, S, planes<const T>(grad_atlas, last), part_map(part),
                               static_cast<const A*>(uv.data_ptr()),
                               static_cast<const A*>(weight.data_ptr()), max_edge,
                               planes<T>(grad_image, last)},
           grad_atlas);
  });
  return grad_image;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("uv_raster", TORCH_BOX(&uv_raster));
  m.impl("uv_raster_backward", TORCH_BOX(&uv_raster_backward));
}

} // namespace pose_kernels
