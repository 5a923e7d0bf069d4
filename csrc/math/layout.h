// SPDX-License-Identifier: Apache-2.0
// Where an element lies. Two memory formats of one logical tensor differ only in two strides:
//   contiguous     (.., C, H, W): channel = H W, pixel = 1
//   channels last  (.., H, W, C): channel = 1,   pixel = C
#pragma once

#include "scalar.h"

namespace pose_kernels {

// A stack of images or tiles, C channels each; item i starts at data + i * C * pixels.
template <class T>
struct Planes {
  T* data;         // [items, C, pixels] in either format, or null: absent
  int64_t channel; // elements from one channel to the next
  int64_t pixel;   // elements from one pixel (texel) to the next
};

// A map of body parts, [N, H, W] contiguous: 0 is background, 1..P are parts.
struct PartMap {
  const void* data;
  int bytes; // of one element: 1 (uint8), 4 (int32) or 8 (int64)
};

// The part at flat index `i`, or 0 where it is background or out of range.
HD int part_at(PartMap map, int64_t i, int P) {
  if (map.bytes == 1) {
    const int part = static_cast<const uint8_t*>(map.data)[i];
    return part <= P ? part : 0;
  }
  const int64_t part = map.bytes == 4 ? int64_t(static_cast<const int32_t*>(map.data)[i])
                                      : static_cast<const int64_t*>(map.data)[i];
  return part >= 1 && part <= P ? int(part) : 0;
}

} // namespace pose_kernels
