// SPDX-License-Identifier: Apache-2.0
// uv_raster: what a launcher gets. All pointers are dense, on one device.
#pragma once

#include "../math/atlas_triangle.h"

namespace pose_kernels {

template <class T>
struct UvRaster {
  int64_t N, C, H, W, P, S;
  Planes<const T> image; // [N, C, H W]
  PartMap part;          // [N, H, W]
  const acc_t<T>* uv;    // [N, 2, H, W]
  Planes<T> atlas;       // [N P, C, S S]   out
  acc_t<T>* weight;      // [N, P, S, S]    out
  double max_edge;

  SurfaceGrid<acc_t<T>> grid() const {
    return {part, uv, H, W, int(P), int(S), max_edge * max_edge};
  }
};

// Pure gather: a pixel reads the texels of its up to six triangles.
//   grad_image_p = sum over its triangles and their texels of w_p grad_atlas / weight
// A pixel without a triangle reads its four texels as in uv_splat, those that no triangle covers.
template <class T>
struct UvRasterBackward {
  int64_t N, C, H, W, P, S;
  Planes<const T> grad_atlas; // [N P, C, S S]
  PartMap part;               // [N, H, W]
  const acc_t<T>* uv;         // [N, 2, H, W]
  const acc_t<T>* weight;     // [N, P, S, S]    of the forward
  double max_edge;
  Planes<T> grad_image; // [N, C, H W]     out

  SurfaceGrid<acc_t<T>> grid() const {
    return {part, uv, H, W, int(P), int(S), max_edge * max_edge};
  }
};

namespace cpu {
template <class T>
void uv_raster(const UvRaster<T>&);
template <class T>
void uv_raster_backward(const UvRasterBackward<T>&);
} // namespace cpu

namespace cuda { // `workspace` holds at least *_workspace() bytes; `stream` is a cudaStream_t
template <class T>
int64_t uv_raster_workspace(const UvRaster<T>&);
template <class T>
void uv_raster(const UvRaster<T>&, void* workspace, void* stream);
template <class T>
void uv_raster_backward(const UvRasterBackward<T>&, void* stream);
} // namespace cuda

} // namespace pose_kernels
