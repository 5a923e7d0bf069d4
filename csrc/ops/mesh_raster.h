// SPDX-License-Identifier: Apache-2.0
// mesh_raster: what a launcher gets. T is float or double.
#pragma once

#include "../math/depth_triangle.h"

namespace pose_kernels {

template <class T>
struct MeshRaster {
  int64_t N, V, F, H, W;
  const T* vertices;  // [N, V, 3] (x, y, depth), samples `next_mesh` elements apart
  int64_t next_mesh;  // elements
  const void* faces;  // [N, F, 3], samples `next_faces` elements apart
  int64_t next_faces; // 0 where all samples share them
  int index_bytes;    // of one index: 4 (int32) or 8 (int64)
  int32_t* face;      // [N, H, W]       out: -1 is none
  T* bary;            // [N, 3, H, W]    out
};

// The corners of face f of sample n; false where an index is not one of 0 .. V - 1.
template <class T>
HD bool read_face(const MeshRaster<T>& op, int64_t n, int64_t f, double x[3], double y[3],
                  double z[3]) {
  const int64_t at = n * op.next_faces + f * 3;
  const T* mesh = op.vertices + n * op.next_mesh;
  for (int i = 0; i < 3; ++i) {
    const int64_t vertex = op.index_bytes == 4
                               ? int64_t(static_cast<const int32_t*>(op.faces)[at + i])
                               : static_cast<const int64_t*>(op.faces)[at + i];
    if (uint64_t(vertex) >= uint64_t(op.V))
      return false;
    x[i] = double(mesh[vertex * 3]);
    y[i] = double(mesh[vertex * 3 + 1]);
    z[i] = double(mesh[vertex * 3 + 2]);
  }
  return true;
}

namespace cpu {
// False where a face has an index that is not a vertex; such a face is left out.
template <class T>
bool mesh_raster(const MeshRaster<T>&);
} // namespace cpu

namespace cuda {
// Bytes of `workspace`: a key per pixel, and the list of large faces.
template <class T>
int64_t mesh_raster_workspace(const MeshRaster<T>&);
template <class T>
void mesh_raster(const MeshRaster<T>&, void* workspace, void* stream);
} // namespace cuda

} // namespace pose_kernels
