// SPDX-License-Identifier: Apache-2.0
// What the 32 lanes of a warp do together. Every function here is called by all 32 lanes
// (block_any: by all threads of the block), which is what makes the control flow of the kernels
// easy to check.
#pragma once

#include "launch.h"

namespace pose_kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

__device__ __forceinline__ int lane_index() {
  return int(threadIdx.x) % kWarp;
}
__device__ __forceinline__ int warp_index() {
  return int(threadIdx.x) / kWarp;
}

__device__ __forceinline__ void sync_warp() {
  __syncwarp(kAllLanes);
}

// Bit i: what lane i passed.
__device__ __forceinline__ unsigned ballot(bool vote) {
  return __ballot_sync(kAllLanes, vote);
}

__device__ __forceinline__ bool block_any(bool vote) {
  return __syncthreads_or(vote) != 0;
}

// The value lane `from` passed.
template <class V>
__device__ __forceinline__ V shuffle(V value, int from) {
  return __shfl_sync(kAllLanes, value, from);
}

// Sum over lanes 0 .. own.
__device__ __forceinline__ int prefix_sum(int value) {
  const int lane = lane_index();
  for (int step = 1; step < kWarp; step *= 2) {
    const int below = __shfl_up_sync(kAllLanes, value, step);
    value += lane >= step ? below : 0;
  }
  return value;
}

// Sum over each aligned group of `group` lanes (a power of two), the same bits on all of them.
template <class V>
__device__ __forceinline__ V group_sum(V value, int group) {
  for (int step = group / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// The lanes whose value agrees with the own one in its lowest BITS bits.
template <int BITS>
__device__ __forceinline__ unsigned lanes_alike(unsigned value) {
  unsigned alike = kAllLanes;
  for (int bit = 0; bit < BITS; ++bit) {
    const bool set = (value >> bit) & 1u;
    const unsigned lanes = ballot(set);
    alike &= set ? lanes : ~lanes;
  }
  return alike;
}

// The lanes below the own one.
__device__ __forceinline__ unsigned lanes_below() {
  return (1u << lane_index()) - 1u;
}

} // namespace pose_kernels::cuda
