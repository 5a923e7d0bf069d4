// SPDX-License-Identifier: Apache-2.0
#include "../ops/capsule_mask.h"

#include <tuple>

#include "tensor.h"

namespace pose_kernels {
namespace {

// float32 and float64 only: the wrapper widens half types.
template <class Body>
void for_geometry(const Tensor& tensor, const Body& body) {
  if (tensor.scalar_type() == ScalarType::Double)
    body(double());
  else
    body(float());
}

template <class T>
CapsulePoints<T> points(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.data_ptr()), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

void check_capsules(const Tensor& start, const Tensor& end, const Tensor& radius,
                    const Tensor& part) {
  STD_TORCH_CHECK(start.dim() == 3 && start.size(2) == 3 && start.size(1) >= 1,
                  "start must be (N, K, 3) with K >= 1");
  for (const Tensor* other : {&end, &radius})
    STD_TORCH_CHECK(other->dim() == 3 && other->size(0) == start.size(0) &&
                        other->size(1) == start.size(1) && other->size(2) == 3,
                    "start, end and radius must be (N, K, 3)");
  STD_TORCH_CHECK(part.dim() == 2 && part.size(0) == start.size(0) &&
                      part.size(1) == start.size(1) && part.scalar_type() == ScalarType::Int,
                  "part must be (N, K) int32");
  const ScalarType dtype = start.scalar_type();
  STD_TORCH_CHECK((dtype == ScalarType::Float || dtype == ScalarType::Double) &&
                      end.scalar_type() == dtype && radius.scalar_type() == dtype,
                  "start, end and radius must be float32 or float64, all the same");
  for (const Tensor* other : {&end, &radius, &part})
    check_device(*other, start);
}

void check_volume(const std::vector<int64_t>& size, int64_t num_parts) {
  STD_TORCH_CHECK(size.size() == 3 && size[0] >= 1 && size[1] >= 1 && size[2] >= 1,
                  "size must be (D, H, W), each at least 1");
  STD_TORCH_CHECK(size[0] <= INT32_MAX && size[1] <= INT32_MAX / size[0] &&
                      size[2] <= INT32_MAX / (size[0] * size[1]),
                  "a volume must have fewer than 2^31 voxels");
  STD_TORCH_CHECK(num_parts >= 1 && num_parts <= INT32_MAX, "num_parts must be at least 1");
}

template <class T>
CapsuleSet<T> capsule_set(const Tensor& start, const Tensor& end, const Tensor& radius,
                          const Tensor& part, int64_t num_parts) {
  return {start.size(0),
          start.size(1),
          num_parts,
          points<T>(start),
          points<T>(end),
          points<T>(radius),
          static_cast<const int32_t*>(part.data_ptr()),
          part.stride(0),
          part.stride(1)};
}

Tensor capsule_mask(const Tensor& start, const Tensor& end, const Tensor& radius,
                    const Tensor& part, const std::vector<int64_t>& size, int64_t num_parts,
                    bool packed) {
  check_capsules(start, end, radius, part);
  check_volume(size, num_parts);
  STD_TORCH_CHECK(!packed || num_parts <= 31, "a packed mask has at most 31 parts");
  POSE_KERNELS_GUARD(start);
  const int64_t N = start.size(0), D = size[0], H = size[1], W = size[2];
  Tensor mask = packed ? empty(start, {N, D, H, W}, ScalarType::Int)
                       : empty(start, {N, num_parts, D, H, W}, ScalarType::Bool);
  for_geometry(start, [&](auto type) {
    using T = decltype(type);
    const CapsuleMask<T> op{capsule_set<T>(start, end, radius, part, num_parts),
                            D,
                            H,
                            W,
                            packed ? static_cast<int32_t*>(mask.mutable_data_ptr()) : nullptr,
                            packed ? nullptr : static_cast<uint8_t*>(mask.mutable_data_ptr())};
#ifdef USE_CUDA
    cuda::capsule_mask(op, current_stream(start));
#else
    cpu::capsule_mask(op);
#endif
  });
  return mask;
}

Tensor capsule_soft_mask(const Tensor& start, const Tensor& end, const Tensor& radius,
                         const Tensor& part, const std::vector<int64_t>& size, int64_t num_parts,
                         double softness) {
  check_capsules(start, end, radius, part);
  check_volume(size, num_parts);
  STD_TORCH_CHECK(softness > 0, "softness must be positive");
  POSE_KERNELS_GUARD(start);
  const int64_t N = start.size(0), D = size[0], H = size[1], W = size[2];
  Tensor mask = empty(start, {N, num_parts, D, H, W}, start.scalar_type());
  for_geometry(start, [&](auto type) {
    using T = decltype(type);
    const CapsuleSoftMask<T> op{capsule_set<T>(start, end, radius, part, num_parts),
                                D,
                                H,
                                W,
                                T(softness),
                                static_cast<T*>(mask.mutable_data_ptr())};
#ifdef USE_CUDA
    cuda::capsule_soft_mask(op, current_stream(start));
#else
    cpu::capsule_soft_mask(op);
#endif
  });
  return mask;
}

std::tuple<Tensor, Tensor, Tensor>
capsule_soft_mask_backward(const Tensor& grad_, const Tensor& start, const Tensor& end,
                           const Tensor& radius, const Tensor& part, double softness) {
  check_capsules(start, end, radius, part);
  STD_TORCH_CHECK(grad_.dim() == 5 && grad_.size(0) == start.size(0) &&
                      grad_.scalar_type() == start.scalar_type(),
                  "grad must be (N, P, D, H, W) in the dtype of start");
  const int64_t N = start.size(0), K = start.size(1), P = grad_.size(1);
  const int64_t D = grad_.size(2), H = grad_.size(3), W = grad_.size(4);
  check_volume({D, H, W}, P);
  STD_TORCH_CHECK(softness > 0, "softness must be positive");
  check_device(grad_, start);
  POSE_KERNELS_GUARD(start);
  const Tensor grad = torch::stable::contiguous(grad_);
  Tensor grads[3];
  for (Tensor& out : grads)
    out = empty(start, {N, K, 3}, start.scalar_type());
  for_geometry(start, [&](auto type) {
    using T = decltype(type);
    const CapsuleSoftMaskBackward<T> op{capsule_set<T>(start, end, radius, part, P),
                                        D,
                                        H,
                                        W,
                                        T(softness),
                                        static_cast<const T*>(grad.data_ptr()),
                                        static_cast<T*>(grads[0].mutable_data_ptr()),
                                        static_cast<T*>(grads[1].mutable_data_ptr()),
                                        static_cast<T*>(grads[2].mutable_data_ptr())};
#ifdef USE_CUDA
    Tensor sums = workspace(start, cuda::capsule_soft_mask_backward_workspace(op));
    cuda::capsule_soft_mask_backward(op, sums.mutable_data_ptr(), current_stream(start));
#else
    cpu::capsule_soft_mask_backward(op);
#endif
  });
  return {grads[0], grads[1], grads[2]};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("capsule_mask", TORCH_BOX(&capsule_mask));
  m.impl("capsule_soft_mask", TORCH_BOX(&capsule_soft_mask));
  m.impl("capsule_soft_mask_backward", TORCH_BOX(&capsule_soft_mask_backward));
}

} // namespace pose_kernels
