// SPDX-License-Identifier: Apache-2.0
// heatmap and its gradient: what a launcher gets. Two-dimensional maps have D = 1. T is float or
// double.
#pragma once

#include <cstdint>

namespace pose_kernels {

// What forward and backward share.
template <class T>
struct HeatmapGrid {
  int64_t maps, D, H, W; // maps = N J
  int axes;              // 2: x, y; 3: x, y, z
  const T* points;       // [maps, axes]
  T stride[3];           // of x, y, z
  T inverse_sigma, squared_sigma;

  void set_sigma(double sigma) { // gaussian: sigma > 0
    inverse_sigma = T(1 / sigma);
    squared_sigma = T(sigma * sigma);
  }
};

template <class T>
struct Heatmap {
  HeatmapGrid<T> grid;
  int kind; // of csrc/math/gaussian.h
  T* map;   // [maps, D, H, W]     out
};

template <class T>
struct HeatmapBackward {
  HeatmapGrid<T> grid;
  const T* grad;  // [maps, D, H, W]
  T* grad_points; // [maps, axes]        out
};

namespace cpu {
template <class T>
void heatmap(const Heatmap<T>&);
template <class T>
void heatmap_backward(const HeatmapBackward<T>&);
} // namespace cpu

namespace cuda {
template <class T>
void heatmap(const Heatmap<T>&, void* stream);
// Bytes; 0: none is needed.
template <class T>
int64_t heatmap_backward_workspace(const HeatmapBackward<T>&);
template <class T>
void heatmap_backward(const HeatmapBackward<T>&, void* workspace, void* stream);
} // namespace cuda

} // namespace pose_kernels
