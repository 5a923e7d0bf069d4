// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/mesh_raster.h"

namespace {

template <class T>
int64_t step(const py::array& array) { // elements from one sample to the next
  return int64_t(array.strides(0)) / int64_t(sizeof(T));
}

template <class T>
void run(const py::array& vertices, const py::array& faces, const py::array& face,
         const py::array& bary) {
  const MeshRaster<T> a{vertices.shape(0),
                        vertices.shape(1),
                        faces.shape(1),
                        face.shape(1),
                        face.shape(2),
                        data<T>(vertices),
                        step<T>(vertices),
                        faces.data(),
                        int64_t(faces.strides(0)) / int64_t(faces.itemsize()),
                        int(faces.itemsize()),
                        data<int32_t>(face),
                        data<T>(bary)};
  Workspace workspace(cuda::mesh_raster_workspace(a));
  cuda::mesh_raster(a, workspace.memory.data(), nullptr);
  workspace.check();
}

const Binding binding([](py::module_& m) {
  m.def("mesh_raster", [](const std::string& dtype, py::array vertices, py::array faces,
                          py::array face, py::array bary) {
    if (dtype == "float64")
      run<double>(vertices, faces, face, bary);
    else
      run<float>(vertices, faces, face, bary);
  });
});

} // namespace
