// SPDX-License-Identifier: Apache-2.0
// What the capsule kernels share: the list of the capsules that concern a block, how a volume is
// cut into blocks, and the stores of a thread.
#pragma once

#include "../ops/capsule_mask.h"
#include "channels.h"

namespace pose_kernels::cuda {

constexpr int kThreads = 256;
constexpr int kListed = kWarp; // capsules in shared memory at a time, one per lane

template <class A>
struct Listed {
  Capsule<A> shape;
  A low[3], high[3]; // box of what it reaches
  int k, part;
};

struct Box {
  int low[3], high[3]; // first and last voxel (x, y, z)
};

// Shared memory of a block: the list.
template <class A>
struct CapsuleList {
  Listed<A>* capsules; // [kListed]
  int* count;

  static constexpr int kBytes = kListed * int(sizeof(Listed<A>)) + 16; // a multiple of 16
  __device__ __forceinline__ explicit CapsuleList(unsigned char* memory)
      : capsules(reinterpret_cast<Listed<A>*>(memory)),
        count(reinterpret_cast<int*>(memory + kListed * sizeof(Listed<A>))) {}

  // Of capsules first .. first + 31 of sample n those that count, of `part` (any, if negative),
  // that can reach the box (anywhere, if null), ordered by k. All threads call; returns how many.
  __device__ __forceinline__ int fill(const CapsuleSet<A>& set, int64_t n, int64_t first, int part,
                                      const Box* box) const {
    __syncthreads(); // the last list is no longer read
    if (warp_index() == 0) {
      Listed<A> own;
      A radius[3];
      own.k = int(first) + lane_index();
      bool wanted = own.k < set.K && read_capsule(set, n, own.k, own.shape, own.part, radius) &&
                    (part < 0 || own.part == part);
      if (wanted) {
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const A a = own.shape.a[i], b = own.shape.b[i], reach = capsule_reach(a, b, radius[i]);
          own.low[i] = (a < b ? a : b) - reach;
          own.high[i] = (a < b ? b : a) + reach;
          if (box)
            wanted = wanted && own.low[i] <= A(box->high[i]) && own.high[i] >= A(box->low[i]);
        }
      }
      const unsigned listed = ballot(wanted);
      if (wanted)
        capsules[__popc(listed & lanes_below())] = own;
      if (lane_index() == 0)
        *count = __popc(listed);
    }
    __syncthreads();
    return *count;
  }
};

// How a volume is cut: a block is gx groups of `group` voxels along x, ty rows, tz planes.
struct Tiling {
  int group, gx, ty, tz; // powers of two; gx ty tz = kThreads
  int nx, ny, nz;        // blocks along x, y, z

  static Tiling plan(int64_t D, int64_t H, int64_t W, int group, int steps) {
    Tiling t{group, 1, 1, 1, 0, 0, 0};
    while (t.gx * group < 64 && t.gx * group < W)
      t.gx *= 2;
    while (t.gx * t.ty * t.tz < kThreads)
      (t.ty <= t.tz ? t.ty : t.tz) *= 2;
    t.nx = int(blocks_for(W, int64_t(t.gx) * group));
    t.ny = int(blocks_for(H, t.ty));
    t.nz = int(blocks_for(D, int64_t(t.tz) * steps));
    return t;
  }
  HD int64_t blocks() const { return int64_t(nx) * ny * nz; }
};

struct Place {
  Box box;     // of the block's first step
  int x, y, z; // first voxel of the thread
};

__device__ __forceinline__ Place place_of(const Tiling& t, int block, int steps) {
  const int bx = block % t.nx, by = block / t.nx % t.ny, bz = block / t.nx / t.ny;
  Place at;
  const int width = t.gx * t.group, thread = int(threadIdx.x);
  at.box.low[0] = bx * width, at.box.high[0] = bx * width + width - 1;
  at.box.low[1] = by * t.ty, at.box.high[1] = by * t.ty + t.ty - 1;
  at.box.low[2] = bz * t.tz * steps, at.box.high[2] = (bz + 1) * t.tz * steps - 1;
  at.x = at.box.low[0] + thread % t.gx * t.group;
  at.y = at.box.low[1] + thread / t.gx % t.ty;
  at.z = at.box.low[2] + thread / (t.gx * t.ty);
  return at;
}

// `value` of COUNT voxels of a row, from x on; in 16-byte stores where rows are aligned.
template <class Out, int COUNT>
__device__ __forceinline__ void store_row(Out* row, const Out (&value)[COUNT], int x, int W,
                                          bool vector) {
  constexpr int kPack = kVector<Out>;
  if (vector) {
#pragma unroll
    for (int i = 0; i < COUNT; i += kPack) {
      Pack<Out, kPack> pack;
#pragma unroll
      for (int j = 0; j < kPack; ++j)
        pack.value[j] = value[i + j];
      *reinterpret_cast<Pack<Out, kPack>*>(row + x + i) = pack;
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
      if (x + i < W)
        row[x + i] = value[i];
  }
}

} // namespace pose_kernels::cuda
