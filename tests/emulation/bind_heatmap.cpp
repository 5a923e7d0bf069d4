// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include <pybind11/stl.h>

#include "../../csrc/ops/heatmap.h"

namespace {

template <class T>
HeatmapGrid<T> grid_of(const py::array& points, const py::array& map, double sigma,
                       const std::vector<double>& stride) {
  const int axes = int(stride.size());
  HeatmapGrid<T> grid{};
  grid.maps = points.shape(0) * points.shape(1);
  grid.D = axes == 3 ? map.shape(2) : 1;
  grid.H = map.shape(axes);
  grid.W = map.shape(axes + 1);
  grid.axes = axes;
  grid.points = data<T>(points);
  for (int a = 0; a < axes; ++a)
    grid.stride[a] = T(stride[a]);
  grid.set_sigma(sigma);
  return grid;
}

template <class Call>
void with_points(const std::string& dtype, const Call& call) {
  if (dtype == "float32")
    call(float());
  else if (dtype == "float64")
    call(double());
  else
    throw py::type_error("no kernel for " + dtype);
}

void heatmap(const std::string& dtype, py::array points, py::array map, double sigma,
             std::vector<double> stride, int kind) {
  with_points(dtype, [&](auto tag) {
    using T = decltype(tag);
    cuda::heatmap(Heatmap<T>{grid_of<T>(points, map, sigma, stride), kind, data<T>(map)}, nullptr);
  });
}

// Returns whether a workspace was used (a map had more than one band).
bool heatmap_backward(const std::string& dtype, py::array grad, py::array points,
                      py::array grad_points, double sigma, std::vector<double> stride) {
  bool banded = false;
  with_points(dtype, [&](auto tag) {
    using T = decltype(tag);
    const HeatmapBackward<T> a{grid_of<T>(points, grad, sigma, stride), data<T>(grad),
                               data<T>(grad_points)};
    Workspace workspace(cuda::heatmap_backward_workspace(a));
    banded = workspace.bytes > 0;
    cuda::heatmap_backward(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
  return banded;
}

const Binding binding([](py::module_& m) {
  m.def("heatmap", &heatmap);
  m.def("heatmap_backward", &heatmap_backward);
});

} // namespace
