// SPDX-License-Identifier: Apache-2.0
// uv_splat: two kernels forward, one backward. No atomics: same inputs, same bits, always.
//
// Forward. `sort_pixels` (pixel_bands.h) lists the foreground pixels of every band of 8 rows of a
// tile. Then a warp owns one patch of the atlas (patch.h): 8 rows x 32 columns and up to 8
// channels; or, channels last, 8 rows x 8 columns x 32 channels. It reads its band's list 32 pixels
// at a time, ballots which of them touch the patch, loads the colors of those together (one latency
// per 32 pixels) and adds them one pixel after another, in list order, to its sums in shared
// memory: lanes are (corner, channel). It divides by the weight, narrows, and writes each of its
// texels once.
//
// Traffic for 8 x 3 x 256^2 onto 24 x 256^2: 11 MB read, 201 MB written in 16-byte stores: 49 us at
// 4.3 TB/s. About 96 % of the patches stay empty. Such a warp looks up its list, tests two batches
// of coordinates and stores zeros: ~300 instructions for 4 KB, a third of the issue slots of that
// time. At most 64 registers on sm_90 leave 32 warps per SM: 17 MB are being written while a warp
// lives (~2.5 us), more than the memory takes. The sort before it moves ~8 MB within L2: ~5 us.
//
// Backward is a gather (formulas in ../ops/uv_splat.h) and walks as uv_gather does (channels.h): a
// pixel reads its four texels of one or two atlases, 27 MB in all here, and shares nothing.
#include "../ops/uv_splat.h"
#include "channels.h"
#include "patch.h"
#include "pixel_bands.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kSplatThreads = 128;
constexpr int kSplatWarps = kSplatThreads / kWarp;
constexpr int kBackwardThreads = 128;

template <class T, bool WIDE>
__global__ void __launch_bounds__(kSplatThreads, sizeof(acc_t<T>) == 4 ? 7 : 5)
    uv_splat_kernel(UvSplat<T> a, PixelBands<acc_t<T>> lists, PatchGrid grid) {
  using A = acc_t<T>;
  using P = Patch<A, WIDE>;
  const int64_t i = int64_t(blockIdx.x) * kSplatWarps + warp_index();
  if (i >= grid.count)
    return;

  const auto [tile, pass, row, column] = grid.place(i);
  const int64_t n = tile / a.P; // tile = n P + p
  const int S = int(a.S), x0 = column * P::kColumns, y0 = row * P::kRows;
  const int64_t c0 = pass * int64_t(grid.per_pass);
  const int channels = int(a.C - c0 < grid.per_pass ? a.C - c0 : grid.per_pass);

  A* memory = reinterpret_cast<A*>(dynamic_shared());
  P patch(memory + warp_index() * P::elements(grid.per_pass), channels);

  // Add the pixels of bands row-1 and row of this part.
  const T* image = a.image.data + n * a.C * a.H * a.W + c0 * a.image.channel;
  const int64_t bin = tile % a.P * grid.bands + row;
  for (int64_t chunk = 0; chunk < lists.chunks; chunk += kWarp) {
    BandReader<A> reader;
    reader.open(lists, n, row > 0 ? bin - 1 : bin, bin + 1, chunk);
    for (int base = 0; base < reader.total; base += kWarp) {
      BandPixel<A> pixel{};
      TilePoint<A> point{};
      bool hit = reader.read(base, pixel) && tile_point(pixel.u, pixel.v, S, point);
      const int x = point.x0 - x0, y = point.y0 - y0; // of corner 0 on the patch
      hit = hit && x + point.dx >= 0 && x < P::kColumns && y + point.dy >= 0 && y < P::kRows;
      const unsigned hits = ballot(hit);
      if (hits == 0)
        continue;
      if (!patch.touched)
        patch.clear(channels);
      patch.add(hits, x, y, point.ax, point.ay, image, pixel.pixel * a.image.pixel, a.image.channel,
                channels);
    }
  }

  if (patch.touched && a.normalize)
    patch.normalize(channels, a.min_weight);
  store_patch(patch, grid, tile, pass, x0, y0, a.C, channels, a.atlas, a.weight);
}

template <class T, bool WIDE>
void splat_patches(const UvSplat<T>& a, const PixelBands<acc_t<T>>& lists, void* stream) {
  using A = acc_t<T>;
  using P = Patch<A, WIDE>;
  const auto grid = PatchGrid::plan<P>(a.N * a.P, a.S, a.S, a.C, a.atlas, a.weight);
  launch("uv_splat", uv_splat_kernel<T, WIDE>, blocks_for(grid.count, kSplatWarps), kSplatThreads,
         kSplatWarps * P::elements(grid.per_pass) * int64_t(sizeof(A)), stream, a, lists, grid);
}

template <class T, bool VECTOR>
__global__ void __launch_bounds__(kBackwardThreads, sizeof(acc_t<T>) == 4 ? 5 : 3)
    uv_splat_backward_kernel(UvSplatBackward<T> a, ChannelWalk walk) {
  using A = acc_t<T>;
  using Block = ChannelBlock<T, VECTOR>;
  const int64_t thread = int64_t(blockIdx.x) * kBackwardThreads + threadIdx.x;
  const int64_t item = thread / walk.group, pixels = a.H * a.W; // [N, spans, H W]
  const int64_t pixel = item % pixels, n = item / pixels / walk.spans;
  const int64_t span = item / pixels % walk.spans * walk.per_span;
  const bool exists = n < a.N; // the others still take part in the sums over lanes
  const int64_t end = !exists ? 0 : span + walk.per_span < a.C ? span + walk.per_span : a.C;

  // The four texels.
  const int part = exists ? part_at(a.part, n * pixels + pixel, int(a.P)) : 0;
  const A* uv = a.uv + n * 2 * pixels + pixel;
  TilePoint<A> point;
  const bool inside = part > 0 && tile_point(uv[0], uv[pixels], int(a.S), point);
  A w[4], scale[4], g[4] = {0, 0, 0, 0}; // weights, 1 / D (0: invisible), d loss / d weights
  int64_t texel[4];
  if (inside) {
    const int64_t tile = n * a.P + part - 1, plane = a.S * a.S;
    int q[4];
    corner_weights(point.ax, point.ay, w);
    corner_texels(point, int(a.S), q);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      texel[k] = tile * a.C * plane + q[k] * a.grad_atlas.pixel;
      const A D = a.weight ? a.weight[tile * plane + q[k]] : A(1);
      scale[k] = !a.weight ? A(1) : D > a.min_weight ? A(1) / D : A(0);
      if (a.grad_weight && a.grad_uv && thread % walk.group == 0)
        g[k] = a.grad_weight[tile * plane + q[k]];
    }
  }

  // Their channels.
  const int64_t channel = a.grad_atlas.channel;
  const int64_t at = n * a.C * pixels;
  for (int64_t c = span + thread % walk.group * Block::kBlock; c < end;
       c += walk.group * Block::kBlock) {
    Block grad, color, q, own;
    grad.clear();
    own.clear();
    if (inside) {
      if (a.grad_uv)
        color.load(a.image.data + at + pixel * a.image.pixel + c * a.image.channel, a.image.channel,
                   end - c);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (scale[k] != A(0)) {
          q.load(a.grad_atlas.data + texel[k] + c * channel, channel, end - c);
          if (a.grad_uv && a.weight)
            own.load(a.atlas.data + texel[k] + c * channel, channel, end - c);
#pragma unroll
          for (int j = 0; j < Block::kBlock; ++j) {
            q.value[j] *= scale[k];
            grad.value[j] += w[k] * q.value[j];
            if (a.grad_uv)
              g[k] += (color.value[j] - own.value[j]) * q.value[j];
          }
        }
    }
    if (a.grad_image.data)
      grad.store(a.grad_image.data + at + pixel * a.grad_image.pixel + c * a.grad_image.channel,
                 a.grad_image.channel, end - c);
  }

  if (a.grad_uv) {
    A gu = 0, gv = 0;
    if (inside)
      corner_gradient(point, g, gu, gv);
    gu = group_sum(gu, walk.group);
    gv = group_sum(gv, walk.group);
    if (exists && thread % walk.group == 0) {
      a.grad_uv[n * 2 * pixels + pixel] = gu;
      a.grad_uv[(n * 2 + 1) * pixels + pixel] = gv;
    }
  }
}

} // namespace

template <class T>
int64_t uv_splat_workspace(const UvSplat<T>& a) {
  return PixelBands<acc_t<T>>(a.N, a.H * a.W, a.P, a.S, nullptr).workspace_bytes(a.N);
}

template <class T>
void uv_splat(const UvSplat<T>& a, void* workspace, void* stream) {
  const PixelBands<acc_t<T>> lists(a.N, a.H * a.W, a.P, a.S, workspace);
  const SplatKey<acc_t<T>> key{a.part, a.uv, a.H * a.W, lists.bands, int(a.P), int(a.S)};
  sort_pixels(key, a.uv, a.N, a.H * a.W, lists, stream);
  if (a.atlas.pixel != 1 && a.C > Patch<acc_t<T>, false>::kChannels)
    splat_patches<T, true>(a, lists, stream);
  else
    splat_patches<T, false>(a, lists, stream);
}

template <class T>
void uv_splat_backward(const UvSplatBackward<T>& a, void* stream) {
  const bool last = a.grad_atlas.pixel != 1;
  const bool all_aligned = aligned(a.grad_atlas.data) && aligned(a.image.data) &&
                           aligned(a.atlas.data) && aligned(a.grad_image.data);
  // The sum over channels in grad_uv stays in one thread; grad_image alone can be spread.
  const auto walk = ChannelWalk::plan<T>(a.C, last, all_aligned, a.grad_uv && a.C > 8 ? a.C : 8);
  const int64_t blocks = blocks_for(a.N * walk.spans * a.H * a.W * walk.group, kBackwardThreads);
  launch("uv_splat_backward",
         walk.vector ? uv_splat_backward_kernel<T, true> : uv_splat_backward_kernel<T, false>,
         blocks, kBackwardThreads, 0, stream, a, walk);
}

#define INSTANTIATE(T)                                                                             \
  template int64_t uv_splat_workspace(const UvSplat<T>&);                                          \
  template void uv_splat(const UvSplat<T>&, void*, void*);                                         \
  template void uv_splat_backward(const UvSplatBackward<T>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
