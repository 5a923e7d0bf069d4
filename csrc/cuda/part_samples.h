// SPDX-License-Identifier: Apache-2.0
// A warp of helmert_warp at work: lanes as (slot, voxel) place parts, then lanes as (voxel,
// channels) read the volume.
#pragma once

#include "part_maps.h"
#include "running_max.h"

namespace pose_kernels::cuda {

// What the lanes that read channels need to know of a part at a voxel.
template <class A>
struct alignas(16) PartSample {
  A coefficient[8]; // weight times mask of the corners
  int base;
};

// The warp's patch of output voxels and block of channels.
template <class T, Walk WALK, int K, int VOXELS, bool WINNER>
struct PartSampler {
  using A = acc_t<T>;
  static constexpr int kVoxels = VOXELS, kChannels = K;
  // More loads in flight would cost the registers of a warp.
  static constexpr int kCornersAtOnce = K <= 4 ? 4 : 2;

  const PartMaps<A>& parts;
  const Tiles& tiles;
  int64_t n;
  const int (&low)[3];       // the tile
  int patch;                 // of the tile
  int group, groups, voxels; // lanes of a voxel; voxels side by side; voxels of the patch
  OwnChannels<T, WALK, K> own;
  RunningMax<A, K, WINNER> best[VOXELS];

  __device__ __forceinline__ PartSampler(const PartMaps<A>& parts, const Tiles& tiles, int64_t n,
                                         const int (&low)[3], int patch, const Lanes& lanes,
                                         int64_t block, int64_t C)
      : parts(parts), tiles(tiles), n(n), low(low), patch(patch), group(lanes.group),
        groups(kWarp / lanes.group), voxels(VOXELS * groups), own(lanes, block, C) {}

  // Geometry: the own lane's slot and voxel. Parts are taken kWarp / voxels at a time.
  __device__ __forceinline__ int slots() const { return kWarp / voxels; }
  __device__ __forceinline__ bool place(const unsigned char* list, int count, int base,
                                        PartCell<A>& cell) const {
    const int slot = base + lane_index() / voxels;
    int at[3];
    const bool exists = tiles.voxel(low, patch, lane_index() % voxels, at);
    return exists && slot < count && cell.place(parts, n, list[slot], at);
  }

  // Channels: the own lane's voxel number a, of kVoxels; and the lane that placed a part there.
  __device__ __forceinline__ int voxel(int a) const { return a * groups + lane_index() / group; }
  __device__ __forceinline__ int source(int slot, int a) const { return slot * voxels + voxel(a); }
  __device__ __forceinline__ bool at(int a, int (&at)[3]) const {
    return tiles.voxel(low, patch, voxel(a), at);
  }

  // The maximum over all parts of the list. staged: [kWarp], of this warp.
  __device__ __forceinline__ void run(Planes<const T> volume, int64_t C, const unsigned char* list,
                                      int count, PartSample<A>* staged) {
#pragma unroll
    for (int a = 0; a < VOXELS; ++a)
      best[a].clear();
    int step[3];
    parts.steps(step);
    const int pixel = int(volume.pixel); // 1 or C: addresses are one multiplication
    const T* data = volume.data + n * C * parts.voxels() + own.first * volume.channel;
    for (int base = 0; base < count; base += slots()) {
      PartCell<A> cell;
      const bool covered = place(list, count, base, cell);
      sync_warp(); // the last round has been read
      if (covered) {
        PartSample<A>& sample = staged[lane_index()];
        sample.base = cell.base;
#pragma unroll
        for (int k = 0; k < 8; ++k) // the weight of a corner that does not exist is 0
          sample.coefficient[k] = cell.mask[k] == A(0) ? A(0) : cell.weight(k) * cell.mask[k];
      }
      const unsigned hits = ballot(covered);
      sync_warp();
      if (hits == 0)
        continue;
#pragma unroll
      for (int a = 0; a < VOXELS; ++a)
        for (int slot = 0; slot < slots(); ++slot)
          if (hits >> source(slot, a) & 1u) {
            const PartSample<A>& sample = staged[source(slot, a)];
            A value[K] = {};
#pragma unroll kCornersAtOnce
            for (int k = 0; k < 8; ++k) {
              const A c = sample.coefficient[k];
              A read[K]; // what the mask leaves out is nothing, NaN included
              const int voxel = sample.base + (k & 1 ? step[0] : 0) + (k & 2 ? step[1] : 0) +
                                (k & 4 ? step[2] : 0);
              own.load(data + int64_t(voxel) * pixel, volume.channel, c != A(0), read);
#pragma unroll
              for (int j = 0; j < K; ++j)
                value[j] += c * read[j];
            }
            best[a].offer(value, list[base + slot]);
          }
    }
#pragma unroll
    for (int a = 0; a < VOXELS; ++a)
      best[a].finish(parts.P);
  }
};

} // namespace pose_kernels::cuda
