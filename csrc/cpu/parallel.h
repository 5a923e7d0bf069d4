// SPDX-License-Identifier: Apache-2.0
// Threads: torch's own pool, reached through the stable ABI. Vector width: chosen when the library
// is loaded.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/ops.h>

// A free function marked so is compiled for AVX-512, AVX2 and the portable baseline. The attribute
// does not reach lambdas or callees that are not inlined: mark the row loop itself.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12
#define VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTOR_CLONES
#endif

namespace pose_kernels::cpu {

// body(begin, end) over [0, count), at least `grain` items a thread.
template <class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  if (count > 0)
    torch::stable::parallel_for(0, count, grain, body);
}

// The i-th of `count` items in an order in which any stretch is spread over all of them: threads
// get stretches, and the work is in the middle.
inline int64_t spread(int64_t i, int64_t count) {
  const int64_t rounds = 8, step = (count + rounds - 1) / rounds;
  // Items 0, step, 2 step, .., then 1, step + 1, ..
  const int64_t whole = count / step, rest = count % step; // columns 0..rest-1 have one item more
  const int64_t longer = rest * (whole + 1);
  if (i < longer)
    return i % (whole + 1) * step + i / (whole + 1);
  return (i - longer) % whole * step + rest + (i - longer) / whole;
}

} // namespace pose_kernels::cpu
