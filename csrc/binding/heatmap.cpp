// SPDX-License-Identifier: Apache-2.0
#include "../ops/heatmap.h"

#include <cmath>

#include "../math/gaussian.h"
#include "tensor.h"

namespace pose_kernels {
namespace {

template <class T>
void launch(const Heatmap<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::heatmap(op, current_stream(like));
#else
  cpu::heatmap(op);
#endif
}

template <class T>
void launch(const HeatmapBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  const int64_t bytes = cuda::heatmap_backward_workspace(op);
  Tensor memory;
  if (bytes > 0)
    memory = workspace(like, bytes);
  cuda::heatmap_backward(op, bytes > 0 ? memory.mutable_data_ptr() : nullptr, current_stream(like));
#else
  cpu::heatmap_backward(op);
#endif
}

template <class Body>
void for_points(const Tensor& points, const Body& body) {
  if (points.scalar_type() == ScalarType::Double)
    return body(double());
  STD_TORCH_CHECK(points.scalar_type() == ScalarType::Float, "points must be float32 or float64");
  body(float());
}

// points (N, J, A) contiguous; sizes of the nodes in the order (D,) H, W.
template <class T>
HeatmapGrid<T> grid_of(const Tensor& points, const std::vector<int64_t>& size, double sigma,
                       const std::vector<double>& stride) {
  HeatmapGrid<T> grid{};
  grid.axes = int(size.size());
  grid.maps = points.size(0) * points.size(1);
  grid.D = grid.axes == 3 ? size[0] : 1;
  grid.H = size[grid.axes - 2];
  grid.W = size[grid.axes - 1];
  grid.points = static_cast<const T*>(points.data_ptr());
  for (int a = 0; a < grid.axes; ++a)
    grid.stride[a] = T(stride[a]);
  grid.set_sigma(sigma);
  return grid;
}

void check_arguments(const Tensor& points, const std::vector<int64_t>& size, double sigma,
                     const std::vector<double>& stride) {
  STD_TORCH_CHECK(size.size() == 2 || size.size() == 3, "size must be (H, W) or (D, H, W)");
  const int64_t axes = int64_t(size.size());
  STD_TORCH_CHECK(points.dim() == 3 && points.size(2) == axes,
                  "points must be (N, J, 2) with size (H, W), (N, J, 3) with (D, H, W)");
  STD_TORCH_CHECK(int64_t(stride.size()) == axes, "stride must have one number per axis");
  for (const int64_t nodes : size) // a node's index is exact in float32
    STD_TORCH_CHECK(nodes >= 1 && nodes <= (1 << 24), "sizes must be in 1 .. 2^24");
  for (const double step : stride)
    STD_TORCH_CHECK(step > 0 && std::isfinite(step), "strides must be positive and finite");
  STD_TORCH_CHECK(sigma >= 0 && std::isfinite(sigma), "sigma must be finite, 0 or more");
}

Tensor heatmap(const Tensor& points_, std::vector<int64_t> size, double sigma,
               std::vector<double> stride, int64_t kind) {
  check_arguments(points_, size, sigma, stride);
  STD_TORCH_CHECK(kind >= kGaussian && kind <= kImpulse, "kind must be 0, 1 or 2");
  STD_TORCH_CHECK(kind != kGaussian || sigma > 0, "sigma must be positive");
  POSE_KERNELS_GUARD(points_);
  const Tensor points = torch::stable::contiguous(points_);
  std::vector<int64_t> shape{points.size(0), points.size(1)};
  shape.insert(shape.end(), size.begin(), size.end());
  Tensor map = empty(points, shape, points.scalar_type());
  for_points(points, [&](auto type) {
    using T = decltype(type);
    launch(Heatmap<T>{grid_of<T>(points, size, sigma, stride), int(kind),
                      static_cast<T*>(map.mutable_data_ptr())},
           points);
  });
  return map;
}

Tensor heatmap_backward(const Tensor& grad_, const Tensor& points_, double sigma,
                        std::vector<double> stride) {
  STD_TORCH_CHECK(grad_.dim() == 4 || grad_.dim() == 5, "grad must be (N, J, H, W) or with D");
  const std::vector<int64_t> size(grad_.sizes().begin() + 2, grad_.sizes().end());
  check_arguments(points_, size, sigma, stride);
  STD_TORCH_CHECK(sigma > 0, "sigma must be positive");
  STD_TORCH_CHECK(grad_.size(0) == points_.size(0) && grad_.size(1) == points_.size(1),
                  "grad and points must agree in N and J");
  STD_TORCH_CHECK(grad_.scalar_type() == points_.scalar_type(),
                  "grad and points must have one dtype");
  check_device(grad_, points_);
  POSE_KERNELS_GUARD(points_);
  const Tensor grad = torch::stable::contiguous(grad_), points = torch::stable::contiguous(points_);
  Tensor grad_points =
      empty(points, {points.size(0), points.size(1), points.size(2)}, points.scalar_type());
  for_points(points, [&](auto type) {
    using T = decltype(type);
    launch(HeatmapBackward<T>{grid_of<T>(points, size, sigma, stride),
                              static_cast<const T*>(grad.data_ptr()),
                              static_cast<T*>(grad_points.mutable_data_ptr())},
           points);
  });
  return grad_points;
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("heatmap", TORCH_BOX(&heatmap));
  m.impl("heatmap_backward", TORCH_BOX(&heatmap_backward));
}

} // namespace pose_kernels
