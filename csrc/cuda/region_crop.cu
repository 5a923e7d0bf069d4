// SPDX-License-Identifier: Apache-2.0
// region_crop on the GPU: one launch for all windows, no copy of the image per window.
//
// Forward: a block owns some rows of one crop, about 2,048 words; the words of a row are neighbors
// in the image too. A word is one pixel as far as 16 bytes and alignment allow: an element of a
// contiguous image, up to 16 bytes of a channels-last one. Traffic: 8 x 10 crops of 3 x 64^2 are
// 3.9 MB read and written, a microsecond or two: the launch.
//
// Backward: a thread owns a pixel of the image's gradient and a block of its channels; the block's
// pixels are consecutive. 256 windows at a time, the threads note those that reach the block's rows
// in shared memory, in the order of K; then every thread adds up those that hold its pixel. Each
// gradient is read once, each pixel written once; no atomics, the same bits every run.
#include <algorithm>

#include "../ops/region_crop.h"
#include "channels.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kWords = 2048; // of a block

template <class V>
__global__ void __launch_bounds__(kThreads)
    region_crop_kernel(RegionCrop a, int rows, int blocks_per_crop) {
  const int64_t crop = blockIdx.x / unsigned(blocks_per_crop);
  const int first = int(blockIdx.x % unsigned(blocks_per_crop)) * rows; // row of [planes, size]
  const int size = int(a.size), all = int(a.planes) * size;
  const unsigned across = unsigned(a.pixel / int64_t(sizeof(V))), run = across * unsigned(size);
  const Window window = window_at(a.center, crop, a.H, a.W, a.size);
  if (first == 0 && threadIdx.x == 0)
    a.valid[crop] = window.valid;
  const V* image =
      static_cast<const V*>(a.image) + crop / a.K * a.planes * a.H * a.W * int64_t(across);
  V* crops = static_cast<V*>(a.crops) + (crop * all + first) * int64_t(run);
  const unsigned words = unsigned(all - first < rows ? all - first : rows) * run;
#pragma unroll 4
  for (unsigned i = threadIdx.x; i < words; i += kThreads) {
    const unsigned row = i / run, word = i - row * run;
    const int plane = (first + int(row)) / size, y = (first + int(row)) - plane * size;
    V value{};
    if (window.valid)
      value = image[((plane * a.H + window.y0 + y) * a.W + window.x0) * across + word];
    crops[i] = value;
  }
}

// Who takes what in the backward: `group` lanes side by side share a pixel.
struct PixelBlocks {
  int group;              // a power of two, at most a warp
  unsigned spans, blocks; // threads that share a pixel beyond that; blocks of pixels of an image
  bool vector;            // a thread's channels are one 16-byte access

  template <class T>
  explicit PixelBlocks(const RegionCropBackward<T>& a) {
    const int64_t C = a.planes * a.across;
    vector = a.across > 1 && C % kVector<T> == 0 && aligned(a.grad) && aligned(a.grad_image);
    const int64_t block = vector ? kVector<T> : 4;
    group = 1;
    while (a.across > 1 && group < kWarp && group * block < C)
      group *= 2;
    spans = unsigned(blocks_for(C, group * block));
    blocks = unsigned(blocks_for(a.H * a.W, kThreads / group));
  }
};

struct Reaching {
  int k, x0, y0;
};

template <class T, bool VECTOR>
__global__ void __launch_bounds__(kThreads)
    region_crop_backward_kernel(RegionCropBackward<T> a, PixelBlocks plan) {
  using Block = ChannelBlock<T, VECTOR>;
  Reaching* list = reinterpret_cast<Reaching*>(dynamic_shared()); // [kThreads]
  int* counts = reinterpret_cast<int*>(list + kThreads);          // [warps]
  const int64_t n = blockIdx.x / plan.blocks / plan.spans;
  const unsigned span = blockIdx.x / plan.blocks % plan.spans;
  const unsigned per_block = unsigned(kThreads / plan.group), W = unsigned(a.W);
  const unsigned first = blockIdx.x % plan.blocks * per_block, pixels = unsigned(a.H) * W;
  const unsigned end = first + per_block < pixels ? first + per_block : pixels;
  const int top = int(first / W), bottom = int((end - 1) / W), size = int(a.size);

  const unsigned pixel = first + threadIdx.x / unsigned(plan.group), y = pixel / W;
  const int64_t C = a.planes * a.across;
  const int64_t c =
      (int64_t(span) * plan.group + threadIdx.x % unsigned(plan.group)) * Block::kBlock;
  const bool mine = pixel < pixels && c < C;
  const bool last = a.across > 1;
  const int64_t area = a.size * a.size, channel = last ? 1 : area;
  const T* grad = a.grad + n * a.K * C * area + c * channel;
  Block sum;
  sum.clear();
  for (int64_t base = 0; base < a.K; base += kThreads) {
    const int64_t k = base + threadIdx.x;
    Window window{0, 0, false};
    if (k < a.K)
      window = window_at(a.center, n * a.K + k, a.H, a.W, a.size);
    const bool reaches = window.valid && window.y0 <= bottom && window.y0 > top - size;
    const unsigned votes = ballot(reaches);
    __syncthreads(); // the list of the last round has been read
    if (lane_index() == 0)
      counts[warp_index()] = __popc(votes);
    __syncthreads();
    int at = __popc(votes & lanes_below()), count = 0;
#pragma unroll
    for (int w = 0; w < kThreads / kWarp; ++w) {
      at += w < warp_index() ? counts[w] : 0;
      count += counts[w];
    }
    if (reaches)
      list[at] = {int(k), window.x0, window.y0};
    __syncthreads();
    for (int i = 0; mine && i < count; ++i) {
      const unsigned dx = pixel - y * W - unsigned(list[i].x0), dy = y - unsigned(list[i].y0);
      if (dx >= unsigned(size) || dy >= unsigned(size))
        continue;
      Block value;
      const int64_t within = int64_t(dy) * size + dx;
      value.load(grad + list[i].k * C * area + within * a.across, channel, C - c);
#pragma unroll
      for (int j = 0; j < Block::kBlock; ++j)
        sum.value[j] += value.value[j];
    }
  }
  if (mine) {
    const int64_t plane = last ? 1 : int64_t(pixels);
    sum.store(a.grad_image + n * C * int64_t(pixels) + c * plane + int64_t(pixel) * a.across, plane,
              C - c);
  }
}

template <class V>
void copy_words(const RegionCrop& a, void* stream) {
  const int64_t all = a.planes * a.size, run = a.size * a.pixel / int64_t(sizeof(V));
  const int64_t rows = std::max<int64_t>(1, std::min(all, kWords / std::max<int64_t>(run, 1)));
  const int64_t blocks = std::max<int64_t>(1, blocks_for(all, rows)); // one says valid or not
  launch("region_crop", region_crop_kernel<V>, a.N * a.K * blocks, kThreads, 0, stream, a,
         int(rows), int(blocks));
}

} // namespace

void region_crop(const RegionCrop& a, void* stream) {
  const uintptr_t fits = reinterpret_cast<uintptr_t>(a.image) |
                         reinterpret_cast<uintptr_t>(a.crops) | uintptr_t(a.pixel);
  if (fits % 16 == 0)
    return copy_words<Pack<uint32_t, 4>>(a, stream);
  if (fits % 8 == 0)
    return copy_words<uint64_t>(a, stream);
  if (fits % 4 == 0)
    return copy_words<uint32_t>(a, stream);
  copy_words<uint16_t>(a, stream);
}

template <class T>
void region_crop_backward(const RegionCropBackward<T>& a, void* stream) {
  const PixelBlocks plan(a);
  const int64_t shared = kThreads * int64_t(sizeof(Reaching)) + kThreads / kWarp * sizeof(int);
  launch("region_crop_backward",
         plan.vector ? region_crop_backward_kernel<T, true> : region_crop_backward_kernel<T, false>,
         a.N * plan.spans * plan.blocks, kThreads, shared, stream, a, plan);
}

template void region_crop_backward(const RegionCropBackward<float>&, void*);
template void region_crop_backward(const RegionCropBackward<double>&, void*);
template void region_crop_backward(const RegionCropBackward<float16>&, void*);
template void region_crop_backward(const RegionCropBackward<bfloat16>&, void*);

} // namespace pose_kernels::cuda
