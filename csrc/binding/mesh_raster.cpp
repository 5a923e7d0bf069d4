// SPDX-License-Identifier: Apache-2.0
#include "../ops/mesh_raster.h"

#include <tuple>

#include "tensor.h"

namespace pose_kernels {
namespace {

// Samples may lie anywhere, what they hold must lie side by side.
Tensor side_by_side(const Tensor& tensor) {
  const bool dense = tensor.size(1) == 0 || (tensor.stride(2) == 1 && tensor.stride(1) == 3);
  return dense ? tensor : torch::stable::contiguous(tensor);
}

template <class T>
void run(const Tensor& vertices, const Tensor& faces, const std::vector<int64_t>& size,
         Tensor& face, Tensor& bary) {
  const MeshRaster<T> op{vertices.size(0),
                         vertices.size(1),
                         faces.size(1),
                         size[0],
                         size[1],
                         static_cast<const T*>(vertices.data_ptr()),
                         vertices.stride(0),
                         faces.data_ptr(),
                         faces.stride(0),
                         int(faces.element_size()),
                         static_cast<int32_t*>(face.mutable_data_ptr()),
                         static_cast<T*>(bary.mutable_data_ptr())};
#ifdef USE_CUDA
  Tensor keys = workspace(vertices, cuda::mesh_raster_workspace(op));
  cuda::mesh_raster(op, keys.mutable_data_ptr(), current_stream(vertices));
#else
  STD_TORCH_CHECK(cpu::mesh_raster(op), "faces must hold indices of vertices");
#endif
}

std::tuple<Tensor, Tensor> mesh_raster(const Tensor& vertices_, const Tensor& faces_,
                                       const std::vector<int64_t>& size) {
  STD_TORCH_CHECK(vertices_.dim() == 3 && vertices_.size(2) == 3, "vertices must be (N, V, 3)");
  STD_TORCH_CHECK(faces_.dim() == 3 && faces_.size(0) == vertices_.size(0) && faces_.size(2) == 3,
                  "faces must be (N, F, 3)");
  const ScalarType dtype = vertices_.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "vertices must be float32 or float64");
  STD_TORCH_CHECK(faces_.scalar_type() == ScalarType::Int ||
                      faces_.scalar_type() == ScalarType::Long,
                  "faces must be int32 or int64");
  STD_TORCH_CHECK(faces_.size(1) <= INT32_MAX, "there must be fewer than 2^31 faces");
  STD_TORCH_CHECK(size.size() == 2 && size[0] >= 1 && size[1] >= 1 && size[0] <= INT32_MAX &&
                      size[1] <= INT32_MAX / size[0],
                  "size must be (H, W), each at least 1, with fewer than 2^31 pixels");
  check_device(faces_, vertices_);
  POSE_KERNELS_GUARD(vertices_);
  const Tensor vertices = side_by_side(vertices_), faces = side_by_side(faces_);
  const int64_t N = vertices.size(0);
  Tensor face = empty(vertices, {N, size[0], size[1]}, ScalarType::Int);
  Tensor bary = empty(vertices, {N, 3, size[0], size[1]}, dtype);
  if (dtype == ScalarType::Double)
    run<double>(vertices, faces, size, face, bary);
  else
    run<float>(vertices, faces, size, face, bary);
  return {face, bary};
}

} // namespace

STABLE_TORCH_LIBRARY_IMPL(pose_kernels, POSE_KERNELS_KEY, m) {
  m.impl("mesh_raster", TORCH_BOX(&mesh_raster));
}

} // namespace pose_kernels
