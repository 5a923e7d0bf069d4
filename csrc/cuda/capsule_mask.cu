// SPDX-License-Identifier: Apache-2.0
// Capsule masks: hard (bits or bytes), soft, and the backward of the soft one.
//
// Hard and soft: a block is a box of voxels of one sample (and part); a thread owns 4 voxels of a
// row (16 as bytes) and stores them in 16 bytes at once. Warp 0 reads the sample's capsules, 32 at
// a time, and lists those of the part that reach the box in shared memory: most boxes list none and
// are zeros. Soft masks list all of the part, and a block walks on along z with the same list.
//
// Backward: a block is (sample, part) and 2,048 voxels. A thread finds the nearest capsule of its 8
// voxels again, nothing is saved; then capsule by capsule the warps that have such voxels add nine
// sums over their lanes, the block over its warps, and a second kernel over the blocks, always in
// the same order: no atomics, the same bits every time.
//
// Traffic for 8 x 10 x 64^3: bits 8.4 MB, bytes 21, soft 84 written; backward 84 read and 0.6 of
// sums written. At 4.3 TB/s soft is 20 us; its ~60 instructions a voxel take about as long. Floats
// need at most 80 registers, in the backward 128: three and two blocks share an SM.
#include "capsule_list.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kWarps = kThreads / kWarp;
constexpr int kSteps = 4;  // boxes of a soft block, along z
constexpr int kGroups = 2; // of 4 voxels, per thread of the backward
constexpr int kSums = 9;

// ---- hard

template <class A, bool PACKED>
__global__ void __launch_bounds__(kThreads)
    capsule_mask_kernel(CapsuleMask<A> a, Tiling tiling, bool vector) {
  constexpr int kVoxels = PACKED ? 4 : 16;
  const CapsuleList<A> list(dynamic_shared());
  const int64_t volume = int64_t(blockIdx.x) / tiling.blocks(); // n, or n P + p
  const int64_t n = PACKED ? volume : volume / a.set.P;
  const int part = PACKED ? -1 : int(volume % a.set.P);
  const Place at = place_of(tiling, int(int64_t(blockIdx.x) % tiling.blocks()), 1);
  const bool exists = at.x < a.W && at.y < a.H && at.z < a.D;
  unsigned inside[PACKED ? 4 : 1] = {}; // the parts of each voxel; the voxels of the part
  for (int64_t first = 0; first < a.set.K; first += kListed) {
    const int count = list.fill(a.set, n, first, part, &at.box);
    for (int c = 0; c < count && exists; ++c) {
      const Listed<A>& own = list.capsules[c];
      if (A(at.z) < own.low[2] || A(at.z) > own.high[2] || A(at.y) < own.low[1] ||
          A(at.y) > own.high[1] || A(at.x + kVoxels - 1) < own.low[0] || A(at.x) > own.high[0])
        continue;
      const CapsuleRow<A> row = capsule_row(own.shape, A(at.y), A(at.z));
#pragma unroll
      for (int i = 0; i < kVoxels; ++i) {
        const bool is_inside = capsule_point(own.shape, row, A(at.x + i)).d2 <= A(1);
        inside[PACKED ? i : 0] |= is_inside ? 1u << (PACKED ? own.part : i) : 0u;
      }
    }
  }
  if (!exists)
    return;
  const int64_t row = ((volume * a.D + at.z) * a.H + at.y) * a.W;
  if constexpr (PACKED) {
    const int32_t bits[4] = {int32_t(inside[0]), int32_t(inside[1]), int32_t(inside[2]),
                             int32_t(inside[3])};
    store_row(a.packed + row, bits, at.x, int(a.W), vector);
  } else {
    uint8_t bytes[16];
#pragma unroll
    for (int i = 0; i < 16; ++i)
      bytes[i] = inside[0] >> i & 1u;
    store_row(a.dense + row, bytes, at.x, int(a.W), vector);
  }
}

// ---- soft

// Lowers nearest[i] to the distance of voxel x + i to the capsule; with WINNER notes its index.
template <class A, bool WINNER>
__device__ __forceinline__ void approach(const Capsule<A>& shape, int index, int x, int y, int z,
                                         A (&nearest)[4], int (&winner)[4]) {
  const CapsuleRow<A> row = capsule_row(shape, A(y), A(z));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const A d2 = capsule_point(shape, row, A(x + i)).d2;
    const bool less = d2 < nearest[i]; // false for NaN
    nearest[i] = less ? d2 : nearest[i];
    if (WINNER)
      winner[i] = less ? index : winner[i];
  }
}

template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 3 : 1)
    capsule_soft_mask_kernel(CapsuleSoftMask<A> a, Softness<A> softness, Tiling tiling,
                             bool vector) {
  const CapsuleList<A> list(dynamic_shared());
  const int64_t volume = int64_t(blockIdx.x) / tiling.blocks(); // n P + p
  const int64_t n = volume / a.set.P;
  const int part = int(volume % a.set.P);
  const Place at = place_of(tiling, int(int64_t(blockIdx.x) % tiling.blocks()), kSteps);
  const bool once = a.set.K <= kListed;
  int count = once ? list.fill(a.set, n, 0, part, nullptr) : 0;
  for (int step = 0; step < kSteps; ++step) {
    const int z = at.z + step * tiling.tz;
    const bool exists = at.x < a.W && at.y < a.H && z < a.D;
    A nearest[4] = {kFarthest2<A>, kFarthest2<A>, kFarthest2<A>, kFarthest2<A>};
    int none[4];
    bool any = false;
    for (int64_t first = 0; first < a.set.K; first += kListed) {
      if (!once)
        count = list.fill(a.set, n, first, part, nullptr);
      any = any || count > 0;
      for (int c = 0; c < count && exists; ++c)
        approach<A, false>(list.capsules[c].shape, c, at.x, at.y, z, nearest, none);
    }
    A value[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      value[i] = any ? soft_step(nearest[i], softness).value : A(0);
    if (exists)
      store_row(a.mask + ((volume * a.D + z) * a.H + at.y) * a.W, value, at.x, int(a.W), vector);
  }
}

// ---- backward of soft

template <class A>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 2 : 1)
    capsule_soft_mask_backward_kernel(CapsuleSoftMaskBackward<A> a, Softness<A> softness,
                                      A* partial, // [N, K, 9, blocks]
                                      int blocks, unsigned groups_x, bool vector) {
  unsigned char* memory = dynamic_shared();
  const CapsuleList<A> list(memory);
  A* sums = reinterpret_cast<A*>(memory + CapsuleList<A>::kBytes); // [listed, warps, 9]
  const int64_t volume = int64_t(blockIdx.x) / blocks;             // n P + p
  const int block = int(int64_t(blockIdx.x) % blocks);
  const int64_t n = volume / a.set.P, K = a.set.K;
  const int part = int(volume % a.set.P);
  const int W = int(a.W);
  const unsigned H = unsigned(a.H);
  const A* grad = a.grad + volume * a.D * a.H * a.W;

  const bool once = K <= kListed;
  int count = once ? list.fill(a.set, n, 0, part, nullptr) : 0;
  // Of the first voxel of a group; found again where it is needed, registers are scarce.
  const auto locate = [&](int g, int& x, int& y, int& z) {
    const unsigned group = (unsigned(block) * kGroups + g) * kThreads + threadIdx.x;
    x = int(group % groups_x) * 4;
    y = int(group / groups_x % H);
    z = int(group / groups_x / H);
  };
  int winner[kGroups][4];
  A h[kGroups][4]; // grad sigma (1 - sigma) / d, 0 beyond the volume
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    int x, y, z;
    locate(g, x, y, z);
    const bool exists = z < a.D;
    A nearest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      nearest[i] = kFarthest2<A>, winner[g][i] = -1;
    int before = 0;
    for (int64_t first = 0; first < K; first += kListed) {
      if (!once)
        count = list.fill(a.set, n, first, part, nullptr);
      for (int c = 0; c < count && exists; ++c)
        approach<A, true>(list.capsules[c].shape, before + c, x, y, z, nearest, winner[g]);
      before += count;
    }
    const A* row = grad + (int64_t(z) * H + y) * W + x;
    A incoming[4] = {};
    if (exists && vector) {
      constexpr int kPack = kVector<A>;
#pragma unroll
      for (int i = 0; i < 4; i += kPack) {
        const auto pack = *reinterpret_cast<const Pack<A, kPack>*>(row + i);
#pragma unroll
        for (int j = 0; j < kPack; ++j)
          incoming[i + j] = pack.value[j];
      }
    } else if (exists) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        incoming[i] = x + i < W ? row[i] : A(0);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
      h[g][i] = winner[g][i] < 0 || x + i >= W
                    ? A(0)
                    : incoming[i] * soft_step(nearest[i], softness).slope_by_distance;
  }

  int before = 0;
  for (int64_t first = 0; first < K; first += kListed) {
    if (!once)
      count = list.fill(a.set, n, first, part, nullptr);
    for (int c = 0; c < count; ++c) {
      bool mine = false;
#pragma unroll
      for (int g = 0; g < kGroups; ++g)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          mine = mine || (winner[g][i] == before + c && h[g][i] != A(0));
      A sum[kSums] = {};
      if (ballot(mine) != 0) {
        const Capsule<A> shape = list.capsules[c].shape;
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
          int x, y, z;
          locate(g, x, y, z);
          const CapsuleRow<A> row = capsule_row(shape, A(y), A(z));
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const A own = winner[g][i] == before + c ? h[g][i] : A(0);
            const CapsulePoint<A> q = capsule_point(shape, row, A(x + i));
            const A hx = own * q.x, hy = own * q.y, hz = own * q.z, u = A(1) - q.t;
            sum[0] += u * hx, sum[1] += u * hy, sum[2] += u * hz;
            sum[3] += q.t * hx, sum[4] += q.t * hy, sum[5] += q.t * hz;
            sum[6] += hx * q.x, sum[7] += hy * q.y, sum[8] += hz * q.z;
          }
        }
#pragma unroll
        for (int s = 0; s < kSums; ++s)
          sum[s] = group_sum(sum[s], kWarp);
      }
      if (lane_index() == 0)
#pragma unroll
        for (int s = 0; s < kSums; ++s)
          sums[(c * kWarps + warp_index()) * kSums + s] = sum[s];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * kSums; i += kThreads) {
      const int c = i / kSums, s = i % kSums;
      A sum = 0;
      for (int warp = 0; warp < kWarps; ++warp)
        sum += sums[(c * kWarps + warp) * kSums + s];
      partial[((n * K + list.capsules[c].k) * kSums + s) * blocks + block] = sum;
    }
    before += count;
  }
}

// A warp adds up one of the nine sums of one capsule over the blocks.
template <class A>
__global__ void __launch_bounds__(kThreads)
    capsule_gradient_kernel(CapsuleSoftMaskBackward<A> a,
                            const A* partial, // [N, K, 9, blocks]
                            int blocks) {
  const int64_t item = int64_t(blockIdx.x) * kWarps + warp_index(); // [N, K, 9]
  const int64_t capsule = item / kSums, N = a.set.N, K = a.set.K;
  if (capsule >= N * K)
    return;
  const int s = int(item % kSums);
  Capsule<A> shape;
  A radius[3];
  int part;
  double sum = 0;
  if (read_capsule(a.set, capsule / K, capsule % K, shape, part, radius))
    for (int block = lane_index(); block < blocks; block += kWarp)
      sum += double(partial[item * blocks + block]);
  sum = group_sum(sum, kWarp);
  if (lane_index() == 0) {
    A* grad = s < 3 ? a.grad_start : s < 6 ? a.grad_end : a.grad_radius;
    const A inv = s % 3 == 0 ? shape.inv[0] : s % 3 == 1 ? shape.inv[1] : shape.inv[2];
    grad[capsule * 3 + s % 3] = sum == 0 ? A(0) : A(sum * double(inv) / double(a.softness));
  }
}

template <class T>
int backward_blocks(const CapsuleSoftMaskBackward<T>& a) {
  return int(blocks_for(a.D * a.H * blocks_for(a.W, 4), kThreads * kGroups));
}

} // namespace

template <class T>
void capsule_mask(const CapsuleMask<T>& a, void* stream) {
  const int group = a.packed ? 4 : 16;
  const Tiling tiling = Tiling::plan(a.D, a.H, a.W, group, 1);
  const void* out = a.packed ? static_cast<const void*>(a.packed) : a.dense;
  launch("capsule_mask", a.packed ? capsule_mask_kernel<T, true> : capsule_mask_kernel<T, false>,
         tiling.blocks() * a.set.N * (a.packed ? 1 : a.set.P), kThreads, CapsuleList<T>::kBytes,
         stream, a, tiling, a.W % group == 0 && aligned(out));
}

template <class T>
void capsule_soft_mask(const CapsuleSoftMask<T>& a, void* stream) {
  const Tiling tiling = Tiling::plan(a.D, a.H, a.W, 4, kSteps);
  launch("capsule_soft_mask", capsule_soft_mask_kernel<T>, tiling.blocks() * a.set.N * a.set.P,
         kThreads, CapsuleList<T>::kBytes, stream, a, make_softness<T>(a.softness), tiling,
         a.W % 4 == 0 && aligned(a.mask));
}

template <class T>
int64_t capsule_soft_mask_backward_workspace(const CapsuleSoftMaskBackward<T>& a) {
  return a.set.N * a.set.K * kSums * backward_blocks(a) * int64_t(sizeof(T));
}

template <class T>
void capsule_soft_mask_backward(const CapsuleSoftMaskBackward<T>& a, void* workspace,
                                void* stream) {
  const int blocks = backward_blocks(a);
  T* partial = static_cast<T*>(workspace);
  launch("capsule_soft_mask_backward", capsule_soft_mask_backward_kernel<T>,
         blocks * a.set.N * a.set.P, kThreads,
         CapsuleList<T>::kBytes + kListed * kWarps * kSums * int64_t(sizeof(T)), stream, a,
         make_softness<T>(a.softness), partial, blocks, unsigned(blocks_for(a.W, 4)),
         a.W % 4 == 0 && aligned(a.grad));
  launch("capsule_gradient", capsule_gradient_kernel<T>,
         blocks_for(a.set.N * a.set.K * kSums, kWarps), kThreads, 0, stream, a,
         static_cast<const T*>(partial), blocks);
}

#define INSTANTIATE(T)                                                                             \
  template void capsule_mask(const CapsuleMask<T>&, void*);                                        \
  template void capsule_soft_mask(const CapsuleSoftMask<T>&, void*);                               \
  template int64_t capsule_soft_mask_backward_workspace(const CapsuleSoftMaskBackward<T>&);        \
  template void capsule_soft_mask_backward(const CapsuleSoftMaskBackward<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
