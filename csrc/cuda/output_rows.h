// SPDX-License-Identifier: Apache-2.0
// The output voxels whose position under a map lies within one voxel of a source voxel q: those
// that read q. Found as rows of candidates, a little too many; weight_at then is exact.
#pragma once

#include "part_maps.h"

namespace pose_kernels::cuda {

template <class A>
constexpr A kRounding =
    sizeof(A) == 8 ? A(4e-15) : A(2e-6); // of sums of a few products, generously

// from .. to, as indices of an axis; NaN stands for all of it.
template <class A>
__device__ __forceinline__ void index_range(A from, A to, int size, int& first, int& last) {
  first = from > A(0) ? (from < A(size) ? int(std::ceil(from)) : size) : 0;
  last = to < A(size - 1) ? (to < A(0) ? -1 : int(std::floor(to))) : size - 1;
}

// Rows of output voxels, y in first[0] .. last[0], z in first[1] .. last[1].
struct OutputRows {
  int first[2], last[2];

  // With B about the inverse of the map's matrix, and A B = I + E, |E| < delta: x = B (I + E)^-1 u
  // for u = q + d - translation with |d| < 1, and (I + E)^-1 u is within delta / (1 - delta) |u| of
  // u. Where the matrix is singular, or nearly, every row is asked.
  template <class A>
  __device__ __forceinline__ void find(const A* map, const int (&q)[3], const int (&size)[3]) {
    A m[3][3], b[3][3], u[3], largest = 0;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
#pragma unroll
      for (int j = 0; j < 3; ++j)
        m[i][j] = map[4 * i + j];
      u[i] = A(q[i]) - map[4 * i + 3];
      largest = std::fabs(u[i]) > largest ? std::fabs(u[i]) : largest;
    }
    largest += A(1);
#pragma unroll
    for (int i = 0; i < 3; ++i)
#pragma unroll
      for (int j = 0; j < 3; ++j) { // cofactors, transposed
        const int r = (j + 1) % 3, s = (j + 2) % 3, c = (i + 1) % 3, d = (i + 2) % 3;
        b[i][j] = m[r][c] * m[s][d] - m[r][d] * m[s][c];
      }
    const A scale = A(1) / (m[0][0] * b[0][0] + m[0][1] * b[1][0] + m[0][2] * b[2][0]);
    A delta = 0;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      A row = 0;
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        A sum = i == j ? A(-1) : A(0), magnitude = 0;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          const A product = m[i][k] * (b[k][j] * scale);
          sum += product;
          magnitude += std::fabs(product);
        }
        row += std::fabs(sum) + kRounding<A> * magnitude;
      }
      delta = row <= delta ? delta : row; // NaN stays
    }
    const bool regular = delta < A(0.5);
    const A reach = A(1) + (A(2) * delta + kRounding<A>)*largest;
#pragma unroll
    for (int k = 1; k < 3; ++k) {
      A center = 0, radius = 0;
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        center += b[k][j] * scale * u[j];
        radius += std::fabs(b[k][j] * scale);
      }
      radius *= reach;
      index_range(regular ? center - radius : A(-1), regular ? center + radius : A(size[k]),
                  size[k], first[k - 1], last[k - 1]);
    }
  }
  __device__ __forceinline__ int64_t count() const {
    const int64_t ny = last[0] - first[0] + 1, nz = last[1] - first[1] + 1;
    return ny > 0 && nz > 0 ? ny * nz : 0;
  }
  __device__ __forceinline__ void row(int64_t i, int& y, int& z) const {
    const int ny = last[0] - first[0] + 1;
    y = first[0] + int(i % ny);
    z = first[1] + int(i / ny);
  }
};

// The candidates of one row: `length` of them from x on.
template <class A>
__device__ __forceinline__ void row_span(const A* map, const int (&q)[3], int W, int y, int z,
                                         int& x, int& length) {
  A from = A(-1), to = A(W);
  bool empty = false;
#pragma unroll
  for (int k = 0; k < 3; ++k) { // |a x + b| < 1
    const A* row = map + 4 * k;
    const A a = row[0], by = row[1] * A(y), bz = row[2] * A(z), b = row[3] + by + bz - A(q[k]);
    const A magnitude =
        std::fabs(row[3]) + std::fabs(by) + std::fabs(bz) + A(q[k]) + std::fabs(a) * A(W);
    const A reach = A(1) + kRounding<A> * magnitude;
    if (a == A(0)) {
      empty = empty || std::fabs(b) > reach;
    } else {
      const A one = (-reach - b) / a, other = (reach - b) / a;
      const A low = one < other ? one : other, high = one < other ? other : one;
      const A lower = low - kRounding<A> * std::fabs(low);
      const A upper = high + kRounding<A> * std::fabs(high);
      from = lower > from ? lower : from; // NaN changes nothing
      to = upper < to ? upper : to;
    }
  }
  int last;
  index_range(from, to, W, x, last);
  length = empty || last < x ? 0 : last - x + 1;
}

// The weight of source voxel q at an output voxel, as the forward computes it.
template <class A>
__device__ __forceinline__ A weight_at(const A* map, const int (&q)[3], const int (&at)[3]) {
  A weight = 1;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const AxisPoint<A> p = axis_position(map + 4 * k, at);
    weight *= p.corner == A(q[k]) ? A(1) - p.fraction : p.corner == A(q[k] - 1) ? p.fraction : A(0);
  }
  return weight;
}

} // namespace pose_kernels::cuda
