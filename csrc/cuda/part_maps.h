// SPDX-License-Identifier: Apache-2.0
// The parts of a volume warp: masks and maps, one part at one output voxel, and which parts a tile
// of output voxels can see.
//
// Parts cover a few percent of a volume, so the masks are read once more beforehand, to note in
// which bricks of 8^3 source voxels each part has something. A tile asks for each part whether any
// brick within the part's image of the tile has; most tiles see no part, and write zeros.
#pragma once

#include "../math/trilinear.h"
#include "volume_walk.h"

namespace pose_kernels::cuda {

template <class A>
struct PartMaps {
  const int32_t* bits; // [N, D, H, W], or null
  const A* mask;       // [N, P, D, H, W], or null
  const A* transform;  // [N, P, 3, 4]
  int P;
  int size[3]; // W, H, D

  template <class Arguments>
  static PartMaps of(const Arguments& a) {
    return {a.bits, a.mask, a.transform, int(a.P), {int(a.W), int(a.H), int(a.D)}};
  }
  HD int64_t voxels() const { return int64_t(size[0]) * size[1] * size[2]; }
  __device__ __forceinline__ const A* map(int64_t n, int p) const {
    return transform + (n * P + p) * 12;
  }
  // The masks of a part at some voxels, given by their flat indices.
  template <int COUNT>
  __device__ __forceinline__ void read(int64_t n, int p, const int (&voxel)[COUNT],
                                       A (&out)[COUNT]) const {
    if (bits) {
      const int32_t* words = bits + n * voxels();
#pragma unroll
      for (int k = 0; k < COUNT; ++k)
        out[k] = A((words[voxel[k]] >> p) & 1);
    } else {
      const A* plane = mask + (n * P + p) * voxels();
#pragma unroll
      for (int k = 0; k < COUNT; ++k)
        out[k] = plane[voxel[k]];
    }
  }
  // Whether a floating mask is not 0 somewhere in the 27 voxels around q: if not, no output voxel
  // that reads q has anything from the part.
  __device__ __forceinline__ bool touches(int64_t n, int p, const int (&q)[3]) const {
    const A* plane = mask + (n * P + p) * voxels();
    bool any = false;
    for (int i = 0; i < 27; ++i) {
      const int x = q[0] + i % 3 - 1, y = q[1] + i / 3 % 3 - 1, z = q[2] + i / 9 - 1;
      if (x >= 0 && x < size[0] && y >= 0 && y < size[1] && z >= 0 && z < size[2])
        any = any || plane[(int64_t(z) * size[1] + y) * size[0] + x] != A(0);
    }
    return any;
  }
  // Steps to the next voxel along an axis, 0 along one of a single voxel.
  __device__ __forceinline__ void steps(int (&step)[3]) const {
    step[0] = size[0] > 1 ? 1 : 0;
    step[1] = size[1] > 1 ? size[0] : 0;
    step[2] = size[2] > 1 ? size[0] * size[1] : 0;
  }
};

// Where a row of a map sends a voxel, on its axis.
template <class A>
__device__ __forceinline__ AxisPoint<A> axis_position(const A* row, const int (&at)[3]) {
  Split<A> s = split(row[3]);
  s = add_product(s, row[1], A(at[1]));
  s = add_product(s, row[2], A(at[2]));
  s = add_product(s, row[0], A(at[0]));
  return axis_point(s);
}

// A part at one output voxel.
template <class A>
struct PartCell {
  AxisCell<A> axis[3];
  int base;  // flat index of corner 0
  A mask[8]; // of the corners, 0 for one that does not exist

  // Returns whether the part covers the voxel; nothing else here counts if not.
  __device__ __forceinline__ bool place(const PartMaps<A>& parts, int64_t n, int p,
                                        const int (&at)[3]) {
    const A* map = parts.map(n, p);
    bool within = true;
    AxisPoint<A> point[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      point[k] = axis_position(map + 4 * k, at);
      within = within && inside(point[k], parts.size[k]);
    }
    if (!within)
      return false;
#pragma unroll
    for (int k = 0; k < 3; ++k)
      axis[k] = axis_cell(point[k], parts.size[k]);
    base = (axis[2].base * parts.size[1] + axis[1].base) * parts.size[0] + axis[0].base;
    int step[3];
    parts.steps(step);
    int voxel[8];
#pragma unroll
    for (int k = 0; k < 8; ++k)
      voxel[k] = base + (k & 1) * step[0] + (k >> 1 & 1) * step[1] + (k >> 2) * step[2];
    parts.read(n, p, voxel, mask);
    bool covered = false;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const int x = k & 1, y = k >> 1 & 1, z = k >> 2;
      const bool exists = axis[0].derivative[x] != A(0) && axis[1].derivative[y] != A(0) &&
                          axis[2].derivative[z] != A(0);
      mask[k] = exists ? mask[k] : A(0);
      covered = covered || mask[k] != A(0);
    }
    return covered;
  }

  __device__ __forceinline__ A weight(int k) const {
    return axis[0].weight[k & 1] * axis[1].weight[k >> 1 & 1] * axis[2].weight[k >> 2];
  }
  // d weight / d position along one axis.
  __device__ __forceinline__ A slope(int k, int along) const {
    const int c[3] = {k & 1, k >> 1 & 1, k >> 2};
    A product = 1;
#pragma unroll
    for (int j = 0; j < 3; ++j)
      product *= j == along ? axis[j].derivative[c[j]] : axis[j].weight[c[j]];
    return product;
  }
};

constexpr int kBrick = 8; // voxels a side
constexpr int kMostParts = 256;

struct PartBricks {
  unsigned char* occupied; // [N, bricks, P] whether the part has a mask that is not 0 in the brick
  int count[3];            // of bricks along x, y, z

  template <class A>
  static PartBricks plan(const PartMaps<A>& parts, void* workspace) {
    PartBricks bricks{static_cast<unsigned char*>(workspace), {}};
    for (int k = 0; k < 3; ++k)
      bricks.count[k] = int(blocks_for(parts.size[k], kBrick));
    return bricks;
  }
  HD int64_t bricks() const { return int64_t(count[0]) * count[1] * count[2]; }
  int64_t bytes(int64_t N, int64_t P) const { return (N * bricks() * P + 15) / 16 * 16; }
};

// A warp notes one brick: all its parts from bits, one part of a floating mask.
template <class A>
__global__ void __launch_bounds__(128)
    mark_bricks_kernel(PartMaps<A> parts, PartBricks bricks, int64_t warps) {
  const int64_t warp = int64_t(blockIdx.x) * 4 + warp_index();
  if (warp >= warps)
    return;
  const int per_brick = parts.bits ? 1 : parts.P, first_part = int(warp % per_brick);
  const int64_t place = warp / per_brick, n = place / bricks.bricks();
  const int64_t brick = place % bricks.bricks();
  const int x = int(brick % bricks.count[0]) * kBrick + lane_index() % kBrick;
  const int y0 = int(brick / bricks.count[0] % bricks.count[1]) * kBrick + lane_index() / kBrick;
  const int z0 = int(brick / bricks.count[0] / bricks.count[1]) * kBrick;

  unsigned found = 0; // bit p: part p; of a floating mask: the one part
#pragma unroll
  for (int i = 0; i < 2 * kBrick; ++i) {
    const int y = y0 + i % 2 * 4, z = z0 + i / 2;
    if (x < parts.size[0] && y < parts.size[1] && z < parts.size[2]) {
      const int voxel = (z * parts.size[1] + y) * parts.size[0] + x;
      if (parts.bits)
        found |= unsigned(parts.bits[n * parts.voxels() + voxel]);
      else
        found |= parts.mask[(n * parts.P + first_part) * parts.voxels() + voxel] != A(0);
    }
  }
  unsigned char* out = bricks.occupied + place * parts.P;
  if (parts.bits) {
    bool own = false;
    for (int p = 0; p < parts.P; ++p) {
      const bool any = ballot(found >> p & 1u) != 0;
      own = lane_index() == p ? any : own;
    }
    if (lane_index() < parts.P)
      out[lane_index()] = own;
  } else {
    const bool any = ballot(found != 0) != 0;
    if (lane_index() == 0)
      out[first_part] = any;
  }
}

template <class A>
void mark_bricks(const PartMaps<A>& parts, const PartBricks& bricks, int64_t N, void* stream) {
  const int64_t warps = N * bricks.bricks() * (parts.bits ? 1 : parts.P);
  launch("helmert_warp", mark_bricks_kernel<A>, blocks_for(warps, 4), 128, 0, stream, parts, bricks,
         warps);
}

// The bricks along one axis that hold corners of where `row` sends the voxels low .. high; false:
// the tile goes elsewhere. Rounding, and NaN from huge numbers, err towards more bricks.
template <class A>
__device__ __forceinline__ bool brick_range(const A* row, const int (&low)[3], const int (&high)[3],
                                            int size, int& first, int& last) {
  constexpr A kSlack = sizeof(A) == 8 ? A(4e-15) : A(2e-6);
  A from = row[3], to = row[3], magnitude = A(1) + std::fabs(row[3]);
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const A a = row[k] * A(low[k]), b = row[k] * A(high[k]);
    from += a < b ? a : b;
    to += a < b ? b : a;
    magnitude += std::fabs(b);
  }
  from -= kSlack * magnitude;
  to += kSlack * magnitude;
  const bool finite =
      row[0] - row[0] + (row[1] - row[1]) + (row[2] - row[2]) + (row[3] - row[3]) == A(0);
  if (!finite || from >= A(size) || to <= A(-1))
    return false;
  first = from > A(0) ? int(from) / kBrick : 0;
  last = to < A(size - 1) ? (to < A(0) ? 0 : int(to) + 1) / kBrick : (size - 1) / kBrick;
  return true;
}

// Whether part p may cover a voxel of the tile; 8 lanes share the question.
template <class A>
__device__ __forceinline__ bool tile_sees(const PartMaps<A>& parts, const PartBricks& bricks,
                                          int64_t n, int p, const int (&low)[3],
                                          const int (&high)[3], int share) {
  const A* map = parts.map(n, p);
  int first[3], last[3];
  for (int k = 0; k < 3; ++k)
    if (!brick_range(map + 4 * k, low, high, parts.size[k], first[k], last[k]))
      return false;
  const int nx = last[0] - first[0] + 1, ny = last[1] - first[1] + 1, nz = last[2] - first[2] + 1;
  if (int64_t(nx) * ny * nz > 512) // a map that shrinks a lot: to look would take longer
    return true;
  for (int i = share; i < nx * ny * nz; i += 8) {
    const int64_t z = first[2] + i / nx / ny, y = first[1] + i / nx % ny, x = first[0] + i % nx;
    const int64_t brick = (z * bricks.count[1] + y) * bricks.count[0] + x;
    if (bricks.occupied[(n * bricks.bricks() + brick) * parts.P + p])
      return true;
  }
  return false;
}

// Lists, in order, the parts that may cover a voxel of the block's tile; returns how many. Called
// by all threads of a block, any number of times. list and flag: [kMostParts], shared.
template <class A>
__device__ __forceinline__ int list_parts(const PartMaps<A>& parts, const PartBricks& bricks,
                                          int64_t n, const Tiles& tiles, const int (&low)[3],
                                          unsigned char* list, unsigned char* flag) {
  int high[3];
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    high[k] = low[k] + tiles.patch[k] * tiles.patches[k] - 1;
    high[k] = high[k] < parts.size[k] ? high[k] : parts.size[k] - 1;
  }
  for (int base = 0; base < parts.P; base += int(blockDim.x) / 8) {
    const int p = base + int(threadIdx.x) / 8, share = int(threadIdx.x) % 8;
    const bool sees = p < parts.P && tile_sees(parts, bricks, n, p, low, high, share);
    const unsigned votes = ballot(sees) >> (lane_index() - share) & 0xffu;
    if (p < parts.P && share == 0)
      flag[p] = votes != 0;
  }
  __syncthreads();
  int count = 0;
  for (int base = 0; base < parts.P; base += kWarp) {
    const int p = base + lane_index();
    const unsigned seen = ballot(p < parts.P && flag[p]);
    if (warp_index() == 0 && seen >> lane_index() & 1u)
      list[count + __popc(seen & lanes_below())] = (unsigned char)(p);
    count += __popc(seen);
  }
  __syncthreads();
  return count;
}

} // namespace pose_kernels::cuda
