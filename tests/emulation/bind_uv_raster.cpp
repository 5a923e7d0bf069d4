// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/uv_raster.h"

namespace {

void raster(const std::string& dtype, py::array image, py::array part, py::array uv,
            py::array atlas, py::array weight, double max_edge) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    UvRaster<T> a{image.shape(0),     image.shape(1),   image.shape(2),         image.shape(3),
                  atlas.shape(1),     atlas.shape(4),   planes<const T>(image), part_map(part),
                  data<acc_t<T>>(uv), planes<T>(atlas), data<acc_t<T>>(weight), max_edge};
    Workspace workspace(cuda::uv_raster_workspace(a));
    cuda::uv_raster(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
}

void raster_backward(const std::string& dtype, py::array grad_atlas, py::array part, py::array uv,
                     py::array weight, py::array grad_image, double max_edge) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    UvRasterBackward<T> a{part.shape(0),
                          grad_atlas.shape(2),
                          part.shape(1),
                          part.shape(2),
                          grad_atlas.shape(1),
                          grad_atlas.shape(4),
                          planes<const T>(grad_atlas),
                          part_map(part),
                          data<A>(uv),
                          data<A>(weight),
                          max_edge,
                          planes<T>(grad_image)};
    cuda::uv_raster_backward(a, nullptr);
  });
}

const Binding binding([](py::module_& m) {
  m.def("uv_raster", &raster);
  m.def("uv_raster_backward", &raster_backward);
});

} // namespace
