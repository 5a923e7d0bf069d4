// SPDX-License-Identifier: Apache-2.0
// Elementary functions without branches or divisions, so that a loop over them fills its vector
// lanes with multiply-adds. Each is right to a few units in the last place on the range it names.
// double goes through the standard library.
#pragma once

#include "scalar.h"

namespace pose_kernels {

// 1 / sqrt(x) for x in [0, 1e30]; a large finite number at 0, so that x * it is the root there too.
HD float inverse_root(float x) {
  float y = bits_to_float(0x5f375a86u - (float_to_bits(x) >> 1)); // to 3.5 %, then Newton
  const float half = 0.5f * x;
  y = y * (1.5f - half * y * y);
  y = y * (1.5f - half * y * y);
  return y * (1.5f - half * y * y);
}
HD double inverse_root(double x) {
  return 1 / sqrt(x > 1e-300 ? x : 1e-300);
}

// 1 / x for x in [1, 2^125].
HD float inverse(float x) {
  float y = bits_to_float(0x7ef311c7u - float_to_bits(x)); // to 12 %, then Newton
  y = y * (2.0f - x * y);
  y = y * (2.0f - x * y);
  return y * (2.0f - x * y);
}
HD double inverse(double x) {
  return 1 / x;
}

// 2^x for x in [-126, 126].
HD float power_of_two(float x) {
  const float nearest = (x + 12582912.0f) - 12582912.0f; // 1.5 2^23: no fraction bits are left
  const float r = x - nearest;                           // in [-0.5, 0.5], exact
  float p = 0.00015345810970757157f;                     // minimax, to 1.6e-8
  p = p * r + 0.0013399930903688073f;
  p = p * r + 0.009618489071726799f;
  p = p * r + 0.05550328642129898f;
  p = p * r + 0.24022646248340607f;
  p = p * r + 0.6931471824645996f;
  p = p * r + 1.0f;
  return p * bits_to_float(uint32_t(int(nearest) + 127) << 23);
}
HD double power_of_two(double x) {
  return exp2(x);
}

} // namespace pose_kernels
