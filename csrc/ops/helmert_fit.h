// SPDX-License-Identifier: Apache-2.0
// helmert_fit: what a launcher gets. T is float or double; all arithmetic is double.
#pragma once

#include <cstdint>

namespace pose_kernels {

template <class T>
struct HelmertFit {
  int64_t B, K;
  const T* source; // [B, K, 3]
  const T* target; // [B, K, 3]
  const T* weight; // [B, K]
  bool scale;
  T* transform; // [B, 3, 4]     out
};

template <class T>
struct HelmertFitBackward {
  int64_t B, K;
  const T* grad;   // [B, 3, 4]
  const T* source; // [B, K, 3]
  const T* target; // [B, K, 3]
  const T* weight; // [B, K]
  bool scale;
  T* grad_source; // [B, K, 3]     out
  T* grad_target; // [B, K, 3]     out
  T* grad_weight; // [B, K]        out
};

namespace cpu {
template <class T>
void helmert_fit(const HelmertFit<T>&);
template <class T>
void helmert_fit_backward(const HelmertFitBackward<T>&);
} // namespace cpu

namespace cuda {
template <class T>
void helmert_fit(const HelmertFit<T>&, void* stream);
template <class T>
void helmert_fit_backward(const HelmertFitBackward<T>&, void* stream);
} // namespace cuda

} // namespace pose_kernels
