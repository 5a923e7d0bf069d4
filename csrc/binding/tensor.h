// SPDX-License-Identifier: Apache-2.0
// Between torch tensors and the raw structs of csrc/ops. Each binding source is compiled twice,
// with POSE_KERNELS_DEVICE=cpu into _C_cpu and =cuda into _C_cuda. Python checks every argument
// with a message for people; the checks here are the backstop for direct calls of torch.ops.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "../math/layout.h"
#ifdef USE_CUDA
#define POSE_KERNELS_KEY CUDA
#else
#include "../cpu/memory.h"
#define POSE_KERNELS_KEY CPU
#endif

namespace pose_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls body(T()) with the feature type of `tensor`.
template <class Body>
void for_dtype(const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
  case ScalarType::Float:
    return body(float());
  case ScalarType::Double:
    return body(double());
  case ScalarType::Half:
    return body(float16());
  case ScalarType::BFloat16:
    return body(bfloat16());
  default:
    STD_TORCH_CHECK(false, "features must be float32, float64, float16 or bfloat16");
  }
}

inline ScalarType geometry_dtype(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Channels innermost in memory and not also contiguous; the tensor is (..., C, <spatial axes>).
inline bool is_channels_last(const Tensor& tensor, int64_t spatial = 2) {
  if (tensor.is_contiguous())
    return false;
  const int64_t rank = tensor.dim(), C = rank - 1 - spatial;
  int64_t expected = 1;
  for (int64_t i = 0; i < rank; ++i) { // from the innermost axis out: C, then the others backward
    const int64_t axis = i == 0 ? C : rank - i - (rank - i <= C ? 1 : 0);
    const int64_t size = tensor.size(axis);
    if (size == 0)
      return true;
    if (size != 1 && tensor.stride(axis) != expected)
      return false;
    expected *= size;
  }
  return true;
}

// Uninitialized (..., C, <spatial axes>) tensor beside `like`, in the memory format asked for. Not
// a view: the caller's in-place operations must work on it.
inline Tensor empty(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype,
                    bool channels_last = false, int64_t spatial = 2) {
  Tensor out;
  if (channels_last) {
    const int64_t rank = int64_t(shape.size()), C = rank - 1 - spatial;
    std::vector<int64_t> strides(rank);
    strides[C] = 1;
    int64_t step = shape[C];
    for (int64_t i = rank; i-- > 0;)
      if (i != C)
        strides[i] = step, step *= shape[i];
    const torch::headeronly::IntHeaderOnlyArrayRef sizes(shape.data(), rank);
    const torch::headeronly::IntHeaderOnlyArrayRef steps(strides.data(), rank);
    std::array<StableIValue, 7> stack{torch::stable::detail::from(like),
                                      torch::stable::detail::from(sizes),
                                      torch::stable::detail::from(steps),
                                      torch::stable::detail::from(std::optional<ScalarType>(dtype)),
                                      torch::stable::detail::from(std::nullopt),
                                      torch::stable::detail::from(std::nullopt),
                                      torch::stable::detail::from(std::nullopt)};
    TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
    out = torch::stable::detail::to<Tensor>(stack[0]);
  } else {
    out = torch::stable::new_empty(like, shape, dtype);
  }
#ifndef USE_CUDA
  cpu::prefer_huge_pages(out.mutable_data_ptr(), out.numel() * int64_t(out.element_size()));
#endif
  return out;
}

// The tensor's values in the memory format asked for; itself where it already is.
inline Tensor dense(const Tensor& tensor, bool channels_last, int64_t spatial = 2) {
  if (channels_last ? is_channels_last(tensor, spatial) : tensor.is_contiguous())
    return tensor;
  std::vector<int64_t> shape(tensor.sizes().begin(), tensor.sizes().end());
  Tensor out = empty(tensor, shape, tensor.scalar_type(), channels_last, spatial);
  torch::stable::copy_(out, tensor);
  return out;
}

template <class T>
Planes<T> planes(const Tensor& tensor, bool channels_last, int64_t spatial = 2) {
  const int64_t C = tensor.size(-1 - spatial);
  int64_t pixels = 1;
  for (int64_t i = 1; i <= spatial; ++i)
    pixels *= tensor.size(-i);
  T* data = static_cast<T*>(tensor.data_ptr());
  return channels_last ? Planes<T>{data, 1, C} : Planes<T>{data, pixels, 1};
}

inline PartMap part_map(const Tensor& part) {
  const ScalarType dtype = part.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Byte || dtype == ScalarType::Int ||
                      dtype == ScalarType::Long,
                  "part must be uint8, int32 or int64");
  return {part.data_ptr(), int(part.element_size())};
}

inline void check_device(const Tensor& tensor, const Tensor& like) {
  STD_TORCH_CHECK(tensor.is_cuda() == like.is_cuda() &&
                      tensor.get_device_index() == like.get_device_index(),
                  "all tensors must be on one device");
}

inline void check_pixels(int64_t H, int64_t W) {
  STD_TORCH_CHECK(H * W <= INT32_MAX, "an image or a tile must have fewer than 2^31 pixels");
}

#ifdef USE_CUDA
inline void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

inline Tensor workspace(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

// In every entry point: launch on the device the tensor lives on.
#define POSE_KERNELS_GUARD(tensor)                                                                 \
  const torch::stable::accelerator::DeviceGuard guard((tensor).get_device_index())
#else
#define POSE_KERNELS_GUARD(tensor)
#endif

} // namespace pose_kernels
