// SPDX-License-Identifier: Apache-2.0
// The gradient of the maps, as far as one warp of helmert_warp_backward can see it:
//   d loss / d A_i[k, :] = sum over x of  (x, y, z, 1) sum over corners q of
//                          d w_q / d position_k  m_i(q)  sum over c won by i of g(x, c) V(q, c)
#pragma once

#include "part_samples.h"

namespace pose_kernels::cuda {

// What the lanes that read channels need to know of a part at a voxel.
template <class A>
struct alignas(16) PartSlope {
  A change[3][8]; // d weight / d position times mask of the corners
  int base;
  unsigned corners; // bit k: corner k has a mask
};

// Adds the patch of `sampler`, which has run, to sums: [P, 3, 4] in shared memory, of this warp.
// staged: [kWarp], of this warp.
template <class T, class Sampler>
__device__ __forceinline__ void
add_slopes(const Sampler& sampler, Planes<const T> grad, Planes<const T> volume, int64_t C,
           const unsigned char* list, int count, PartSlope<acc_t<T>>* staged, double* sums) {
  using A = acc_t<T>;
  constexpr int K = Sampler::kChannels;
  const auto& parts = sampler.parts;
  int step[3];
  parts.steps(step);
  const int pixel = int(volume.pixel);
  const int64_t start = sampler.n * C * parts.voxels();
  const T* data = volume.data + start + sampler.own.first * volume.channel;
  const T* incoming = grad.data + start + sampler.own.first * grad.channel;
  for (int base = 0; base < count; base += sampler.slots()) {
    PartCell<A> cell;
    const bool covered = sampler.place(list, count, base, cell);
    sync_warp(); // the last round has been read
    if (covered) {
      PartSlope<A>& slope = staged[lane_index()];
      slope.base = cell.base;
      slope.corners = 0;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        slope.corners |= unsigned(cell.mask[k] != A(0)) << k;
#pragma unroll
        for (int j = 0; j < 3; ++j)
          slope.change[j][k] = cell.slope(k, j) * cell.mask[k];
      }
    }
    const unsigned hits = ballot(covered);
    sync_warp();
    for (int slot = 0; slot < sampler.slots() && base + slot < count; ++slot) {
      const unsigned part = list[base + slot];
      A sum[3][4] = {};
      bool any = false;
#pragma unroll
      for (int a = 0; a < Sampler::kVoxels; ++a) {
        bool won = false;
#pragma unroll
        for (int j = 0; j < K; ++j)
          won = won || (j < sampler.own.left && sampler.best[a].winner_of(j) == part);
        if (!won || !(hits >> sampler.source(slot, a) & 1u))
          continue;
        any = true;
        int at[3];
        sampler.at(a, at);
        A g[K], change[3] = {};
        sampler.own.load(incoming + sampler.tiles.flat(at) * grad.pixel, grad.channel, true, g);
#pragma unroll
        for (int j = 0; j < K; ++j)
          g[j] = sampler.best[a].winner_of(j) == part ? g[j] : A(0);
        const PartSlope<A>& slope = staged[sampler.source(slot, a)];
#pragma unroll 2
        for (int k = 0; k < 8; ++k) {
          const int voxel =
              slope.base + (k & 1 ? step[0] : 0) + (k & 2 ? step[1] : 0) + (k & 4 ? step[2] : 0);
          const bool wanted = slope.corners >> k & 1u;
          A read[K], dot = 0;
          sampler.own.load(data + int64_t(voxel) * pixel, volume.channel, wanted, read);
#pragma unroll
          for (int j = 0; j < K; ++j)
            dot += g[j] == A(0) ? A(0) : g[j] * read[j];
#pragma unroll
          for (int j = 0; j < 3; ++j)
            change[j] += wanted ? slope.change[j][k] * dot : A(0);
        }
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          sum[j][0] += change[j] * A(at[0]);
          sum[j][1] += change[j] * A(at[1]);
          sum[j][2] += change[j] * A(at[2]);
          sum[j][3] += change[j];
        }
      }
      if (ballot(any) == 0)
        continue;
      A own = 0; // lane i < 12 gets sum i
#pragma unroll
      for (int i = 0; i < 12; ++i) {
        const A total = group_sum(sum[i / 4][i % 4], kWarp);
        own = lane_index() == i ? total : own;
      }
      if (lane_index() < 12)
        sums[part * 12 + lane_index()] += double(own);
    }
  }
}

} // namespace pose_kernels::cuda
