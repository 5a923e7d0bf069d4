// SPDX-License-Identifier: Apache-2.0
#include "../ops/helmert_fit.h"

#include <tuple>

#include "tensor.h"

namespace pose_kernels {
namespace {

template <class Body>
void for_geometry(const Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == ScalarType::Float)
    return body(float());
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, "points must be float32 or float64");
  body(double());
}

template <class T>
void launch(const HelmertFit<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::helmert_fit(op, current_stream(like));
#else
  cpu::helmert_fit(op);
#endif
}

template <class T>
void launch(const HelmertFitBackward<T>& op, [[maybe_unused]] const Tensor& like) {
#ifdef USE_CUDA
  cuda::helmert_fit_backward(op, current_stream(like));
#else
  cpu::helmert_fit_backward(op);
#endif
}

void check_points(const Tensor& source, const Tensor& target, const Tensor& weight) {
  STD_TORCH_CHECK(source.dim() == 3 && source.size(1) >= 1 && source.size(2) == 3,
                  "source must be (B, K, 3) with at least one point");
  const int64_t B = source.size(0), K = source.size(1);
  STD_TORCH_CHECK(target.dim() == 3 && target.size(0) == B && target.size(1) == K &&
                      target.size(2) == 3,
                  "target must have the size of source");
  STD_TORCH_CHECK(weight.dim() == 2 && weight.size(0) == B && weight.size(1) == K,
                  "weight must be (B, K)");
  STD_TORCH_CHECK(target.scalar_type() == source.scalar_type() &&
                      weight.scalar_type() == source.scalar_type(),
                  "source, target and weight must have one dtype");
  check_device(target, source);
  check_device(weight, source);
}

template <class T>
const T* values(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data_ptr());
}
template <class T>
T* room(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

Tensor helmert_fit(const Tensor& source_, const Tensor& target_, const Tensor& weight_,
                   bool scale) {
  check_points(source_, target_, weight_);
  POSE_KERNELS_GUARD(source_);
  const Tensor source = dense(source_, false), target = dense(target_, false),
               weight = dense(weight_, false);
  const int64_t B = source.size(0), K = source.size(1);
  Tensor transform = empty(source, {B, 3, 4}, source.scalar_type());
  for_geometry(source, [&](auto type) {
    using T = decltype(type);
    launch(HelmertFit<T>{B, K, values<T>(source), values<T>(target), values<T>(weight), scale,
                         room<T>(transform)},
           source);
  });
  return transform;
}

std::tuple<Tensor, Tensor, Tensor> helmert_fit_backward(const Tensor& grad_, const Tensor& source_,
                                                        const Tensor& target_,
                                                        const Tensor& weight_, bool scale) {
  check_points(source_, target_, weight_);
  const int64_t B = source_.size(0), K = source_.size(1);
  STD_TORCH_CHECK(grad_.dim() == 3 && grad_.size(0) == B && grad_.size(1) == 3 &&
                      grad_.size(2) == 4 && grad_.scalar_type() == source_.scalar_type(),
                  "grad must be (B, 3, 4) in the dtype of source");
  check_device(grad_, source_);
  POSE_KERNELS_GUARD(source_);
  const Tensor grad = dense(grad_, false), source = dense(source_, false),
               target = dense(target_, false), weight = dense(weight_, false);
  const ScalarType dtype = source.scalar_type();
  Tensor grad_source = empty(source, {B, K, 3}, dtype),
         grad_target = empty(source, {B, K, 3}, dtype), grad_weight = empty(source, {B, K}, dtype);
  for_geometry(source, [&](auto type) {
    using T = decltype(type);
    launch(HelmertFitBackward<T>{B, K, values<T>(grad), values<T>(source), values<T>(target),
                                 values<T>(weight), scale, room<T>(grad_source),
                                 room<T>(grad_target), room<T>(grad_weight)},
           source);
  });
  return {grad_source, grad_target, grad_weight};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("helmert_fit", TORCH_BOX(&helmert_fit));
  m.impl("helmert_fit_backward", TORCH_BOX(&helmert_fit_backward));
}

} // namespace pose_kernels
