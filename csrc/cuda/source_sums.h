// SPDX-License-Identifier: Apache-2.0
// What one source voxel q gets from one part i:  sum over x, won by i, of  w_q(A_i x) g(x, c).
// All lanes of a warp look for the output voxels x, then each group of lanes adds up its share of
// them, always in the same order.
#pragma once

#include "../ops/helmert_warp.h"
#include "output_rows.h"

namespace pose_kernels::cuda {

// An output voxel that reads q.
template <class A>
struct Reader {
  A weight;
  int voxel;
};

// Sum over the lanes that have the same place in their group.
template <class A>
__device__ __forceinline__ A sum_of_groups(A value, int group) {
  for (int step = kWarp / 2; step >= group; step /= 2)
    value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Adds to `sum`, K channels of the own lane; the sums of the groups of a warp are apart.
// readers: [kWarp], of this warp.
template <class T, Walk WALK, int K>
__device__ __forceinline__ void add_readers(const PartMaps<acc_t<T>>& parts, int64_t n, int p,
                                            const int (&q)[3], Planes<const T> grad,
                                            Planes<const unsigned char> winner, int64_t C,
                                            const OwnChannels<T, WALK, K>& own, int group,
                                            Reader<acc_t<T>>* readers, acc_t<T> (&sum)[K]) {
  using A = acc_t<T>;
  const A* map = parts.map(n, p);
  const int64_t start = n * C * parts.voxels();
  const T* incoming = grad.data + start + own.first * grad.channel;
  const unsigned char* won = winner.data + start + own.first * winner.channel;
  OutputRows rows;
  rows.find(map, q, parts.size);
  const int64_t count = rows.count();
  for (int64_t base = 0; base < count; base += kWarp) {
    int x = 0, y = 0, z = 0, length = 0;
    rows.row(base + lane_index(), y, z);
    if (base + lane_index() < count)
      row_span(map, q, parts.size[0], y, z, x, length);
    const int through = prefix_sum(length);
    const int candidates = shuffle(through, kWarp - 1);
    for (int first = 0; first < candidates; first += kWarp) {
      // Candidate i lies in the first row with through > i.
      const int i = first + lane_index();
      int lane = 0;
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2)
        lane += shuffle(through, lane + step - 1) <= i ? step : 0;
      const bool exists = i < candidates;
      lane = exists ? lane : 0;
      const int before = shuffle(through - length, lane);
      const int at[3] = {shuffle(x, lane) + i - before, shuffle(y, lane), shuffle(z, lane)};
      const A weight = exists ? weight_at(map, q, at) : A(0);
      const unsigned found = ballot(weight != A(0));
      sync_warp(); // the last ones have been read
      if (weight != A(0))
        readers[__popc(found & lanes_below())] = {
            weight, (at[2] * parts.size[1] + at[1]) * parts.size[0] + at[0]};
      sync_warp();
#pragma unroll 2
      for (int r = lane_index() / group; r < __popc(found); r += kWarp / group) {
        const Reader<A> reader = readers[r];
        A g[K];
        unsigned char by[K];
        own.load(won + int64_t(reader.voxel) * winner.pixel, winner.channel, true, by);
        own.load(incoming + int64_t(reader.voxel) * grad.pixel, grad.channel, true, g);
#pragma unroll
        for (int j = 0; j < K; ++j)
          sum[j] += by[j] == p ? reader.weight * g[j] : A(0);
      }
    }
  }
}

// The gradients of one source voxel q, flat index `source`, in one block of channels, from one
// warp. grad_mask is added to, block by block.
template <class T, Walk WALK, int K>
__device__ __forceinline__ void
gather_source(const HelmertWarpBackward<T>& a, const PartMaps<acc_t<T>>& parts, int64_t n,
              const int (&q)[3], int source, const OwnChannels<T, WALK, K>& own, int group,
              Planes<const unsigned char> winner, Reader<acc_t<T>>* readers) {
  using A = acc_t<T>;
  const int64_t start = n * a.C * parts.voxels();
  A total[K] = {};
  for (int base = 0; base < parts.P; base += kWarp) { // lanes are parts
    const int own_part = base + lane_index();
    const int voxel[1] = {source};
    A mask[1] = {};
    if (own_part < parts.P)
      parts.read(n, own_part, voxel, mask);
    const bool read_by =
        own_part < parts.P && a.grad_mask ? parts.touches(n, own_part, q) : mask[0] != A(0);
    for (unsigned some = ballot(read_by); some != 0; some &= some - 1) {
      const int lane = __ffs(int(some)) - 1;
      const A m = shuffle(mask[0], lane);
      A sum[K] = {};
      add_readers(parts, n, base + lane, q, a.grad, winner, a.C, own, group, readers, sum);
#pragma unroll
      for (int j = 0; j < K; ++j)
        total[j] += m == A(0) ? A(0) : m * sum[j];
      if (a.grad_mask) {
        A here[K], dot = 0;
        own.load(a.volume.data + start + own.first * a.volume.channel + source * a.volume.pixel,
                 a.volume.channel, true, here);
#pragma unroll
        for (int j = 0; j < K; ++j)
          dot += sum[j] == A(0) ? A(0) : here[j] * sum[j];
        dot = group_sum(dot, kWarp);
        if (lane_index() == 0)
          a.grad_mask[(n * parts.P + base + lane) * parts.voxels() + source] += dot;
      }
    }
  }
  if (a.grad_volume.data) {
#pragma unroll
    for (int j = 0; j < K; ++j)
      total[j] = sum_of_groups(total[j], group);
    if (lane_index() < group)
      own.store_sums(a.grad_volume.data + start + own.first * a.grad_volume.channel +
                         source * a.grad_volume.pixel,
                     a.grad_volume.channel, total);
  }
}

} // namespace pose_kernels::cuda
