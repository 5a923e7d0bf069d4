// SPDX-License-Identifier: Apache-2.0
// uv_gather forward: every pixel reads the four texels of its part's tile around its (u, v).
//
// Planar: thread = pixel and eight channels; 32 lanes are 32 pixels of a row, so that part, uv and
// image are coalesced, while a pixel's texels lie in 2-4 sectors of 32 bytes per channel.
// Channels last: a group of lanes = pixel, 16 bytes a lane; corners are contiguous runs of C and
// every sector that is fetched is used. Background warps read the part map, store zeros and are
// done.
//
// Traffic for 8 x 3 x 256^2, 28 % foreground: 0.5 MB of part, 1.2 of uv, texels (planar ~30
// MB of sectors, channels last ~10, many shared by neighbors in L1), 6.3 of image. At such sizes
// the launch and two dependent loads (part and uv, then texels; ~2 us) cost as much as the bytes;
// 64 registers leave 1,024 threads per SM with 16 loads each in flight. No atomics, no shared
// memory. The backward is uv_splat (atlas) and uv_splat_backward (uv).
#include "../math/bilinear.h"
#include "../ops/uv_gather.h"
#include "channels.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, bool VECTOR>
__global__ void __launch_bounds__(kThreads) uv_gather_kernel(UvGather<T> a, ChannelWalk walk) {
  using A = acc_t<T>;
  using Block = ChannelBlock<T, VECTOR>;
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t item = thread / walk.group, pixels = a.H * a.W; // [N, spans, H W]
  const int64_t pixel = item % pixels, n = item / pixels / walk.spans;
  if (n >= a.N)
    return;
  const int64_t span = item / pixels % walk.spans * walk.per_span;
  const int64_t end = span + walk.per_span < a.C ? span + walk.per_span : a.C;

  const int part = part_at(a.part, n * pixels + pixel, int(a.P));
  const A* uv = a.uv + n * 2 * pixels + pixel;
  TilePoint<A> point;
  const bool inside = part > 0 && tile_point(uv[0], uv[pixels], int(a.S), point);
  A w[4];
  const T* corner[4];
  if (inside) {
    const T* tile = a.atlas.data + (n * a.P + part - 1) * a.C * a.S * a.S;
    int q[4];
    corner_weights(point.ax, point.ay, w);
    corner_texels(point, int(a.S), q);
#pragma unroll
    for (int k = 0; k < 4; ++k)
      corner[k] = tile + q[k] * a.atlas.pixel;
  }

  T* image = a.image.data + n * a.C * pixels + pixel * a.image.pixel;
  const int lane = int(thread % walk.group);
  for (int64_t c = span + lane * Block::kBlock; c < end; c += walk.group * Block::kBlock) {
    Block sum;
    sum.clear();
    if (inside) {
      Block texel[4];
#pragma unroll
      for (int k = 0; k < 4; ++k)
        texel[k].load(corner[k] + c * a.atlas.channel, a.atlas.channel, end - c);
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int j = 0; j < Block::kBlock; ++j)
          sum.value[j] += w[k] * texel[k].value[j];
    }
    sum.store(image + c * a.image.channel, a.image.channel, end - c);
  }
}

} // namespace

template <class T>
void uv_gather(const UvGather<T>& a, void* stream) {
  const bool last = a.atlas.pixel != 1 && a.image.pixel != 1;
  const bool both_aligned = aligned(a.atlas.data) && aligned(a.image.data);
  const auto walk = ChannelWalk::plan<T>(a.C, last, both_aligned, 8);
  const int64_t blocks = blocks_for(a.N * walk.spans * a.H * a.W * walk.group, kThreads);
  launch("uv_gather", walk.vector ? uv_gather_kernel<T, true> : uv_gather_kernel<T, false>, blocks,
         kThreads, 0, stream, a, walk);
}

template void uv_gather(const UvGather<float>&, void*);
template void uv_gather(const UvGather<double>&, void*);
template void uv_gather(const UvGather<float16>&, void*);
template void uv_gather(const UvGather<bfloat16>&, void*);

} // namespace pose_kernels::cuda
