// SPDX-License-Identifier: Apache-2.0
// How a warp walks over pixels and their channels, in either memory format.
//
// A thread takes `kBlock` channels of one pixel at a time. Planar: 32 lanes are 32 pixels of a row
// and a block is four planes, so that 16 loads (four corners of each) are in flight. Channels last:
// a group of lanes shares a pixel, side by side along C, and where alignment allows a block is one
// 16-byte access.
#pragma once

#include "../math/layout.h"
#include "warp.h"

namespace pose_kernels::cuda {

template <class T, int K>
struct alignas(sizeof(T) * K) Pack {
  T value[K];
};

template <class T>
constexpr int kVector = 16 / int(sizeof(T)); // elements of a 16-byte access

inline bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// kBlock consecutive channels of one pixel, in registers.
template <class T, bool VECTOR>
struct ChannelBlock {
  static constexpr int kBlock = VECTOR ? kVector<T> : 4;
  acc_t<T> value[kBlock];

  // at: the first of them; `left`: channels that exist from there on (a vector always fits).
  __device__ __forceinline__ void load(const T* at, int64_t channel, int64_t left) {
    if constexpr (VECTOR) {
      const auto pack = *reinterpret_cast<const Pack<T, kBlock>*>(at);
#pragma unroll
      for (int j = 0; j < kBlock; ++j)
        value[j] = widen(pack.value[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kBlock; ++j)
        value[j] = j < left ? widen(at[j * channel]) : acc_t<T>(0);
    }
  }

  __device__ __forceinline__ void store(T* at, int64_t channel, int64_t left) const {
    if constexpr (VECTOR) {
      Pack<T, kBlock> pack;
#pragma unroll
      for (int j = 0; j < kBlock; ++j)
        pack.value[j] = narrow<T>(value[j]);
      *reinterpret_cast<Pack<T, kBlock>*>(at) = pack;
    } else {
#pragma unroll
      for (int j = 0; j < kBlock; ++j)
        if (j < left)
          at[j * channel] = narrow<T>(value[j]);
    }
  }

  __device__ __forceinline__ void fill(acc_t<T> same) {
#pragma unroll
    for (int j = 0; j < kBlock; ++j)
      value[j] = same;
  }
  __device__ __forceinline__ void clear() { fill(0); }
};

// Who takes what: thread t of the launch is lane t % group of pixel t / group in flat order [N,
// spans, H W], and walks over channels span * per_span + lane * kBlock, stepping by group * kBlock.
struct ChannelWalk {
  int group;        // lanes of a warp that share a pixel, a power of two
  int64_t per_span; // channels one thread (group) walks over
  int64_t spans;    // threads (groups) that share a pixel's channels
  bool vector;      // blocks are 16-byte accesses

  // `at_once`: channels a thread of the planar shape takes. Images and atlases of one op have one
  // format.
  template <class T>
  static ChannelWalk plan(int64_t C, bool last, bool all_aligned, int64_t at_once) {
    ChannelWalk walk{1, at_once, 1, false};
    if (last) {
      walk.vector = all_aligned && C % kVector<T> == 0;
      walk.per_span = C;
      const int64_t block = walk.vector ? kVector<T> : 4;
      while (walk.group < kWarp && walk.group * block < C)
        walk.group *= 2;
    } else {
      walk.spans = C > 0 ? (C + at_once - 1) / at_once : 1;
    }
    return walk;
  }
};

} // namespace pose_kernels::cuda
