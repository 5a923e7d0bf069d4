// SPDX-License-Identifier: Apache-2.0
// Starting kernels, and the two facts about the device that launchers ask for.
// Grids are flat: a kernel finds its place from blockIdx.x alone, so grid.y and grid.z set no
// limits. With tests/emulation/cuda_emulation.h included first, plain C++ runs the same names on
// the CPU.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace pose_kernels::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

inline int processor_count() {
  return device_attribute(cudaDevAttrMultiProcessorCount);
}

// Most shared memory one block may ask for, in bytes.
inline int64_t shared_memory_limit() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

// kernel<<<blocks, threads, shared_bytes, stream>>>(args...), checked. `name` is for the error
// message.
template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), int64_t blocks, int threads,
            int64_t shared_bytes, void* stream, Arguments... arguments) {
  if (blocks == 0)
    return;
  if (blocks > INT32_MAX)
    throw std::runtime_error(std::string(name) + ": needs more than 2^31 - 1 blocks");
  if (shared_bytes > 48 * 1024) // beyond this a kernel has to ask first
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shared_bytes)),
          name);
  kernel<<<unsigned(blocks), unsigned(threads), size_t(shared_bytes),
           static_cast<cudaStream_t>(stream)>>>(Parameters(arguments)...);
  check(cudaGetLastError(), name);
}

// The block's dynamic shared memory, uninitialized.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

} // namespace pose_kernels::cuda
#endif

namespace pose_kernels::cuda {

inline int64_t blocks_for(int64_t items, int64_t per_block) {
  return (items + per_block - 1) / per_block;
}

} // namespace pose_kernels::cuda
