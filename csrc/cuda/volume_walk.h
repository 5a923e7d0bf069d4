// SPDX-License-Identifier: Apache-2.0
// How warps walk over the voxels and channels of a volume, in either memory format.
//
// A warp owns up to 32 voxels and one block of channels. `group` lanes share a voxel, side by side
// along C; each takes kChannels channels of each of kVoxels voxels. Planar volumes: group = 1, and
// the lanes run along x.
#pragma once

#include <type_traits>

#include "../math/layout.h"
#include "channels.h"

namespace pose_kernels::cuda {

// Planes: contiguous, or channels last with very few of them. Rows: channels last; vectors: rows
// in 16-byte accesses.
enum class Walk { planes, rows, vectors };

template <class T>
Walk choose_walk(int64_t C, bool last, bool all_aligned) {
  if (!last || C * int64_t(sizeof(T)) < 32)
    return Walk::planes;
  return all_aligned && C % kVector<T> == 0 ? Walk::vectors : Walk::rows;
}

template <class T>
bool channels_last(const Planes<T>& volume) {
  return !volume.data || volume.pixel != 1;
}

// Channels of a thread; PLANES of them where a thread has one voxel.
template <class T, Walk WALK, int PLANES>
constexpr int kChannels = WALK == Walk::planes    ? PLANES
                          : WALK == Walk::vectors ? kVector<T>
                                                  : 16 / int(sizeof(acc_t<T>));

// Voxels of a thread: with a value for each channel, 16 registers.
template <class T, Walk WALK, int PLANES>
constexpr int kVoxels =
    WALK == Walk::planes ? 1 : 64 / int(sizeof(acc_t<T>)) / kChannels<T, WALK, PLANES>;

struct Lanes {
  int group;      // lanes that share a voxel, a power of two
  int per_block;  // channels of a block
  int64_t blocks; // of channels, 0 without channels

  // As many lanes as the channels need, within limits that are powers of two.
  static Lanes plan(int64_t C, int channels, int least, int most) {
    Lanes lanes{least, 0, 0};
    while (lanes.group < most && lanes.group * channels < C)
      lanes.group *= 2;
    lanes.per_block = lanes.group * channels;
    lanes.blocks = blocks_for(C, lanes.per_block);
    return lanes;
  }
};

// What the own lane takes of a block of channels: `left` channels, from `first` on.
template <class T, Walk WALK, int K>
struct OwnChannels {
  int64_t first;
  int step, left;

  __device__ __forceinline__ OwnChannels(const Lanes& lanes, int64_t block, int64_t C) {
    const int h = lane_index() % lanes.group;
    step = WALK == Walk::vectors ? 1 : lanes.group;
    first = block * lanes.per_block + (WALK == Walk::vectors ? h * K : h);
    const int64_t exist = first < C ? (C - first + step - 1) / step : 0;
    left = exist < K ? int(exist) : K;
  }

  // `at`: channel `first` of a voxel. Loads nothing, and gives 0, where not `wanted`.
  template <class V, class Wide>
  __device__ __forceinline__ void load(const V* at, int64_t channel, bool wanted,
                                       Wide (&out)[K]) const {
    const int count = wanted ? left : 0;
    V in[K];
    if constexpr (WALK == Walk::vectors) {
      Pack<V, K> pack{};
      if (count > 0)
        pack = *reinterpret_cast<const Pack<V, K>*>(at);
#pragma unroll
      for (int j = 0; j < K; ++j)
        in[j] = pack.value[j];
    } else {
#pragma unroll
      for (int j = 0; j < K; ++j, at += step * channel) // one pointer, not K offsets
        in[j] = j < count ? *at : V{};
    }
#pragma unroll
    for (int j = 0; j < K; ++j)
      if constexpr (std::is_same_v<V, Wide>)
        out[j] = in[j];
      else
        out[j] = widen(in[j]);
  }

  template <class V>
  __device__ __forceinline__ void store(V* at, int64_t channel, const V (&in)[K]) const {
    if constexpr (WALK == Walk::vectors) {
      Pack<V, K> pack;
#pragma unroll
      for (int j = 0; j < K; ++j)
        pack.value[j] = in[j];
      if (left > 0)
        *reinterpret_cast<Pack<V, K>*>(at) = pack;
    } else {
#pragma unroll
      for (int j = 0; j < K; ++j, at += step * channel)
        if (j < left)
          *at = in[j];
    }
  }

  __device__ __forceinline__ void store_sums(T* at, int64_t channel,
                                             const acc_t<T> (&sum)[K]) const {
    T in[K];
#pragma unroll
    for (int j = 0; j < K; ++j)
      in[j] = narrow<T>(sum[j]);
    store(at, channel, in);
  }
};

// Voxels in boxes. A block owns a tile of several patches; a warp works on one patch at a time.
struct Tiles {
  int size[3];    // of the volume: W, H, D
  int patch[3];   // voxels of a patch: x, y, z
  int patches[3]; // of a tile
  int count[3];   // of tiles

  // `warps` patches along y and z, `rounds` along x.
  static Tiles plan(int64_t D, int64_t H, int64_t W, int voxels, bool planes, int warps,
                    int rounds) {
    Tiles t{{int(W), int(H), int(D)}, {4, voxels / 4, 1}, {rounds, 1, 1}, {1, 1, 1}};
    if (planes) { // rows as long as the volume's, unless a quarter of the lanes would be beyond
      t.patch[0] = 32;
      while (t.patch[0] > 8 && blocks_for(W, t.patch[0]) * t.patch[0] * 4 > W * 5)
        t.patch[0] /= 2;
      t.patch[1] = voxels / t.patch[0];
    } else if (voxels == 32) {
      t.patch[0] = 8, t.patch[1] = 4;
    }
    while (t.patches[2] < warps && t.patches[2] < (planes ? 2 : 4) && t.patches[2] * 2 <= D)
      t.patches[2] *= 2;
    t.patches[1] = warps / t.patches[2];
    for (int k = 0; k < 3; ++k)
      t.count[k] = int(blocks_for(t.size[k], t.patch[k] * t.patches[k]));
    return t;
  }
  HD int64_t tiles() const { return int64_t(count[0]) * count[1] * count[2]; }
  HD int patches_of_tile() const { return patches[0] * patches[1] * patches[2]; }

  // First voxel of a tile.
  __device__ __forceinline__ void open(int64_t tile, int (&low)[3]) const {
    low[0] = int(tile % count[0]) * patch[0] * patches[0];
    low[1] = int(tile / count[0] % count[1]) * patch[1] * patches[1];
    low[2] = int(tile / count[0] / count[1]) * patches[2];
  }

  // Voxel i of a patch; returns whether it exists.
  __device__ __forceinline__ bool voxel(const int (&low)[3], int which, int i, int (&at)[3]) const {
    at[0] = low[0] + which % patches[0] * patch[0] + i % patch[0];
    at[1] = low[1] + which / patches[0] % patches[1] * patch[1] + i / patch[0];
    at[2] = low[2] + which / patches[0] / patches[1];
    return at[0] < size[0] && at[1] < size[1] && at[2] < size[2];
  }

  __device__ __forceinline__ int flat(const int (&at)[3]) const {
    return (at[2] * size[1] + at[1]) * size[0] + at[0];
  }
};

} // namespace pose_kernels::cuda
