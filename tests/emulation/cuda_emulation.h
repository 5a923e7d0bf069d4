// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on the CPU, so that they can be tested without a GPU:
//   g++ -std=c++17 -x c++ -include cuda_emulation.h kernel.cu
// Blocks run one after another; the threads of a block are fibers, switched only where a thread
// waits for others. A shuffle, vote or barrier completes when all the threads it names have
// arrived; threads that can never meet are an error with a message, never a hang. Dynamic shared
// memory is filled with NaNs before every block, and its end is guarded. schedule() chooses the
// order in which threads go on: a kernel that lacks a barrier gives other results in another order.
// Not emulated: timing, races between blocks, memory spaces, 2-D and 3-D grids. Static __shared__
// variables work but keep what the last block left; kernels should use dynamic_shared().
#pragma once

#include "fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static

// Every name below means what the CUDA programming guide says.
#define threadIdx (::cuda_emulation::machine().running->thread)
#define blockIdx (::cuda_emulation::machine().block_index)
#define blockDim (::cuda_emulation::machine().block)
#define gridDim (::cuda_emulation::machine().grid)

inline void __syncthreads() {
  cuda_emulation::meet_block(0);
}
inline int __syncthreads_count(int vote) {
  return cuda_emulation::meet_block(vote);
}
inline int __syncthreads_or(int vote) {
  return cuda_emulation::meet_block(vote) > 0;
}
inline int __syncthreads_and(int vote) {
  return cuda_emulation::meet_block(vote) == int(cuda_emulation::machine().block.x);
}

inline void __syncwarp(unsigned mask = ~0u) {
  using namespace cuda_emulation;
  meet_warp(Wait::warp_barrier, mask, 0, int(machine().running->thread.x) % kWarp);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  using namespace cuda_emulation;
  return unsigned(
      meet_warp(Wait::vote, mask, uint64_t(vote != 0), int(machine().running->thread.x) % kWarp));
}
inline int __any_sync(unsigned mask, int vote) {
  return __ballot_sync(mask, vote) != 0;
}
inline int __all_sync(unsigned mask, int vote) {
  return __ballot_sync(mask, vote) == mask;
}
template <class V>
unsigned __match_any_sync(unsigned mask, V value) {
  using namespace cuda_emulation;
  return unsigned(
      meet_warp(Wait::match, mask, to_bits(value), int(machine().running->thread.x) % kWarp));
}

template <class V>
V __shfl_sync(unsigned mask, V value, int lane, int width = 32) {
  const int own = int(threadIdx.x) % 32;
  return cuda_emulation::shuffle(mask, value, own / width * width + (lane & (width - 1)));
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, unsigned delta, int width = 32) {
  const int own = int(threadIdx.x) % 32, source = own - int(delta);
  return cuda_emulation::shuffle(mask, value, source < own / width * width ? own : source);
}
template <class V>
V __shfl_down_sync(unsigned mask, V value, unsigned delta, int width = 32) {
  const int own = int(threadIdx.x) % 32, source = own + int(delta);
  return cuda_emulation::shuffle(mask, value, source >= (own / width + 1) * width ? own : source);
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int bits, int width = 32) {
  const int own = int(threadIdx.x) % 32, source = own ^ bits;
  return cuda_emulation::shuffle(mask, value, source / width > own / width ? own : source);
}

inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x == 0 ? 32 : __builtin_clz(unsigned(x));
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32) | low) >> (shift & 31));
}
template <class V>
V __ldg(const V* at) {
  return *at;
}

template <class V>
V atomicAdd(V* at, V value) {
  const V old = *at;
  *at = V(old + value);
  return old;
}
template <class V>
V atomicMin(V* at, V value) {
  const V old = *at;
  *at = value < old ? value : old;
  return old;
}
template <class V>
V atomicMax(V* at, V value) {
  const V old = *at;
  *at = old < value ? value : old;
  return old;
}
template <class V>
V atomicOr(V* at, V value) {
  const V old = *at;
  *at = old | value;
  return old;
}
template <class V>
V atomicExch(V* at, V value) {
  const V old = *at;
  *at = value;
  return old;
}
template <class V>
V atomicCAS(V* at, V expected, V value) {
  const V old = *at;
  if (old == expected)
    *at = value;
  return old;
}

namespace pose_kernels::cuda { // csrc/cuda/launch.h without a GPU

inline int processor_count() {
  return 1;
}
inline int64_t& emulated_shared_memory_limit() {
  static int64_t bytes = 227 * 1024;
  return bytes;
}
inline int64_t shared_memory_limit() {
  return emulated_shared_memory_limit();
}
inline unsigned char* dynamic_shared() {
  return cuda_emulation::machine().shared;
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads,
            int64_t shared_bytes, void* /*stream*/, Arguments... arguments) {
  if (blocks > INT32_MAX)
    throw std::runtime_error(std::string(name) + ": needs more than 2^31 - 1 blocks");
  if (shared_bytes > shared_memory_limit())
    throw std::runtime_error(std::string(name) + ": too much shared memory");
  auto call = [&] { kernel(Parameters(arguments)...); };
  cuda_emulation::run_grid(
      name, blocks, threads, shared_bytes,
      [](void* bound) { (*static_cast<decltype(call)*>(bound))(); }, &call);
}

} // namespace pose_kernels::cuda
