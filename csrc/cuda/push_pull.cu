// SPDX-License-Identifier: Apache-2.0
// push_pull and its adjoint: one block per (tile, channel) plane does all levels of the pyramid.
//
// Known nodes are single bits, 32 of a row in a word, at every level. Values of the levels above 0
// (a third of a plane) stay in shared memory, or in the block's slot of `workspace` when they do
// not fit: then two blocks per processor walk over the planes. Level 0 is never copied: the pull
// reads its known texels, the push interpolates level 1 and writes. A thread owns a parent node and
// its 2 x 2 children: 9 nodes read, 4 written, pairs in one store. The adjoint gathers as well
// (node p is read by children 2p-1 .. 2p+2), so there are no atomics and the same inputs give the
// same bits.
//
// Traffic for 8 x 24 tiles of 3 x 256^2: 151 MB written, 50 MB of weights (the channels
// of a tile run side by side, two of three find them in L2) and the known texels twice; 50 us
// at 4.3 TB/s for the usual 4 % known, 82 for full tiles. A plane takes 98 KB (87 of values, 11 of
// bits), so two blocks of 512 threads (64 registers) share an SM and 576 planes are 2.2 rounds of
// 264: expect ~100 us. An empty tile reads its weights, writes zeros and is done.
#include "../ops/push_pull.h"
#include "channels.h"
#include "pyramid.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kMostThreads = 512;

template <class T, bool SHARED, bool ADJOINT>
__global__ void __launch_bounds__(kMostThreads, SHARED ? 2 : 1)
    push_pull_kernel(PushPull<T> a, PyramidPlan plan, void* workspace, int64_t slot_bytes,
                     bool paired) {
  using A = acc_t<T>;
  const int W = int(a.W);
  const int64_t texels = a.H * a.W;
  void* memory = SHARED ? static_cast<void*>(dynamic_shared())
                        : static_cast<char*>(workspace) + blockIdx.x * slot_bytes;
  const Pyramid<T, SHARED> pyramid(a, plan, memory);

  for (int64_t plane = blockIdx.x; plane < a.M * a.C; plane += gridDim.x) {
    const int64_t m = plane / a.C, c = plane % a.C;
    const T* atlas = a.atlas.data + m * a.C * texels + c * a.atlas.channel;
    T* filled = a.filled.data + m * a.C * texels + c * a.filled.channel;
    const auto source = [&](int y, int x) { return atlas[(int64_t(y) * W + x) * a.atlas.pixel]; };

    if (!pyramid.mark(a.weight + m * texels, a.min_weight)) {
      for (int64_t i = threadIdx.x; i < texels; i += blockDim.x)
        filled[i * a.filled.pixel] = narrow<T>(A(0));
    } else {
      const auto texel = [&](int y, int x) { return widen(source(y, x)); };
      if (pyramid.within)
        pyramid.dilate(int(a.radius));
      if constexpr (ADJOINT) {
        pyramid.push_transposed(texel);
        pyramid.pull_transposed();
      } else {
        pyramid.pull(texel);
        pyramid.push();
      }

      // Level 0, written once: what is known as it is (adjoint: and its share), the rest
      // interpolated (0).
      const auto below = pyramid.base;
      const auto above = below.above();
      pyramid.for_nodes(above, [&](int y, int x) {
        const unsigned mask = pyramid.children(below, y, x);
        A up[4] = {0, 0, 0, 0}, share = 0;
        if (ADJOINT && mask && plan.levels > 0)
          share = pyramid.row(above, y)[x] / A(__popc(mask));
        if (!ADJOINT && plan.levels > 0)
          pyramid.interpolate(above, y, x, up);
#pragma unroll
        for (int dy = 0; dy < 2; ++dy) {
          const int cy = 2 * y + dy;
          if (cy >= below.h)
            break;
          Pack<T, 2> pair;
#pragma unroll
          for (int dx = 0; dx < 2; ++dx) {
            const int cx = 2 * x + dx, j = 2 * dy + dx;
            const bool is_known = mask >> j & 1u;
            const bool allowed =
                !pyramid.within || cx >= W ||
                (pyramid.within[int64_t(cy) * below.words + cx / 32] >> cx % 32 & 1u);
            if (is_known)
              pair.value[dx] = ADJOINT ? narrow<T>(texel(cy, cx) + share) : source(cy, cx);
            else
              pair.value[dx] = narrow<T>(allowed ? up[j] : A(0));
          }
          T* at = filled + (int64_t(cy) * W + 2 * x) * a.filled.pixel;
          if (paired) {
            *reinterpret_cast<Pack<T, 2>*>(at) = pair;
          } else {
            at[0] = pair.value[0];
            if (2 * x + 1 < W)
              at[a.filled.pixel] = pair.value[1];
          }
        }
      });
    }
    __syncthreads(); // before the next plane reuses the memory
  }
}

template <class T>
PyramidPlan plan_pyramid(const PushPull<T>& a, int64_t& bytes) {
  PyramidPlan plan;
  Level<int64_t> at{int(a.H), int(a.W), int((a.W + 31) / 32), 0, 0};
  const int64_t base_words = int64_t(at.h) * at.words;
  plan.words = base_words;
  while (at.h > 1 || at.w > 1) {
    at = at.above();
    plan.values += int64_t(at.h) * at.w;
    plan.words += int64_t(at.h) * at.words;
    ++plan.levels;
  }
  plan.scratch_words = a.radius < 0 ? 0 : base_words;
  const int64_t value_bytes = plan.values * int64_t(sizeof(acc_t<T>));
  bytes = (value_bytes > plan.scratch_words * 4 ? value_bytes : plan.scratch_words * 4) +
          plan.words * 4 + (a.radius < 0 ? 0 : base_words * 4);
  bytes = (bytes + 15) / 16 * 16;
  plan.in_shared = bytes <= shared_memory_limit();
  plan.slots = 2 * int64_t(processor_count());
  if (plan.slots > a.M * a.C)
    plan.slots = a.M * a.C;
  return plan;
}

} // namespace

template <class T>
int64_t push_pull_workspace(const PushPull<T>& a) {
  int64_t bytes = 0;
  const PyramidPlan plan = plan_pyramid(a, bytes);
  return plan.in_shared ? 0 : plan.slots * bytes;
}

template <class T>
void push_pull(const PushPull<T>& a, void* workspace, void* stream) {
  if (a.H * a.W == 0)
    return;
  int64_t bytes = 0;
  const PyramidPlan plan = plan_pyramid(a, bytes);
  PushPull<T> call = a;
  const int64_t longest = a.H > a.W ? a.H : a.W;
  call.radius = a.radius > longest ? longest : a.radius;
  const bool paired = a.filled.pixel == 1 && a.W % 2 == 0 &&
                      reinterpret_cast<uintptr_t>(a.filled.data) % (2 * sizeof(T)) == 0;
  int threads = 64; // about one for every four parents of level 1
  while (threads < kMostThreads && threads * 16 < a.H * a.W)
    threads *= 2;
  if (plan.in_shared) {
    const int64_t planes = a.M * a.C;
    launch("push_pull",
           a.adjoint ? push_pull_kernel<T, true, true> : push_pull_kernel<T, true, false>,
           planes > INT32_MAX ? INT32_MAX : planes, threads, bytes, stream, call, plan, nullptr,
           bytes, paired);
  } else {
    launch("push_pull",
           a.adjoint ? push_pull_kernel<T, false, true> : push_pull_kernel<T, false, false>,
           plan.slots, threads, 0, stream, call, plan, workspace, bytes, paired);
  }
}

#define INSTANTIATE(T)                                                                             \
  template int64_t push_pull_workspace(const PushPull<T>&);                                        \
  template void push_pull(const PushPull<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
