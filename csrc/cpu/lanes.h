// SPDX-License-Identifier: Apache-2.0
// Short vectors of channels as values: the compiler keeps them in registers, of whatever width the
// function they are used in is compiled for (parallel.h).
#pragma once

#include <cstdint>
#include <cstring>

// Everything here is inlined: no vector crosses a call, and how calls would pass it is no matter.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define ALWAYS_INLINE __attribute__((always_inline)) inline

namespace pose_kernels::cpu {

template <class A, int L>
struct Lanes {
  typedef A type __attribute__((vector_size(L * sizeof(A))));
};
template <class A>
struct Lanes<A, 1> {
  typedef A type;
};
template <class A, int L>
using lanes_t = typename Lanes<A, L>::type;

template <class A, int L>
ALWAYS_INLINE lanes_t<A, L> load(const A* from) {
  lanes_t<A, L> v;
  memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class A>
ALWAYS_INLINE void store(A* to, V v) {
  memcpy(to, &v, sizeof v);
}

// Sum of the lanes, always in the same order: halves onto each other.
template <class A, int L>
ALWAYS_INLINE A sum_of(lanes_t<A, L> v) {
  A a[L];
  memcpy(a, &v, sizeof v);
  for (int half = L / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i)
      a[i] += a[i + half];
  return a[0];
}

// The larger; the first NaN stays. Scalars only: compilers take comparisons of vectors wider than a
// register apart lane by lane, and vectorize a plain loop over this.
template <class A>
ALWAYS_INLINE A larger(A best, A value) {
  const A more = best >= value ? best : value;
  return best != best ? best : more;
}

// Calls body(c, constant<L>) for pieces of L = 16, 8, 4, 1 channels that make up [0, count).
template <int L>
struct Constant {
  static constexpr int value = L;
};

template <class Body>
ALWAYS_INLINE void for_lanes(int64_t count, const Body& body) {
  int64_t c = 0;
  for (; c + 16 <= count; c += 16)
    body(c, Constant<16>());
  for (; c + 8 <= count; c += 8)
    body(c, Constant<8>());
  for (; c + 4 <= count; c += 4)
    body(c, Constant<4>());
  for (; c < count; ++c)
    body(c, Constant<1>());
}

} // namespace pose_kernels::cpu
