// SPDX-License-Identifier: Apache-2.0
#include "../ops/uv_splat.h"

#include <optional>
#include <tuple>

#include "surface.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const UvSplat<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const Tensor space = workspace(like, cuda::uv_splat_workspace(op));
  cuda::uv_splat(op, space.data_ptr(), current_stream(like));
#else
  cpu::uv_splat(op);
#endif
}

template <class T>
void launch(const UvSplatBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::uv_splat_backward(op, current_stream(like));
#else
  cpu::uv_splat_backward(op);
#endif
}

std::tuple<Tensor, Tensor> uv_splat(const Tensor& image_, const Tensor& part_, const Tensor& uv_,
                                    int64_t P, int64_t S, bool normalize, double min_weight,
                                    bool with_weight) {
  STD_TORCH_CHECK(image_.dim() == 4, "image must be (N, C, H, W)");
  const int64_t N = image_.size(0), C = image_.size(1), H = image_.size(2), W = image_.size(3);
  check_surface(image_, part_, uv_, N);
  STD_TORCH_CHECK(part_.size(1) == H && part_.size(2) == W, "part must have the size of image");
  STD_TORCH_CHECK(P >= 1 && P <= INT32_MAX && S >= 1, "num_parts and size must be at least 1");
  STD_TORCH_CHECK(with_weight || !normalize, "a normalized splat needs with_weight");
  check_pixels(S, S);
  POSE_KERNELS_GUARD(image_);
  const bool last = is_channels_last(image_);
  const Tensor image = dense(image_, last), part = torch::stable::contiguous(part_),
               uv = torch::stable::contiguous(uv_);
  Tensor atlas = empty(image, {N, P, C, S, S}, image.scalar_type(), last);
  Tensor weight =
      with_weight ? empty(uv, {N, P, S, S}, uv.scalar_type()) : empty(uv, {0}, uv.scalar_type());
  for_dtype(image, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(UvSplat<T>{N, C, H, W, P, S, planes<const T>(image, last), part_map(part),
                      static_cast<const A*>(uv.data_ptr()), planes<T>(atlas, last),
                      with_weight ? static_cast<A*>(weight.data_ptr()) : nullptr, normalize,
                      A(min_weight)},
           image);
  });
  return {atlas, weight};
}

std::tuple<Tensor, Tensor> uv_splat_backward(const Tensor& grad_atlas_,
                                             std::optional<Tensor> grad_weight_,
                                             std::optional<Tensor> image_, const Tensor& part_,
                                             const Tensor& uv_, std::optional<Tensor> atlas_,
                                             std::optional<Tensor> weight_, double min_weight,
                                             bool need_image, bool need_uv) {
  STD_TORCH_CHECK(grad_atlas_.dim() == 5 && grad_atlas_.size(3) == grad_atlas_.size(4),
                  "grad_atlas must be (N, P, C, S, S)");
  const int64_t N = grad_atlas_.size(0), P = grad_atlas_.size(1), C = grad_atlas_.size(2),
                S = grad_atlas_.size(3), H = part_.size(-2), W = part_.size(-1);
  check_surface(grad_atlas_, part_, uv_, N);
  STD_TORCH_CHECK(S >= 1, "a tile must have at least one texel");
  check_pixels(S, S);
  STD_TORCH_CHECK(!need_uv || image_, "the gradient of uv needs the image");
  STD_TORCH_CHECK(!need_uv || !weight_ || atlas_, "the gradient of uv needs the atlas");
  POSE_KERNELS_GUARD(grad_atlas_);
  const bool last = is_channels_last(grad_atlas_);
  const ScalarType features = grad_atlas_.scalar_type(), geometry = uv_.scalar_type();
  const Tensor grad_atlas = dense(grad_atlas_, last), part = torch::stable::contiguous(part_),
               uv = torch::stable::contiguous(uv_);
  auto dense_features = [&](const std::optional<Tensor>& tensor, int64_t rank) {
    check_device(*tensor, grad_atlas_);
    STD_TORCH_CHECK(tensor->dim() == rank && tensor->scalar_type() == features,
                    "image, atlas and grad_atlas must have one dtype");
    return dense(*tensor, last);
  };
  auto dense_weight = [&](const std::optional<Tensor>& tensor) {
    check_device(*tensor, grad_atlas_);
    STD_TORCH_CHECK(tensor->scalar_type() == geometry && tensor->numel() == N * P * S * S,
                    "weight must be (N, P, S, S) in the dtype of uv");
    return torch::stable::contiguous(*tensor);
  };
  std::optional<Tensor> image, atlas, weight, grad_weight;
  if (need_uv)
    image = dense_features(image_, 4);
  if (need_uv && weight_)
    atlas = dense_features(atlas_, 5);
  if (weight_)
    weight = dense_weight(weight_);
  if (need_uv && grad_weight_)
    grad_weight = dense_weight(grad_weight_);
  STD_TORCH_CHECK(!image || image->numel() == N * C * H * W, "image must be (N, C, H, W)");
  STD_TORCH_CHECK(!atlas || atlas->numel() == grad_atlas.numel(), "atlas must be (N, P, C, S, S)");

  Tensor grad_image = need_image ? empty(grad_atlas, {N, C, H, W}, features, last)
                                 : empty(grad_atlas, {0}, features);
  Tensor grad_uv =
      empty(uv, need_uv ? std::vector<int64_t>{N, 2, H, W} : std::vector<int64_t>{0}, geometry);
  for_dtype(grad_atlas, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    auto pointer = [](const std::optional<Tensor>& tensor) {
      return tensor ? static_cast<const A*>(tensor->data_ptr()) : nullptr;
    };
    const Planes<const T> absent{nullptr, 0, 0};
    launch(UvSplatBackward<T>{N, C, H, W, P, S, planes<const T>(grad_atlas, last),
                              pointer(grad_weight), image ? planes<const T>(*image, last) : absent,
                              part_map(part), static_cast<const A*>(uv.data_ptr()),
                              atlas ? planes<const T>(*atlas, last) : absent, pointer(weight),
                              A(min_weight),
                              need_image ? planes<T>(grad_image, last) : Planes<T>{nullptr, 0, 0},
                              need_uv ? static_cast<A*>(grad_uv.data_ptr()) : nullptr},
           grad_atlas);
  });
  return {grad_image, grad_uv};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("uv_splat", TORCH_BOX(&uv_splat));
  m.impl("uv_splat_backward", TORCH_BOX(&uv_splat_backward));
}

} // namespace pose_kernels
