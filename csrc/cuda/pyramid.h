// SPDX-License-Identifier: Apache-2.0
// The pyramid of one plane of push_pull (see ../math/pyramid.h), built and read by one block.
#pragma once

#include <type_traits>

#include "../math/pyramid.h"
#include "../ops/push_pull.h"
#include "warp.h"

namespace pose_kernels::cuda {

// One level: sides, words of known-bits per row, where it begins among all levels' values and
// words.
template <class Index>
struct Level {
  int h, w, words;
  Index values, bits;

  HD Level above() const {
    const int up_h = int(parent_side(h)), up_w = int(parent_side(w));
    return {up_h, up_w, (up_w + 31) / 32, values + Index(h) * w, bits + Index(h) * words};
  }
};

// What a plane needs, worked out once on the host.
struct PyramidPlan {
  int levels = 0;                // above level 0
  int64_t values = 0, words = 0; // in all levels (values: above 0)
  int64_t scratch_words = 0;     // in the region of values, at least
  int64_t slots = 0; // planes worked on at a time when they do not fit into shared memory
  bool in_shared = false;
};

// Bits first .. first + 31 of a row; 0 outside.
__device__ __forceinline__ uint32_t bits_from(const uint32_t* row, int words, int first) {
  const int k = first >> 5;
  const uint32_t low = k >= 0 && k < words ? row[k] : 0u;
  const uint32_t high = k >= -1 && k < words - 1 ? row[k + 1] : 0u;
  return __funnelshift_r(low, high, unsigned(first) & 31u);
}

// The weight with which child 2p - 1 + slot reads node p of `parents`; 0: there is no such child.
template <class A>
__device__ __forceinline__ A reader_weight(int slot, int p, int parents, int children) {
  const int child = 2 * p - 1 + slot;
  if (child < 0 || child >= children)
    return A(0);
  if (slot == 0 || slot == 3) // a child of the neighbor
    return A(0.25);
  return (slot == 1 ? p > 0 : p + 1 < parents) ? A(0.75)
                                               : A(1); // 1: clamped, its second parent is p too
}

// All levels of one plane. Functions are called by the whole block; each ends with a barrier where
// the next one reads what other threads wrote.
template <class T, bool SHARED>
struct Pyramid {
  using A = acc_t<T>;
  using Index = std::conditional_t<SHARED, int, int64_t>;
  using Lv = Level<Index>;
  Lv base;
  int levels;
  A* values;        // [levels 1 ..][h, w]
  uint32_t* known;  // [levels 0 ..][h, words]
  uint32_t* within; // [H, words]   texels that `radius` allows; null: all

  __device__ __forceinline__ Pyramid(const PushPull<T>& a, const PyramidPlan& plan, void* memory)
      : base{int(a.H), int(a.W), int((a.W + 31) / 32), Index(-a.H * a.W), 0}, levels(plan.levels),
        values(static_cast<A*>(memory)) {
    const int64_t value_bytes = plan.values * int64_t(sizeof(A));
    const int64_t scratch_bytes = plan.scratch_words * 4;
    known = reinterpret_cast<uint32_t*>(
        static_cast<char*>(memory) + (value_bytes > scratch_bytes ? value_bytes : scratch_bytes));
    within = a.radius < 0 ? nullptr : known + plan.words;
  }

  __device__ __forceinline__ Lv level(int l) const {
    Lv at = base;
    for (int i = 0; i < l; ++i)
      at = at.above();
    return at;
  }

  __device__ __forceinline__ A* row(const Lv& at, int y) const {
    return values + at.values + Index(y) * at.w;
  }

  // Known children of node (y, x), bit 2 dy + dx.
  __device__ __forceinline__ unsigned children(const Lv& below, int y, int x) const {
    const uint32_t* at = known + below.bits + Index(2 * y) * below.words + x / 16;
    const int shift = 2 * x % 32;
    const unsigned upper = at[0] >> shift & 3u;
    return 2 * y + 1 < below.h ? upper | (at[below.words] >> shift & 3u) << 2 : upper;
  }

  // Calls visit(y, x) for every node of a level, x along the lanes.
  template <class Visit>
  __device__ __forceinline__ void for_nodes(const Lv& at, Visit visit) const {
    for (int y = warp_index(); y < at.h; y += int(blockDim.x) / kWarp)
      for (int x = lane_index(); x < at.w; x += kWarp)
        visit(y, x);
  }

  // Known bits of all levels from the weights [H, W]; false if nothing is known.
  __device__ __forceinline__ bool mark(const A* weight, A min_weight) const {
    bool any = false;
    for (int y = warp_index(); y < base.h; y += int(blockDim.x) / kWarp)
      for (int k = 0; k < base.words; k += 4) { // four loads in flight
        bool vote[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int x = (k + j) * 32 + lane_index();
          vote[j] = x < base.w && weight[int64_t(y) * base.w + x] > min_weight;
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t word = ballot(vote[j]);
          if (lane_index() == j && k + j < base.words)
            known[Index(y) * base.words + k + j] = word;
          any = any || word != 0;
        }
      }
    if (!block_any(any))
      return false;
    Lv below = base;
    for (int l = 0; l < levels; ++l) {
      const Lv above = below.above();
      for (int i = int(threadIdx.x); i < above.h * above.words; i += int(blockDim.x)) {
        const int y = i / above.words, k = i % above.words;
        const uint32_t* upper = known + below.bits + Index(2 * y) * below.words;
        uint64_t pairs = 0; // both rows of children, 64 of them
        for (int dy = 0; dy < 2 && 2 * y + dy < below.h; ++dy) {
          const uint32_t* at = upper + dy * below.words + 2 * k;
          pairs |= at[0] | (2 * k + 1 < below.words ? uint64_t(at[1]) << 32 : 0);
        }
        pairs = (pairs | pairs >> 1) & 0x5555555555555555u; // a parent's bit, at twice its place
        pairs = (pairs | pairs >> 1) & 0x3333333333333333u;
        pairs = (pairs | pairs >> 2) & 0x0f0f0f0f0f0f0f0fu;
        pairs = (pairs | pairs >> 4) & 0x00ff00ff00ff00ffu;
        pairs = (pairs | pairs >> 8) & 0x0000ffff0000ffffu;
        known[above.bits + i] = uint32_t(pairs | pairs >> 16);
      }
      __syncthreads();
      below = above;
    }
    return true;
  }

  // within = texels no farther than `radius` from a known one, in steps that at most double the
  // distance. Uses the region of values, so it comes before the pull.
  __device__ __forceinline__ void dilate(int radius) const {
    const int words = base.words, size = base.h * words;
    uint32_t* const scratch = reinterpret_cast<uint32_t*>(values);
    const uint32_t* from = known;
    for (int axis = 0; axis < 2; ++axis)
      for (int reached = 0; reached < radius || (axis == 1 && from != within);) {
        const int step =
            reached + 1 < radius - reached ? reached + 1 : radius - reached; // 0: a copy
        uint32_t* to = from == within ? scratch : within;
        for (int i = int(threadIdx.x); i < size; i += int(blockDim.x)) {
          const int y = i / words, k = i % words;
          uint32_t word = from[i];
          if (axis == 0) {
            word |= bits_from(from + y * words, words, k * 32 - step);
            word |= bits_from(from + y * words, words, k * 32 + step);
          } else {
            word |= y >= step ? from[i - step * words] : 0u;
            word |= y + step < base.h ? from[i + step * words] : 0u;
          }
          to[i] = word;
        }
        __syncthreads();
        from = to;
        reached += step;
      }
  }

  // Mean of the known children, level by level. `texel(y, x)` reads level 0.
  template <class Texel>
  __device__ __forceinline__ void pull(Texel texel) const {
    Lv below = base;
    for (int l = 0; l < levels; ++l) {
      const Lv above = below.above();
      for_nodes(above, [&](int y, int x) {
        const unsigned mask = children(below, y, x);
        A sum = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (mask >> j & 1u)
            sum += l == 0 ? texel(2 * y + j / 2, 2 * x + j % 2)
                          : row(below, 2 * y + j / 2)[2 * x + j % 2];
        if (mask)
          row(above, y)[x] = sum / A(__popc(mask));
      });
      __syncthreads();
      below = above;
    }
  }

  // Up at the four children of node (y, x).
  __device__ __forceinline__ void interpolate(const Lv& above, int y, int x, A up[4]) const {
    const int left = x > 0 ? x - 1 : 0, right = x + 1 < above.w ? x + 1 : x;
    const int rows[3] = {y > 0 ? y - 1 : 0, y, y + 1 < above.h ? y + 1 : y};
    A first[3], second[3]; // children 2x and 2x+1 of each row of parents
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const A* at = row(above, rows[i]);
      first[i] = A(0.75) * at[x] + A(0.25) * at[left];
      second[i] = A(0.75) * at[x] + A(0.25) * at[right];
    }
    up[0] = A(0.75) * first[1] + A(0.25) * first[0];
    up[1] = A(0.75) * second[1] + A(0.25) * second[0];
    up[2] = A(0.75) * first[1] + A(0.25) * first[2];
    up[3] = A(0.75) * second[1] + A(0.25) * second[2];
  }

  // Fills the unknown nodes of levels top-1 .. 1.
  __device__ __forceinline__ void push() const {
    for (int l = levels - 1; l > 0; --l) {
      const Lv below = level(l), above = below.above();
      for_nodes(above, [&](int y, int x) {
        const unsigned mask = children(below, y, x);
        A up[4];
        interpolate(above, y, x, up);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int cy = 2 * y + j / 2, cx = 2 * x + j % 2;
          if (!(mask >> j & 1u) && cy < below.h && cx < below.w)
            row(below, cy)[cx] = up[j];
        }
      });
      __syncthreads();
    }
  }

  // Transpose of the push: every level gets what its nodes were read with. `texel(y, x)` reads
  // level 0.
  template <class Texel>
  __device__ __forceinline__ void push_transposed(Texel texel) const {
    Lv below = base;
    for (int l = 0; l < levels; ++l) {
      const Lv above = below.above();
      for_nodes(above, [&](int y, int x) {
        A wx[4], sum = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j)
          wx[j] = reader_weight<A>(j, x, above.w, below.w);
#pragma unroll 1
        for (int i = 0; i < 4; ++i) { // 16 children at once would not fit into the registers
          const A wy = reader_weight<A>(i, y, above.h, below.h);
          if (wy == A(0))
            continue;
          const int cy = 2 * y - 1 + i;
          const Index words = Index(cy) * below.words;
          unsigned open = ~bits_from(known + below.bits + words, below.words, 2 * x - 1);
          if (l == 0 && within)
            open &= bits_from(within + words, below.words, 2 * x - 1);
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (wx[j] != A(0) && open >> j & 1u)
              sum +=
                  wy * wx[j] * (l == 0 ? texel(cy, 2 * x - 1 + j) : row(below, cy)[2 * x - 1 + j]);
        }
        row(above, y)[x] = sum;
      });
      __syncthreads();
      below = above;
    }
  }

  // Transpose of the pull, down to level 1: a known node gets its share of its parent.
  __device__ __forceinline__ void pull_transposed() const {
    for (int l = levels - 1; l > 0; --l) {
      const Lv below = level(l), above = below.above();
      for_nodes(above, [&](int y, int x) {
        const unsigned mask = children(below, y, x);
        if (mask == 0)
          return;
        const A share = row(above, y)[x] / A(__popc(mask));
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (mask >> j & 1u)
            row(below, 2 * y + j / 2)[2 * x + j % 2] += share;
      });
      __syncthreads();
    }
  }
};

} // namespace pose_kernels::cuda
