// SPDX-License-Identifier: Apache-2.0
// Elementary functions without branches or divisions, so that a loop over them fills its vector
// lanes with multiply-adds. Each is right to a few units in the last place on the range it names.
// double goes through the standard library.
#pragma once

#include "scalar.h"

namespace pose_kernels {

// 1 / x for x in [1e-30, 2^125].
HD float inverse(float x) {
  const float y = bits_to_float(0x7ef311c7u - float_to_bits(x)); // to 12 %
  const float e = 1.0f - x * y, e2 = e * e;                      // 1 / x = y / (1 - e)
  const float once = y + y * e, twice = once + once * e2;
  return twice + twice * (e2 * e2);
}
HD double inverse(double x) {
  return 1 / x;
}

// 2^x for x in [-125, 126].
HD float power_of_two(float x) {
  const float shifted = x + 12582912.0f;       // 1.5 2^23: its low bits are the nearest integer
  const float r = x - (shifted - 12582912.0f); // in [-0.5, 0.5], exact
  float p = 0.00015345810970757157f;           // minimax, to 1.6e-8
  p = p * r + 0.0013399930903688073f;
  p = p * r + 0.009618489071726799f;
  p = p * r + 0.05550328642129898f;
  p = p * r + 0.24022646248340607f;
  p = p * r + 0.6931471824645996f;
  p = p * r + 1.0f;
  return bits_to_float(float_to_bits(p) + (float_to_bits(shifted) << 23));
}
HD double power_of_two(double x) {
  return std::exp2(x);
}

} // namespace pose_kernels
