// SPDX-License-Identifier: Apache-2.0
#include "../ops/flow_warp.h"

#include <tuple>

#include "tensor.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const FlowWarp<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::flow_warp(op, current_stream(like));
#else
  cpu::flow_warp(op);
#endif
}

template <class T>
void launch(const FlowWarpBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const Tensor space = workspace(like, cuda::flow_warp_backward_workspace(op));
  cuda::flow_warp_backward(op, space.data_ptr(), current_stream(like));
#else
  cpu::flow_warp_backward(op);
#endif
}

void check(const Tensor& image, const Tensor& flow, const std::optional<Tensor>& visibility,
           int64_t mode, int64_t padding) {
  constexpr int64_t side = int64_t(1) << 24;
  STD_TORCH_CHECK(image.dim() == 4 && image.size(2) >= 1 && image.size(3) >= 1 &&
                      image.size(2) < side && image.size(3) < side,
                  "image must be (N, C, H, W) with 1 to 2^24 - 1 pixels a side");
  STD_TORCH_CHECK(flow.dim() == 4 && flow.size(0) == image.size(0) && flow.size(1) == 2 &&
                      flow.size(2) < side && flow.size(3) < side,
                  "flow must be (N, 2, H', W') with at most 2^24 - 1 pixels a side");
  STD_TORCH_CHECK(flow.scalar_type() == geometry_dtype(image),
                  "flow must be float32, or float64 with float64 features");
  STD_TORCH_CHECK(mode >= kFlowPlain && mode <= kFlowExpand, "mode must be 0, 1 or 2");
  STD_TORCH_CHECK(padding == 0 || padding == 1, "padding must be 0 or 1");
  check_pixels(image.size(2), image.size(3));
  check_pixels(flow.size(2), flow.size(3));
  check_device(flow, image);
  STD_TORCH_CHECK(mode == kFlowPlain || visibility.has_value(), "this mode needs visibility");
  if (!visibility.has_value())
    return;
  STD_TORCH_CHECK(visibility->scalar_type() == ScalarType::Byte && visibility->dim() == 3 &&
                      visibility->size(0) == flow.size(0) && visibility->size(1) == flow.size(2) &&
                      visibility->size(2) == flow.size(3),
                  "visibility must be (N, H', W') uint8");
  check_device(*visibility, image);
}

const uint8_t* data_of(const std::optional<Tensor>& visibility) {
  return visibility.has_value() ? static_cast<const uint8_t*>(visibility->data_ptr()) : nullptr;
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? std::optional<Tensor>(torch::stable::contiguous(*tensor))
                            : std::nullopt;
}

Tensor flow_warp(const Tensor& image_, const Tensor& flow_, std::optional<Tensor> visibility_,
                 int64_t mode, int64_t padding) {
  check(image_, flow_, visibility_, mode, padding);
  const int64_t N = image_.size(0), C = image_.size(1), h = flow_.size(2), w = flow_.size(3);
  POSE_KERNELS_GUARD(image_);
  const bool last = is_channels_last(image_);
  const Tensor image = dense(image_, last), flow = torch::stable::contiguous(flow_);
  const std::optional<Tensor> visibility = contiguous(visibility_);
  Tensor out = empty(image, {N, mode == kFlowExpand ? 2 * C : C, h, w}, image.scalar_type(), last);
  for_dtype(image, [&](auto type) {
    using T = decltype(type);
    launch(FlowWarp<T>{N, C, image.size(2), image.size(3), h, w, planes<const T>(image, last),
                       static_cast<const acc_t<T>*>(flow.data_ptr()), data_of(visibility),
                       int(mode), padding == 1, planes<T>(out, last)},
           image);
  });
  return out;
}

std::tuple<Tensor, Tensor> flow_warp_backward(const Tensor& grad_, const Tensor& image_,
                                              const Tensor& flow_,
                                              std::optional<Tensor> visibility_, int64_t mode,
                                              int64_t padding, bool need_image, bool need_flow) {
  check(image_, flow_, visibility_, mode, padding);
  const int64_t N = image_.size(0), C = image_.size(1), H = image_.size(2), W = image_.size(3),
                h = flow_.size(2), w = flow_.size(3);
  STD_TORCH_CHECK(grad_.dim() == 4 && grad_.size(0) == N &&
                      grad_.size(1) == (mode == kFlowExpand ? 2 * C : C) && grad_.size(2) == h &&
                      grad_.size(3) == w,
                  "grad must have the shape of the warped image");
  STD_TORCH_CHECK(grad_.scalar_type() == image_.scalar_type(), "grad must have image's dtype");
  check_device(grad_, image_);
  POSE_KERNELS_GUARD(image_);
  const bool last = is_channels_last(grad_);
  const Tensor grad = dense(grad_, last), flow = torch::stable::contiguous(flow_);
  const Tensor image = need_flow ? dense(image_, last) : image_;
  const std::optional<Tensor> visibility = contiguous(visibility_);
  const std::vector<int64_t> none{0};
  Tensor grad_image = need_image ? empty(grad, {N, C, H, W}, grad.scalar_type(), last)
                                 : empty(grad, none, grad.scalar_type());
  Tensor grad_flow = need_flow ? empty(flow, {N, 2, h, w}, flow.scalar_type())
                               : empty(flow, none, flow.scalar_type());
  for_dtype(grad, [&](auto type) {
    using T = decltype(type);
    using A = acc_t<T>;
    launch(FlowWarpBackward<T>{N, C, H, W, h, w, planes<const T>(grad, last),
                               need_flow ? planes<const T>(image, last)
                                         : Planes<const T>{nullptr, 0, 0},
                               static_cast<const A*>(flow.data_ptr()), data_of(visibility),
                               int(mode), padding == 1,
                               need_image ? planes<T>(grad_image, last) : Planes<T>{nullptr, 0, 0},
                               need_flow ? static_cast<A*>(grad_flow.data_ptr()) : nullptr},
           grad);
  });
  return {grad_image, grad_flow};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("flow_warp", TORCH_BOX(&flow_warp));
  m.impl("flow_warp_backward", TORCH_BOX(&flow_warp_backward));
}

} // namespace pose_kernels
