// SPDX-License-Identifier: Apache-2.0
// The maximum over the parts of one voxel, in the order of the parts, without a copy per part.
#pragma once

#include "volume_walk.h"

namespace pose_kernels::cuda {

constexpr unsigned kNoPart = 0xff; // a winner that is not there: passes no gradient

// K channels of one voxel. WINNER: also remembers which part won.
template <class A, int K, bool WINNER>
struct RunningMax {
  A value[K];
  unsigned winner[(K + 3) / 4]; // a byte per channel
  int seen;                     // parts that were offered
  bool gap;                     // a part was missing, so that its 0 takes part

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < K; ++j)
      value[j] = 0;
#pragma unroll
    for (int j = 0; j < (K + 3) / 4; ++j)
      winner[j] = ~0u;
    seen = 0;
    gap = false;
  }

  // The next part that covers the voxel; parts come in rising order.
  __device__ __forceinline__ void offer(const A (&candidate)[K], int part) {
    if (WINNER && !gap && part != seen)
      miss();
    const bool started = gap || seen > 0;
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const bool stays = started && (value[j] >= candidate[j] || value[j] != value[j]);
      value[j] = stays ? value[j] : candidate[j];
      if (WINNER)
        set_winner(j, stays, unsigned(part));
    }
    ++seen;
  }

  // To be called at the end. Without winners, when the 0 arrives does not matter.
  __device__ __forceinline__ void finish(int P) {
    if (!gap && seen < P)
      miss();
  }

  __device__ __forceinline__ unsigned winner_of(int j) const {
    return winner[j / 4] >> (j % 4 * 8) & 0xffu;
  }

private:
  __device__ __forceinline__ void miss() {
#pragma unroll
    for (int j = 0; j < K; ++j) {
      const bool stays = seen > 0 && (value[j] >= A(0) || value[j] != value[j]);
      value[j] = stays ? value[j] : A(0);
      if (WINNER)
        set_winner(j, stays, kNoPart);
    }
    gap = true;
  }

  __device__ __forceinline__ void set_winner(int j, bool stays, unsigned part) {
    const unsigned shift = j % 4 * 8;
    const unsigned other = (winner[j / 4] & ~(0xffu << shift)) | part << shift;
    winner[j / 4] = stays ? winner[j / 4] : other;
  }
};

} // namespace pose_kernels::cuda
