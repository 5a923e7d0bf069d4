// SPDX-License-Identifier: Apache-2.0
// Small kernels with known answers, and kernels that are wrong on purpose: what cuda_emulation.h
// promises.
#include "cuda_emulation.h"

#include "../../csrc/cuda/warp.h"

namespace {

using namespace pose_kernels::cuda;

__global__ void reverse_block(int* out) { // out[i] = n - 1 - i, through shared memory
  int* shared = reinterpret_cast<int*>(dynamic_shared());
  shared[threadIdx.x] = int(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void warp_words(int* out) { // one word per question, from lane 5 of warp 1
  const int lane = lane_index();
  const int sum = group_sum(lane, 8);
  const int through = prefix_sum(1);
  const int from = shuffle(lane * 10, (lane + 1) % 32);
  const unsigned odd = ballot(lane % 2);
  const unsigned alike = lanes_alike<2>(unsigned(lane));
  const unsigned match = __match_any_sync(kAllLanes, lane / 4);
  unsigned half = 0;
  if (lane < 16)
    half = __ballot_sync(0xffffu, lane < 3);
  else
    half = __ballot_sync(0xffff0000u, 1);
  if (threadIdx.x == 37) {
    const unsigned answers[] = {unsigned(sum), unsigned(through), unsigned(from), odd, alike, match,
                                half};
    for (int i = 0; i < 7; ++i)
      out[i] = int(answers[i]);
  }
}

__global__ void sum_of_floats(int* out) { // forgets to clear its shared memory first
  float* shared = reinterpret_cast<float*>(dynamic_shared());
  shared[threadIdx.x] += 1.0f;
  out[threadIdx.x] = shared[threadIdx.x] == 1.0f;
}

__global__ void
missing_barrier(int* out) { // a neighbor's value, read before it is sure to be there
  int* shared = reinterpret_cast<int*>(dynamic_shared());
  shared[threadIdx.x] = int(threadIdx.x);
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}

__global__ void half_block_barrier(int* out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncwarp();
  if (threadIdx.x >= 32)
    ballot(true);
  out[threadIdx.x] = 1;
}

__global__ void barrier_after_return(int* out) {
  if (threadIdx.x == 40)
    return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_wishes(int* out) {
  out[threadIdx.x] = lane_index() == 3 ? int(ballot(true)) : shuffle(1, 0);
}

__global__ void past_the_end(int* out) {
  reinterpret_cast<int*>(dynamic_shared())[threadIdx.x + 1] = 0;
  out[threadIdx.x] = 0;
}

} // namespace

std::vector<int> self_check(const std::string& name) {
  const std::pair<const char*, void (*)(int*)> kernels[] = {
      {"reverse_block", reverse_block},
      {"warp_words", warp_words},
      {"sum_of_floats", sum_of_floats},
      {"missing_barrier", missing_barrier},
      {"half_block_barrier", half_block_barrier},
      {"barrier_after_return", barrier_after_return},
      {"two_wishes", two_wishes},
      {"past_the_end", past_the_end},
  };
  std::vector<int> out(64, -7);
  for (const auto& [known, kernel] : kernels)
    if (name == known)
      launch(known, kernel, 1, 64, 64 * 4, nullptr, out.data());
  return out;
}
