// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/push_pull.h"
#include "../../csrc/ops/uv_gather.h"
#include "../../csrc/ops/uv_splat.h"

namespace {

void splat(const std::string& dtype, py::array image, py::array part, py::array uv, py::array atlas,
           py::object weight, bool normalize, double min_weight) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    UvSplat<T> a{image.shape(0),      image.shape(1),   image.shape(2),         image.shape(3),
                 atlas.shape(1),      atlas.shape(4),   planes<const T>(image), part_map(part),
                 data<acc_t<T>>(uv),  planes<T>(atlas), data<acc_t<T>>(weight), normalize,
                 acc_t<T>(min_weight)};
    Workspace workspace(cuda::uv_splat_workspace(a));
    cuda::uv_splat(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
}

void splat_backward(const std::string& dtype, py::array grad_atlas, py::object grad_weight,
                    py::object image, py::array part, py::array uv, py::object atlas,
                    py::object weight, double min_weight, py::object grad_image,
                    py::object grad_uv) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    UvSplatBackward<T> a{part.shape(0),
                         grad_atlas.shape(2),
                         part.shape(1),
                         part.shape(2),
                         grad_atlas.shape(1),
                         grad_atlas.shape(4),
                         planes<const T>(grad_atlas),
                         data<A>(grad_weight),
                         planes<const T>(image),
                         part_map(part),
                         data<A>(uv),
                         planes<const T>(atlas),
                         data<A>(weight),
                         A(min_weight),
                         planes<T>(grad_image),
                         data<A>(grad_uv)};
    cuda::uv_splat_backward(a, nullptr);
  });
}

void gather(const std::string& dtype, py::array atlas, py::array part, py::array uv,
            py::array image) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    UvGather<T> a{image.shape(0),     image.shape(1),  image.shape(2),         image.shape(3),
                  atlas.shape(1),     atlas.shape(4),  planes<const T>(atlas), part_map(part),
                  data<acc_t<T>>(uv), planes<T>(image)};
    cuda::uv_gather(a, nullptr);
  });
}

// Returns whether a workspace was used (the pyramid did not fit into shared memory).
bool fill(const std::string& dtype, py::array atlas, py::array weight, py::array filled,
          int64_t radius, double min_weight, bool adjoint, int64_t shared_memory) {
  bool spilled = false;
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    cuda::emulated_shared_memory_limit() = shared_memory;
    PushPull<T> a{atlas.shape(0),
                  atlas.shape(1),
                  atlas.shape(2),
                  atlas.shape(3),
                  planes<const T>(atlas),
                  data<acc_t<T>>(weight),
                  acc_t<T>(min_weight),
                  radius,
                  adjoint,
                  planes<T>(filled)};
    Workspace workspace(cuda::push_pull_workspace(a));
    spilled = workspace.bytes > 0;
    cuda::push_pull(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
  return spilled;
}

const Binding binding([](py::module_& m) {
  m.def("uv_splat", &splat);
  m.def("uv_splat_backward", &splat_backward);
  m.def("uv_gather", &gather);
  m.def("push_pull", &fill);
});

} // namespace
