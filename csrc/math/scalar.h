// SPDX-License-Identifier: Apache-2.0
// Element types. Features are stored as float16, bfloat16, float or double; every sum is carried in
// acc_t<T>: float, or double for double. No CUDA or torch header is needed for either half type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
#endif

namespace pose_kernels {

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <class T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulator<T>::type;

HD float bits_to_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

HD uint32_t float_to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// IEEE binary16 <-> float in integer arithmetic, round to nearest even: for compilers without
// _Float16.
HD float half_bits_to_float(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, exponent = (h >> 10) & 31u,
                 mantissa = h & 1023u;
  if (exponent == 31u) // infinity, NaN
    return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0u) { // zero, subnormal: mantissa * 2^-24
    const float magnitude = float(mantissa) * 5.9604644775390625e-8f;
    return bits_to_float(sign | float_to_bits(magnitude));
  }
  return bits_to_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

HD uint16_t float_to_half_bits(float value) {
  const uint32_t f = float_to_bits(value);
  const uint16_t sign = uint16_t((f >> 16) & 0x8000u);
  const uint32_t magnitude = f & 0x7fffffffu;
  if (magnitude > 0x7f800000u) // NaN
    return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) // rounds to 65536 or more
    return sign | 0x7c00u;
  if (magnitude <
      0x38800000u) { // below 2^-14: adding 0.5 leaves the rounded subnormal in the low bits
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return sign | uint16_t(float_to_bits(shifted) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | uint16_t((rounded - 0x38000000u) >> 13);
}

HD float widen(float x) {
  return x;
}
HD double widen(double x) {
  return x;
}

HD float widen(bfloat16 x) {
  return bits_to_float(uint32_t(x.bits) << 16);
}

HD float widen(float16 x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#elif defined(__FLT16_MAX__) && !defined(__CUDACC__)
  _Float16 value;
  memcpy(&value, &x.bits, sizeof value);
  return float(value);
#else
  return half_bits_to_float(x.bits);
#endif
}

template <class T>
HD T narrow(acc_t<T> x) {
  return x;
}

template <>
HD bfloat16 narrow<bfloat16>(float x) {
  const uint32_t f = float_to_bits(x);
  if ((f & 0x7fffffffu) > 0x7f800000u) // NaN stays NaN
    return {uint16_t((f >> 16) | 0x40u)};
  return {uint16_t((f + 0x7fffu + ((f >> 16) & 1u)) >> 16)};
}

template <>
HD float16 narrow<float16>(float x) {
#if defined(__CUDA_ARCH__)
  float16 value;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
  return value;
#elif defined(__FLT16_MAX__) && !defined(__CUDACC__)
  const _Float16 value = _Float16(x);
  float16 out;
  memcpy(&out.bits, &value, sizeof value);
  return out;
#else
  return {float_to_half_bits(x)};
#endif
}

} // namespace pose_kernels
