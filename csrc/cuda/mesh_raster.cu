// SPDX-License-Identifier: Apache-2.0
// mesh_raster on a GPU: a 64-bit key per pixel, ordered by depth and then by face, and its minimum.
//
// A warp takes 32 faces: every lane sets one up, in shared memory. The candidate pixels of all 32,
// those of their boxes, form one list, which the lanes walk 32 at a time: a body's faces have a few
// pixels each, and no lane waits for a larger face of another. A face of more than 4,096 candidates
// goes to a list instead, and a second kernel, of as many blocks as the GPU holds, shares out its
// tiles of 32 x 8 pixels. A third reads the keys and writes faces and barycentrics. The minimum is
// the same in any order, so the result is the same bits every time.
//
// Traffic for 8 x 256^2 and 13,778 faces: 4 MB of keys filled, two atomics a covered pixel, and 8
// bytes a pixel read and 16 written at the end, 17 MB in all, 4 us at 4.3 TB/s. Setting up 0.1
// million faces, 36 bytes from L2 and ~60 operations in double each, should take about as long
// where doubles run at half rate, and some ten times that where they run at 1/64.
#include "../ops/mesh_raster.h"
#include "warp.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostCandidates = 4096; // of a face that its warp draws: 32 of them fit an int
constexpr int kTileWidth = 32, kTileHeight = kThreads / kTileWidth;
constexpr int kBlocksPerProcessor = 8;

struct Drawing {
  DepthTriangle triangle;
  PixelBox box;
};

struct Workspace {
  long long* keys;            // [N, H, W]
  unsigned long long* listed; // how many large faces there are
  int64_t* large;             // [N F] n F + f of each, in any order

  template <class T>
  Workspace(const MeshRaster<T>& a, void* memory)
      : keys(static_cast<long long*>(memory)),
        listed(reinterpret_cast<unsigned long long*>(keys + a.N * a.H * a.W)),
        large(reinterpret_cast<int64_t*>(listed + 1)) {}
};

template <class T>
__device__ __forceinline__ bool set_up(const MeshRaster<T>& a, int64_t item, Drawing& drawing) {
  double x[3], y[3], z[3];
  bool turned;
  return read_face(a, item / a.F, item % a.F, x, y, z) &&
         make_triangle(x, y, z, int(a.H), int(a.W), drawing.triangle, drawing.box, turned);
}

__device__ __forceinline__ void draw(const DepthTriangle& triangle, int x, int y, int32_t face,
                                     long long* pixel) {
  const Edges edges = edges_at(triangle, double(x), double(y));
  if (edges.covered())
    atomicMin(pixel, (long long)(depth_key(depth_at(triangle, edges.e[1], edges.e[2]), face)));
}

__global__ void __launch_bounds__(kThreads)
    clear_kernel(long long* keys, int64_t pixels, unsigned long long* listed) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < pixels)
    keys[i] = kNoFace;
  if (i == 0)
    *listed = 0;
}

template <class T>
__global__ void __launch_bounds__(kThreads) draw_faces_kernel(MeshRaster<T> a, Workspace work) {
  Drawing* drawings = reinterpret_cast<Drawing*>(dynamic_shared()) + warp_index() * kWarp;
  const int64_t first = (int64_t(blockIdx.x) * kWarps + warp_index()) * kWarp;
  const int64_t own = first + lane_index();
  Drawing drawing;
  int candidates = 0;
  if (own < a.N * a.F && set_up(a, own, drawing)) {
    const int64_t count =
        int64_t(drawing.box.x1 - drawing.box.x0 + 1) * (drawing.box.y1 - drawing.box.y0 + 1);
    if (count <= kMostCandidates)
      candidates = int(count);
    else
      work.large[atomicAdd(work.listed, 1ull)] = own;
    drawings[lane_index()] = drawing;
  }
  const int through = prefix_sum(candidates);
  const int total = shuffle(through, kWarp - 1);
  sync_warp();
  for (int base = 0; base < total; base += kWarp) {
    const int i = base + lane_index();
    int piece = 0; // the lane whose face candidate i belongs to
    for (int step = kWarp / 2; step > 0; step /= 2)
      if (shuffle(through, piece + step - 1) <= i)
        piece += step;
    const int before = shuffle(through - candidates, piece);
    if (i < total) {
      const Drawing& that = drawings[piece];
      const int wide = that.box.x1 - that.box.x0 + 1;
      const int x = that.box.x0 + (i - before) % wide, y = that.box.y0 + (i - before) / wide;
      const int64_t item = first + piece, n = item / a.F;
      draw(that.triangle, x, y, int32_t(item % a.F), work.keys + (n * a.H + y) * a.W + x);
    }
  }
}

// Whether no pixel of a tile can be covered: far enough outside of one of the edges.
__device__ __forceinline__ bool misses(const DepthTriangle& t, double left, double top) {
  const double half_x = 0.5 * kTileWidth, half_y = 0.5 * kTileHeight;
  const double cx = left + half_x, cy = top + half_y;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const int j = i == 2 ? 0 : i + 1;
    const double ax = t.x[i] - cx, ay = t.y[i] - cy, bx = t.x[j] - cx, by = t.y[j] - cy;
    const double reach = fabs(ay - by) * half_x + fabs(ax - bx) * half_y;
    const double rounding = 1e-12 * ((fabs(ax) + half_x) * (fabs(by) + half_y) +
                                     (fabs(ay) + half_y) * (fabs(bx) + half_x));
    if (ax * by - ay * bx + reach + rounding < 0)
      return true;
  }
  return false;
}

template <class T>
__global__ void __launch_bounds__(kThreads) draw_large_kernel(MeshRaster<T> a, Workspace work) {
  const int64_t count = int64_t(*work.listed);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t item = work.large[k];
    Drawing drawing;
    set_up(a, item, drawing); // has succeeded before
    const PixelBox box = drawing.box;
    const int64_t across = (box.x1 - box.x0) / kTileWidth + 1;
    const int64_t tiles = across * ((box.y1 - box.y0) / kTileHeight + 1);
    // Another block begins with each face: many of a few tiles keep all of them busy.
    for (int64_t tile = (blockIdx.x + k) % gridDim.x; tile < tiles; tile += gridDim.x) {
      const int left = box.x0 + int(tile % across) * kTileWidth;
      const int top = box.y0 + int(tile / across) * kTileHeight;
      const int x = left + int(threadIdx.x) % kTileWidth, y = top + int(threadIdx.x) / kTileWidth;
      if (x <= box.x1 && y <= box.y1 && !misses(drawing.triangle, left, top))
        draw(drawing.triangle, x, y, int32_t(item % a.F),
             work.keys + (item / a.F * a.H + y) * a.W + x);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) write_faces_kernel(MeshRaster<T> a, Workspace work) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, plane = a.H * a.W;
  if (i >= a.N * plane)
    return;
  const int64_t n = i / plane;
  const int pixel = int(i % plane), W = int(a.W);
  const long long key = work.keys[i];
  T b[3] = {0, 0, 0};
  int32_t face = -1;
  if (key != kNoFace) {
    face = int32_t(key & 0x7fffffff);
    DepthTriangle t;
    double z[3], exact[3];
    read_face(a, n, face, t.x, t.y, z);
    const Edges edges = edges_at(t, double(pixel % W), double(pixel / W));
    barycentrics(edges.e[0], edges.e[1], edges.e[2], exact[0], exact[1], exact[2]);
#pragma unroll
    for (int k = 0; k < 3; ++k)
      b[k] = T(exact[k]);
  }
  a.face[i] = face;
#pragma unroll
  for (int k = 0; k < 3; ++k)
    a.bary[(n * 3 + k) * plane + pixel] = b[k];
}

} // namespace

template <class T>
int64_t mesh_raster_workspace(const MeshRaster<T>& a) {
  return (a.N * a.H * a.W + 1 + a.N * a.F) * 8;
}

template <class T>
void mesh_raster(const MeshRaster<T>& a, void* workspace, void* stream) {
  const int64_t pixels = a.N * a.H * a.W;
  if (pixels == 0)
    return;
  const Workspace work(a, workspace);
  launch("mesh_raster clear", clear_kernel, blocks_for(pixels, kThreads), kThreads, 0, stream,
         work.keys, pixels, work.listed);
  if (a.F > 0) {
    launch("mesh_raster draw", draw_faces_kernel<T>, blocks_for(a.N * a.F, kThreads), kThreads,
           kThreads * int64_t(sizeof(Drawing)), stream, a, work);
    launch("mesh_raster draw large", draw_large_kernel<T>,
           int64_t(kBlocksPerProcessor) * processor_count(), kThreads, 0, stream, a, work);
  }
  launch("mesh_raster write", write_faces_kernel<T>, blocks_for(pixels, kThreads), kThreads, 0,
         stream, a, work);
}

#define INSTANTIATE(T)                                                                             \
  template int64_t mesh_raster_workspace(const MeshRaster<T>&);                                    \
  template void mesh_raster(const MeshRaster<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
