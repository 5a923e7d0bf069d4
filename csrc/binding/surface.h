// SPDX-License-Identifier: Apache-2.0
// What the ops that read a part map and uv check of them.
#pragma once

#include "tensor.h"

namespace pose_kernels {

inline void check_surface(const Tensor& features, const Tensor& part, const Tensor& uv, int64_t N) {
  STD_TORCH_CHECK(part.dim() == 3 && uv.dim() == 4, "part must be (N, H, W) and uv (N, 2, H, W)");
  STD_TORCH_CHECK(part.size(0) == N && uv.size(0) == N && uv.size(1) == 2 &&
                      uv.size(2) == part.size(1) && uv.size(3) == part.size(2),
                  "part and uv must agree in N, H and W, and in N with the features");
  STD_TORCH_CHECK(uv.scalar_type() == geometry_dtype(features),
                  "uv must be float32, or float64 with float64 features");
  check_pixels(part.size(1), part.size(2));
  check_device(part, features);
  check_device(uv, features);
}

} // namespace pose_kernels
