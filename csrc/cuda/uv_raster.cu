// SPDX-License-Identifier: Apache-2.0
// uv_raster: two kernels forward, one backward. No atomics: same inputs, same bits, always.
//
// Forward. `sort_pixels` (pixel_bands.h) lists, for every band of 8 rows of a tile, the cells whose
// triangles begin there, and behind all cells the pixels without a triangle. Then a warp owns a
// patch of 8 rows x 32 columns of a tile and up to 8 channels (patch.h): its lanes are the columns.
// It reads the cells of the bands that can reach its own (an edge is shorter than max_edge) 32 at a
// time, one a lane, ballots which of them touch the patch, and draws those one after another, in
// list order: all lanes build the same triangle and each tests its column's texels. What lonely
// pixels splat comes after that, then the division, then one store of every texel.
//
// Coordinates are double (math/atlas_triangle.h): some 30 double operations per triangle and row of
// a patch, which a data-center GPU does at half its rate and others do at 1 / 32 or 1 / 64 of it.
//
// Backward. A warp has 32 pixels, one a lane; each finds which of its six triangles exist. Pixel by
// pixel all lanes then share the texels of its triangles and sum up: a pixel's triangles, and the
// texels of a triangle, always meet the same lanes in the same order.
#include "../ops/uv_raster.h"
#include "channels.h"
#include "patch.h"
#include "pixel_bands.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kRasterThreads = 128;
constexpr int kRasterWarps = kRasterThreads / kWarp;
constexpr int kSums = 4; // channels a lane of the backward sums up at once

// Where a pixel is listed: bins 0 .. P bands - 1 are cells, those from P bands on lonely pixels.
template <class A>
struct RasterKey {
  SurfaceGrid<A> grid;
  int64_t bands;

  __device__ __forceinline__ int part(int64_t n, int64_t pixel) const {
    return part_at(grid.part, n * grid.H * grid.W + pixel, grid.P);
  }
  __device__ __forceinline__ int64_t bin(int64_t n, int64_t pixel, int part) const {
    const int64_t y = pixel / grid.W, x = pixel % grid.W;
    const int standing = grid.standing(n, y, x);
    if (standing == kNothing)
      return -1;
    int row = grid.S - 1;
    if (standing == kLonely) {
      const A* at = grid.uv + n * 2 * grid.H * grid.W + pixel;
      TilePoint<A> point;
      if (tile_point(at[0], at[grid.H * grid.W], grid.S, point))
        row = point.y0;
    } else {
      NOT_UNROLLED for (int which = 0; which < 2; ++which) {
        AtlasTriangle t;
        if (grid.triangle(n, y, x - 1, which, t))
          row = t.y0 < row ? t.y0 : row;
      }
    }
    return ((standing == kLonely ? grid.P : 0) + part - 1) * bands + row / kBandRows;
  }
};

template <class T>
__global__ void __launch_bounds__(kRasterThreads, sizeof(acc_t<T>) == 4 ? 4 : 3)
    uv_raster_kernel(UvRaster<T> a, SurfaceGrid<acc_t<T>> cells, PixelBands<acc_t<T>> lists,
                     PatchGrid grid, int reach) {
  using A = acc_t<T>;
  using P = Patch<A, false>;
  const int64_t i = int64_t(blockIdx.x) * kRasterWarps + warp_index();
  if (i >= grid.count)
    return;
  const auto [tile, pass, row, column] = grid.place(i);
  const int64_t n = tile / a.P; // tile = n P + p
  const int S = int(a.S), x0 = column * P::kColumns, y0 = row * P::kRows;
  const int own = x0 + lane_index(); // this lane's column
  const int64_t c0 = pass * int64_t(grid.per_pass);
  const int channels = int(a.C - c0 < grid.per_pass ? a.C - c0 : grid.per_pass);

  A* memory = reinterpret_cast<A*>(dynamic_shared());
  P patch(memory + warp_index() * P::elements(grid.per_pass), channels);
  const T* image = a.image.data + n * a.C * a.H * a.W + c0 * a.image.channel;

  // The cells that begin at most `reach` bands above.
  const int64_t top = tile % a.P * grid.bands;
  for (int64_t chunk = 0; chunk < lists.chunks; chunk += kWarp) {
    BandReader<A> reader;
    reader.open(lists, n, top + (row > reach ? row - reach : 0), top + row + 1, chunk);
    for (int base = 0; base < reader.total; base += kWarp) {
      BandPixel<A> pixel{};
      int triangles = 0;
      if (reader.read(base, pixel))
        NOT_UNROLLED for (int which = 0; which < 2; ++which) {
          AtlasTriangle t;
          if (cells.triangle(n, pixel.pixel / a.W, pixel.pixel % a.W - 1, which, t) && t.x1 >= x0 &&
              t.x0 < x0 + P::kColumns && t.y1 >= y0 && t.y0 < y0 + P::kRows)
            triangles |= 1 << which;
        }
      for (unsigned hits = ballot(triangles != 0); hits; hits &= hits - 1) {
        if (!patch.touched)
          patch.clear(channels);
        const int source = __ffs(int(hits)) - 1;
        const int64_t e = shuffle(pixel.pixel, source);
        const int drawn = shuffle(triangles, source);
        NOT_UNROLLED for (int which = 0; which < 2; ++which) {
          AtlasTriangle t;
          if (!(drawn >> which & 1) || !cells.triangle(n, e / a.W, e % a.W - 1, which, t))
            continue;
          // The colors of vertex v: color[c * 32 + v]. Vertices n, e, s or e, d, s.
          sync_warp();
          for (int k = lane_index(); k < 3 * channels; k += kWarp) {
            const int vertex = k % 3;
            const int64_t at = vertex == 2  ? e + a.W - 1
                               : which == 0 ? e - 1 + vertex
                                            : e + vertex * a.W;
            patch.color[k / 3 * kWarp + vertex] =
                widen(image[at * a.image.pixel + k / 3 * a.image.channel]);
          }
          sync_warp();
          const int last = t.y1 < y0 + P::kRows - 1 ? t.y1 : y0 + P::kRows - 1;
          for (int y = t.y0 > y0 ? t.y0 : y0; y <= last; ++y) {
            double w[3];
            if (own >= S || !t.weights(own, y, w))
              continue;
            const int texel = (y - y0) * P::kColumns + lane_index();
            const A w0 = A(w[0]), w1 = A(w[1]), w2 = A(w[2]);
            patch.weight[texel] += A(1);
            for (int c = 0; c < channels; ++c) {
              const A* color = patch.color + c * kWarp;
              patch.sum[c * P::kTexels + texel] += w0 * color[0] + w1 * color[1] + w2 * color[2];
            }
          }
        }
      }
    }
  }

  // Lonely pixels, of bands row-1 and row: -D where no triangle is.
  const int64_t lonely = a.P * int64_t(grid.bands) + top;
  for (int64_t chunk = 0; chunk < lists.chunks; chunk += kWarp) {
    BandReader<A> reader;
    reader.open(lists, n, lonely + (row > 0 ? row - 1 : 0), lonely + row + 1, chunk);
    for (int base = 0; base < reader.total; base += kWarp) {
      BandPixel<A> pixel{};
      TilePoint<A> point{};
      bool hit = reader.read(base, pixel) && tile_point(pixel.u, pixel.v, S, point);
      const int x = point.x0 - x0, y = point.y0 - y0; // of corner 0 on the patch
      hit = hit && x + point.dx >= 0 && x < P::kColumns && y + point.dy >= 0 && y < P::kRows;
      for (unsigned hits = ballot(hit); hits; hits &= hits - 1) {
        if (!patch.touched)
          patch.clear(channels);
        const int source = __ffs(int(hits)) - 1;
        const T* color = image + shuffle(pixel.pixel, source) * a.image.pixel;
        const int side = lane_index() - shuffle(x, source), below = shuffle(y, source);
        A w[4];
        corner_weights(shuffle(point.ax, source), shuffle(point.ay, source), w);
        for (int k = 0; k < 2; ++k) {
          const int y_own = below + k, texel = y_own * P::kColumns + lane_index();
          if (side < 0 || side > 1 || y_own < 0 || y_own >= P::kRows || own >= S ||
              y0 + y_own >= S || patch.weight[texel] > A(0))
            continue;
          const A share = k == 0 ? (side == 0 ? w[0] : w[1]) : (side == 0 ? w[2] : w[3]);
          patch.weight[texel] -= share;
          for (int c = 0; c < channels; ++c)
            patch.sum[c * P::kTexels + texel] += share * widen(color[c * a.image.channel]);
        }
      }
    }
  }

  if (patch.touched) {
    for (int texel = lane_index(); texel < P::kTexels; texel += kWarp) {
      const A weight = raster_weight(patch.weight[texel]);
      patch.weight[texel] = weight;
      for (int c = 0; c < channels; ++c) {
        A& sum = patch.sum[c * P::kTexels + texel];
        sum = weight > A(0) ? sum / weight : A(0);
      }
    }
    sync_warp();
  }
  store_patch(patch, grid, tile, pass, x0, y0, a.C, channels, a.atlas, a.weight);
}

template <class T>
__global__ void __launch_bounds__(kRasterThreads, sizeof(acc_t<T>) == 4 ? 4 : 3)
    uv_raster_backward_kernel(UvRasterBackward<T> a, SurfaceGrid<acc_t<T>> cells, int passes) {
  using A = acc_t<T>;
  const int64_t pixels = a.H * a.W, groups = (pixels + kWarp - 1) / kWarp;
  const int64_t item = int64_t(blockIdx.x) * kRasterWarps + warp_index(); // [N, passes, groups]
  const int64_t n = item / groups / passes;
  if (n >= a.N)
    return;
  const int64_t first = item % groups * kWarp, c0 = item / groups % passes * kSums;
  const int64_t own = first + lane_index(), plane = a.S * a.S;
  const int channels = int(a.C - c0 < kSums ? a.C - c0 : kSums);

  SurfacePoint point{0, 0, 0};
  if (own < pixels)
    point = cells.point(n, own / a.W, own % a.W);
  const int mine = point.part ? cells.around(n, own / a.W, own % a.W) : 0;
  A result[kSums];
#pragma unroll
  for (int c = 0; c < kSums; ++c)
    result[c] = 0;

  if (point.part && mine == 0) { // a lonely pixel: four texels, where no triangle covers them
    TilePoint<A> at;
    const A* uv = a.uv + n * 2 * pixels + own;
    if (tile_point(uv[0], uv[pixels], int(a.S), at)) {
      const int64_t tile = n * a.P + point.part - 1;
      A w[4];
      int q[4];
      corner_weights(at.ax, at.ay, w);
      corner_texels(at, int(a.S), q);
      for (int k = 0; k < 4; ++k) {
        const A D = a.weight[tile * plane + q[k]];
        if (is_whole(D))
          continue;
        const T* grad = a.grad_atlas.data + tile * a.C * plane + q[k] * a.grad_atlas.pixel +
                        c0 * a.grad_atlas.channel;
#pragma unroll
        for (int c = 0; c < kSums; ++c)
          if (c < channels)
            result[c] += w[k] / D * widen(grad[c * a.grad_atlas.channel]);
      }
    }
  }

  for (unsigned left = ballot(mine != 0); left; left &= left - 1) {
    const int source = __ffs(int(left)) - 1;
    const int found = shuffle(mine, source);
    const int64_t tile = n * a.P + shuffle(point.part, source) - 1;
    const int64_t y = (first + source) / a.W, x = (first + source) % a.W;
    const T* grads = a.grad_atlas.data + tile * a.C * plane + c0 * a.grad_atlas.channel;
    A sum[kSums];
#pragma unroll
    for (int c = 0; c < kSums; ++c)
      sum[c] = 0;
    NOT_UNROLLED for (int k = 0; k < 6; ++k) {
      AtlasTriangle t;
      if (!(found >> k & 1) || !cells.triangle_of(n, y, x, k, t))
        continue;
      const int own_vertex = triangle_at(k).vertex;
      const int wide = t.x1 - t.x0 + 1;
      const int64_t texels = int64_t(wide) * (t.y1 - t.y0 + 1);
      for (int64_t i = lane_index(); i < texels; i += kWarp) {
        const int column = t.x0 + int(i % wide), row = t.y0 + int(i / wide);
        double w[3];
        if (!t.weights(column, row, w))
          continue;
        const int64_t q = row * a.S + column;
        const double vertex = own_vertex == 0 ? w[0] : own_vertex == 1 ? w[1] : w[2];
        const A share = A(vertex) / a.weight[tile * plane + q];
        const T* grad = grads + q * a.grad_atlas.pixel;
#pragma unroll
        for (int c = 0; c < kSums; ++c)
          if (c < channels)
            sum[c] += share * widen(grad[c * a.grad_atlas.channel]);
      }
    }
#pragma unroll
    for (int c = 0; c < kSums; ++c) {
      const A total = group_sum(sum[c], kWarp);
      result[c] = lane_index() == source ? total : result[c];
    }
  }

  if (own < pixels) {
    T* out =
        a.grad_image.data + n * a.C * pixels + own * a.grad_image.pixel + c0 * a.grad_image.channel;
#pragma unroll
    for (int c = 0; c < kSums; ++c)
      if (c < channels)
        out[c * a.grad_image.channel] = narrow<T>(result[c]);
  }
}

} // namespace

template <class T>
int64_t uv_raster_workspace(const UvRaster<T>& a) {
  return PixelBands<acc_t<T>>(a.N, a.H * a.W, 2 * a.P, a.S, nullptr).workspace_bytes(a.N);
}

template <class T>
void uv_raster(const UvRaster<T>& a, void* workspace, void* stream) {
  using A = acc_t<T>;
  using P = Patch<A, false>;
  const PixelBands<A> lists(a.N, a.H * a.W, 2 * a.P, a.S, workspace);
  sort_pixels(RasterKey<A>{a.grid(), lists.bands}, a.uv, a.N, a.H * a.W, lists, stream);
  // A cell is at most two edges high.
  const double rows = 2 * a.max_edge * double(a.S - 1) + 3;
  const int reach = rows < double(a.S) ? int(rows) / kBandRows + 1 : int(lists.bands);
  const auto grid = PatchGrid::plan<P>(a.N * a.P, a.S, a.S, a.C, a.atlas, a.weight);
  launch("uv_raster", uv_raster_kernel<T>, blocks_for(grid.count, kRasterWarps), kRasterThreads,
         kRasterWarps * P::elements(grid.per_pass) * int64_t(sizeof(A)), stream, a, a.grid(), lists,
         grid, reach);
}

template <class T>
void uv_raster_backward(const UvRasterBackward<T>& a, void* stream) {
  const int64_t passes = blocks_for(a.C, kSums);
  const int64_t warps = a.N * passes * blocks_for(a.H * a.W, kWarp);
  launch("uv_raster_backward", uv_raster_backward_kernel<T>, blocks_for(warps, kRasterWarps),
         kRasterThreads, 0, stream, a, a.grid(), int(passes));
}

#define INSTANTIATE(T)                                                                             \
  template int64_t uv_raster_workspace(const UvRaster<T>&);                                        \
  template void uv_raster(const UvRaster<T>&, void*, void*);                                       \
  template void uv_raster_backward(const UvRasterBackward<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
