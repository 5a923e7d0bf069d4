// SPDX-License-Identifier: Apache-2.0
// uv_gather: what a launcher gets. Its backward is uv_splat (atlas) and uv_splat_backward (uv).
#pragma once

#include "../math/layout.h"

namespace pose_kernels {

template <class T>
struct UvGather {
  int64_t N, C, H, W, P, S;
  Planes<const T> atlas; // [N P, C, S S]
  PartMap part;          // [N, H, W]
  const acc_t<T>* uv;    // [N, 2, H, W]
  Planes<T> image;       // [N, C, H W]     out
};

namespace cpu {
template <class T>
void uv_gather(const UvGather<T>&);
}

namespace cuda {
template <class T>
void uv_gather(const UvGather<T>&, void* stream);
}

} // namespace pose_kernels
