// SPDX-License-Identifier: Apache-2.0
// The loops of push_pull along one row of a level.
//
// They load both sides of a choice first: a load that depends on a mask would not vectorize. "omp
// simd" marks those that also work in place: a check for overlap would send them to scalar code.
#pragma once

#include <algorithm>

#include "../math/pyramid.h"
#include "parallel.h"

namespace pose_kernels::cpu {

// known[i] = values[i] > limit. Whether any is.
template <class A>
static VECTOR_CLONES bool above(const A* __restrict values, A limit, int64_t count,
                                uint8_t* __restrict known) {
  uint8_t any = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t is = values[i] > limit;
    known[i] = is;
    any |= is;
  }
  return any;
}

// The known children of a row of parents, in two rows of `width`. `sum` has width + 1 places.
template <class A>
static VECTOR_CLONES void count_children(const A* __restrict top, const A* __restrict bottom,
                                         A limit, int64_t width, A* __restrict sum,
                                         A* __restrict count) {
  for (int64_t x = 0; x < width; ++x)
    sum[x] = (top[x] > limit ? A(1) : A(0)) + (bottom[x] > limit ? A(1) : A(0));
  sum[width] = A(0);
  for (int64_t j = 0; j < (width + 1) / 2; ++j)
    count[j] = sum[2 * j] + sum[2 * j + 1];
}

// parent[j] = mean of the known children in two rows. `sum` has width + 1 places.
template <class A>
static VECTOR_CLONES void mean(const A* __restrict top, const A* __restrict top_mask,
                               const A* __restrict bottom, const A* __restrict bottom_mask, A limit,
                               int64_t width, const A* __restrict count, A* __restrict sum,
                               A* __restrict parent) {
  for (int64_t x = 0; x < width; ++x) {
    const A a = top[x], b = bottom[x];
    sum[x] = (top_mask[x] > limit ? a : A(0)) + (bottom_mask[x] > limit ? b : A(0));
  }
  sum[width] = A(0);
  for (int64_t j = 0; j < (width + 1) / 2; ++j) // a sum over no children is 0 already
    parent[j] = (sum[2 * j] + sum[2 * j + 1]) / std::max(count[j], A(1));
}

// Between two rows of parents. `blended` has a place more on either side.
template <class A>
static VECTOR_CLONES void blend(const A* __restrict own, const A* __restrict side, int64_t parents,
                                A* __restrict blended) {
  for (int64_t j = 0; j < parents; ++j)
    blended[j] = A(0.75) * own[j] + A(0.25) * side[j];
  blended[-1] = blended[0], blended[parents] = blended[parents - 1];
}

// And from parents to a row of `width` children.
template <class A>
static VECTOR_CLONES void upsample(const A* __restrict blended, int64_t width, A* __restrict up) {
  const int64_t pairs = width / 2;
  for (int64_t j = 0; j < pairs; ++j) {
    up[2 * j] = A(0.75) * blended[j] + A(0.25) * blended[j - 1];
    up[2 * j + 1] = A(0.75) * blended[j] + A(0.25) * blended[j + 1];
  }
  if (width & 1)
    up[width - 1] = A(0.75) * blended[pairs] + A(0.25) * blended[pairs - 1];
}

// The transpose of blend: rows a and b lie between two rows of parents; an
// unknown node of a took 3/4 from the upper and 1/4 from the lower one, of b the other way round.
template <class A>
static VECTOR_CLONES void return_rows(const A* __restrict a, const A* __restrict a_mask,
                                      const A* __restrict b, const A* __restrict b_mask, A limit,
                                      int64_t width, A* __restrict upper, A* __restrict lower) {
  for (int64_t x = 0; x < width; ++x) {
    const A of_a = a[x], of_b = b[x], before = upper[x];
    const A at_a = a_mask[x] > limit ? A(0) : of_a, at_b = b_mask[x] > limit ? A(0) : of_b;
    upper[x] = before + (A(0.75) * at_a + A(0.25) * at_b);
    lower[x] = A(0.25) * at_a + A(0.75) * at_b;
  }
}

// The transpose of upsample. `even` and `odd` have a place more on either side.
template <class A>
static VECTOR_CLONES void return_pairs(const A* __restrict row, int64_t width, A* __restrict even,
                                       A* __restrict odd, A* __restrict parent) {
  const int64_t parents = parent_side(width), pairs = width / 2;
  for (int64_t j = 0; j < pairs; ++j) {
    even[j] = row[2 * j];
    odd[j] = row[2 * j + 1];
  }
  if (width & 1)
    even[pairs] = row[width - 1], odd[pairs] = A(0), even[parents] = A(0);
  else
    even[parents] = odd[parents - 1];
  odd[-1] = even[0];
  for (int64_t j = 0; j < parents; ++j)
    parent[j] = A(0.75) * (even[j] + odd[j]) + A(0.25) * (odd[j - 1] + even[j + 1]);
}

// The transpose of mean: what each of the known children of a row of parents gets.
template <class A>
static VECTOR_CLONES void share(const A* __restrict parent, const A* __restrict count,
                                int64_t parents, A* __restrict children) {
  for (int64_t j = 0; j < parents; ++j) {
    const A each = parent[j] / std::max(count[j], A(1));
    children[2 * j] = each;
    children[2 * j + 1] = each;
  }
}

// What the known nodes of a row get: their own, and the share of a child. The rest is 0.
template <class A>
static VECTOR_CLONES void take(const A* mask, A limit, const A* own, const A* shared, int64_t width,
                               A* row) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) {
    const A sum = own[x] + shared[x];
    row[x] = mask[x] > limit ? sum : A(0);
  }
}

// Takes over the known nodes of `own`.
template <class A>
static VECTOR_CLONES void select(const A* __restrict mask, A limit, const A* __restrict own,
                                 int64_t width, A* __restrict row) {
  for (int64_t x = 0; x < width; ++x) {
    const A a = own[x], b = row[x];
    row[x] = mask[x] > limit ? a : b;
  }
}

// The part of a row where it is to be kept; 0 elsewhere.
template <class A>
static VECTOR_CLONES void keep(const A* row, const uint8_t* kept, int64_t width, A* out) {
#pragma omp simd
  for (int64_t x = 0; x < width; ++x) {
    const A a = row[x];
    out[x] = kept[x] ? a : A(0);
  }
}

template <class T>
static VECTOR_CLONES void read_row(const T* row, int64_t pixel, int64_t width, acc_t<T>* out) {
  for (int64_t x = 0; x < width; ++x)
    out[x] = widen(row[x * pixel]);
}

template <class T>
static VECTOR_CLONES void narrow_row(const acc_t<T>* row, int64_t width, T* out) {
  for (int64_t x = 0; x < width; ++x)
    out[x] = narrow<T>(row[x]);
}

} // namespace pose_kernels::cpu
