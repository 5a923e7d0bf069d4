// SPDX-License-Identifier: Apache-2.0
// flow_warp backward: up to three kernels. No atomics: same inputs, same bits, always.
//
// Image: `sort_pixels` (pixel_bands.h) lists the output pixels that read each band of 8 rows of the
// image, in a fixed order. Then a warp owns a patch of the image and adds them one after another,
// as uv_splat does (patch.h): 8 rows x 32 columns and up to 8 channels; or, channels last, 8 rows x
// 8 columns x 32 channels. Each element is written once.
// Flow: a gather that walks as the forward does; the sum over the channels stays in one thread, or
// in one group of lanes.
//
// Traffic for 8 x 64 x 128^2: 104 MB with both gradients, 24 us at 4.3 TB/s, and 16 bytes an output
// pixel for the lists. A patch tests all pixels of its band, so that images much wider than a patch
// cost instructions: by estimate 0.15 ms for 1 x 3 x 1024^2.
#include "flow_taps.h"
#include "patch.h"
#include "pixel_bands.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// Where output pixels land on the image; the corner that is nearest to the origin may lie outside.
template <class A>
struct FlowKey {
  const A* flow;
  const uint8_t* visibility;
  int mode, h, w, H, W;
  bool border;

  __device__ __forceinline__ int part(int64_t n, int64_t pixel) const {
    return flow_side(visibility, n * h * w + pixel, mode) + 1;
  }
  __device__ __forceinline__ bool corner(int64_t pixel, A fx, A fy, int& x, int& y, A& ax,
                                         A& ay) const {
    const int row = int(pixel / w), column = int(pixel - int64_t(row) * w);
    bool live;
    flow_position(fx, column, W, border, x, ax, live);
    flow_position(fy, row, H, border, y, ay, live);
    return x >= -1 && x < W && y >= -1 && y < H;
  }
  __device__ __forceinline__ int64_t bin(int64_t n, int64_t pixel, int) const {
    const int64_t pixels = int64_t(h) * w;
    const A* at = flow + n * 2 * pixels + pixel;
    int x, y;
    A ax, ay;
    if (!flow_finite(at[0], at[pixels]) || !corner(pixel, at[0], at[pixels], x, y, ax, ay))
      return -1;
    return (y < 0 ? 0 : y) / kBandRows;
  }
};

template <class T, bool WIDE>
__global__ void __launch_bounds__(kThreads, sizeof(acc_t<T>) == 4 ? 7 : 5)
    image_kernel(FlowWarpBackward<T> a, FlowKey<acc_t<T>> find, PixelBands<acc_t<T>> lists,
                 PatchGrid grid) {
  using A = acc_t<T>;
  using P = Patch<A, WIDE>;
  const int64_t i = int64_t(blockIdx.x) * kWarps + warp_index();
  if (i >= grid.count)
    return;
  const auto [n, pass, row, column] = grid.place(i);
  const int x0 = column * P::kColumns, y0 = row * P::kRows;
  const int64_t c0 = pass * int64_t(grid.per_pass);
  const int channels = int(a.C - c0 < grid.per_pass ? a.C - c0 : grid.per_pass);

  A* memory = reinterpret_cast<A*>(dynamic_shared());
  P patch(memory + warp_index() * P::elements(grid.per_pass), channels);

  // Add the pixels of bands row-1 and row.
  const int64_t pixels = a.h * a.w;
  const T* grad = a.grad.data + n * a.out_channels() * pixels + c0 * a.grad.channel;
  for (int64_t chunk = 0; chunk < lists.chunks; chunk += kWarp) {
    BandReader<A> reader;
    reader.open(lists, n, row > 0 ? row - 1 : row, row + 1, chunk);
    for (int base = 0; base < reader.total; base += kWarp) {
      BandPixel<A> pixel{};
      int x = 0, y = 0;
      A ax = 0, ay = 0;
      bool hit =
          reader.read(base, pixel) && find.corner(pixel.pixel, pixel.u, pixel.v, x, y, ax, ay);
      x -= x0, y -= y0; // of the corner on the patch
      hit = hit && x >= -1 && x < P::kColumns && y >= -1 && y < P::kRows;
      const unsigned hits = ballot(hit);
      if (hits == 0)
        continue;
      if (!patch.touched)
        patch.clear(channels);
      int64_t at = pixel.pixel * a.grad.pixel;
      if (hit && a.mode == kFlowExpand && a.visibility[n * pixels + pixel.pixel] == 1)
        at += a.C * a.grad.channel;
      patch.add(hits, hit ? x : 0, hit ? y : 0, ax, ay, grad, at, a.grad.channel, channels);
    }
  }

  store_patch(patch, grid, n, pass, x0, y0, a.C, channels, a.grad_image, static_cast<A*>(nullptr));
}

template <class T, bool WIDE>
void add_patches(const FlowWarpBackward<T>& a, const FlowKey<acc_t<T>>& find,
                 const PixelBands<acc_t<T>>& lists, void* stream) {
  using A = acc_t<T>;
  using P = Patch<A, WIDE>;
  const auto grid =
      PatchGrid::plan<P>(a.N, a.H, a.W, a.C, a.grad_image, static_cast<const A*>(nullptr));
  launch("flow_warp_backward", image_kernel<T, WIDE>, blocks_for(grid.count, kWarps), kThreads,
         kWarps * P::elements(grid.per_pass) * int64_t(sizeof(A)), stream, a, find, lists, grid);
}

template <class T, bool VECTOR>
__global__ void __launch_bounds__(kThreads, sizeof(acc_t<T>) == 4 ? 5 : 3)
    flow_kernel(FlowWarpBackward<T> a, ChannelWalk walk) {
  using A = acc_t<T>;
  using Block = ChannelBlock<T, VECTOR>;
  const int64_t thread = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t item = thread / walk.group, pixels = a.h * a.w; // [N, h w]
  const int64_t pixel = item % pixels, n = item / pixels;
  const bool exists = n < a.N; // the others still take part in the sums over lanes
  FlowTaps<A> taps;
  taps.side = -1;
  if (exists)
    place_taps(a, n, pixel, taps);

  A sum[4] = {0, 0, 0, 0}; // of what arrives times each tap
  if (taps.side >= 0) {
    const T* image = a.image.data + n * a.C * a.H * a.W;
    const T* grad = a.grad.data + n * a.out_channels() * pixels + pixel * a.grad.pixel +
                    taps.side * a.C * a.grad.channel;
    for (int64_t c = thread % walk.group * Block::kBlock; c < a.C;
         c += walk.group * Block::kBlock) {
      Block arriving;
      arriving.load(grad + c * a.grad.channel, a.grad.channel, a.C - c);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        Block tap;
        tap.load(image + taps.pixel[k] * a.image.pixel + c * a.image.channel, a.image.channel,
                 a.C - c);
#pragma unroll
        for (int j = 0; j < Block::kBlock; ++j)
          sum[k] += arriving.value[j] * tap.value[j];
      }
    }
  }

  A gx = 0, gy = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const A total = group_sum(sum[k], walk.group);
    if (taps.side >= 0) { // a tap that moves nothing is not there, be it NaN
      const A x = taps.slope_x(k), y = taps.slope_y(k);
      gx += x != A(0) ? x * total : A(0);
      gy += y != A(0) ? y * total : A(0);
    }
  }
  if (exists && thread % walk.group == 0) {
    a.grad_flow[n * 2 * pixels + pixel] = gx;
    a.grad_flow[(n * 2 + 1) * pixels + pixel] = gy;
  }
}

template <class T>
PixelBands<acc_t<T>> bands_of(const FlowWarpBackward<T>& a, void* workspace) {
  return PixelBands<acc_t<T>>(a.N, a.h * a.w, 1, a.H, workspace);
}

} // namespace

template <class T>
int64_t flow_warp_backward_workspace(const FlowWarpBackward<T>& a) {
  return a.grad_image.data ? bands_of(a, nullptr).workspace_bytes(a.N) : 0;
}

template <class T>
void flow_warp_backward(const FlowWarpBackward<T>& a, void* workspace, void* stream) {
  using A = acc_t<T>;
  if (a.grad_image.data && a.N * a.C > 0) {
    const auto lists = bands_of(a, workspace);
    const FlowKey<A> find{a.flow,   a.visibility, a.mode,   int(a.h),
                          int(a.w), int(a.H),     int(a.W), a.border};
    sort_pixels(find, a.flow, a.N, a.h * a.w, lists, stream);
    if (a.grad_image.pixel != 1 && a.C > Patch<A, false>::kChannels)
      add_patches<T, true>(a, find, lists, stream);
    else
      add_patches<T, false>(a, find, lists, stream);
  }
  if (!a.grad_flow)
    return;
  const bool last = a.grad.pixel != 1 && a.image.pixel != 1;
  auto walk = ChannelWalk::plan<T>(a.C, last, aligned(a.grad.data) && aligned(a.image.data), a.C);
  walk.spans = 1;
  launch("flow_warp_backward", walk.vector ? flow_kernel<T, true> : flow_kernel<T, false>,
         blocks_for(a.N * a.h * a.w * walk.group, kThreads), kThreads, 0, stream, a, walk);
}

#define INSTANTIATE(T)                                                                             \
  template int64_t flow_warp_backward_workspace(const FlowWarpBackward<T>&);                       \
  template void flow_warp_backward(const FlowWarpBackward<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
