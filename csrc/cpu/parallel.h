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

} // namespace pose_kernels::cpu
