// SPDX-License-Identifier: Apache-2.0
// capsule_mask, capsule_soft_mask and its backward: what a launcher gets. T is float or double.
#pragma once

#include "../math/capsule.h"

namespace pose_kernels {

// [N, K, 3] in any strides: a slice of joints, one radius for all axes, ... is read where it lies.
template <class T>
struct CapsulePoints {
  const T* data;
  int64_t sample, capsule, axis; // elements from one to the next
};

template <class T>
struct CapsuleSet {
  int64_t N, K, P;
  CapsulePoints<T> start, end, radius;
  const int32_t* part; // [N, K], 0 .. P - 1; a capsule of another part is ignored
  int64_t part_sample, part_capsule;
};

// Capsule k of sample n, and its part; false where it is empty or its part is none of 0 .. P - 1.
template <class T>
HD bool read_capsule(const CapsuleSet<T>& set, int64_t n, int64_t k, Capsule<T>& capsule, int& part,
                     T radius[3]) {
  T a[3], b[3];
  for (int i = 0; i < 3; ++i) {
    a[i] = set.start.data[n * set.start.sample + k * set.start.capsule + i * set.start.axis];
    b[i] = set.end.data[n * set.end.sample + k * set.end.capsule + i * set.end.axis];
    radius[i] =
        set.radius.data[n * set.radius.sample + k * set.radius.capsule + i * set.radius.axis];
  }
  part = set.part[n * set.part_sample + k * set.part_capsule];
  return make_capsule(a, b, radius, capsule) && part >= 0 && part < set.P;
}

// D H W < 2^31 everywhere below.

template <class T>
struct CapsuleMask {
  CapsuleSet<T> set;
  int64_t D, H, W;
  int32_t* packed; // [N, D, H, W]: bit p = part p, P <= 31      out, or null
  uint8_t* dense;  // [N, P, D, H, W]: 0 or 1                    out, or null
};

template <class T>
struct CapsuleSoftMask {
  CapsuleSet<T> set;
  int64_t D, H, W;
  T softness;
  T* mask; // [N, P, D, H, W]      out
};

template <class T>
struct CapsuleSoftMaskBackward {
  CapsuleSet<T> set;
  int64_t D, H, W;
  T softness;
  const T* grad;  // [N, P, D, H, W]
  T* grad_start;  // [N, K, 3]     out
  T* grad_end;    // [N, K, 3]     out
  T* grad_radius; // [N, K, 3]     out
};

namespace cpu {
template <class T>
void capsule_mask(const CapsuleMask<T>&);
template <class T>
void capsule_soft_mask(const CapsuleSoftMask<T>&);
template <class T>
void capsule_soft_mask_backward(const CapsuleSoftMaskBackward<T>&);
} // namespace cpu

namespace cuda {
template <class T>
void capsule_mask(const CapsuleMask<T>&, void* stream);
template <class T>
void capsule_soft_mask(const CapsuleSoftMask<T>&, void* stream);
// Bytes of `workspace`, for the sums of each block.
template <class T>
int64_t capsule_soft_mask_backward_workspace(const CapsuleSoftMaskBackward<T>&);
template <class T>
void capsule_soft_mask_backward(const CapsuleSoftMaskBackward<T>&, void* workspace, void* stream);
} // namespace cuda

} // namespace pose_kernels
