// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/flow_warp.h"

namespace {

void warp(const std::string& dtype, py::array image, py::array flow, py::object visibility,
          int mode, bool border, py::array out) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    cuda::flow_warp(FlowWarp<T>{image.shape(0), image.shape(1), image.shape(2), image.shape(3),
                                flow.shape(2), flow.shape(3), planes<const T>(image),
                                data<acc_t<T>>(flow), data<uint8_t>(visibility), mode, border,
                                planes<T>(out)},
                    nullptr);
  });
}

void warp_backward(const std::string& dtype, py::array grad, py::array image, py::array flow,
                   py::object visibility, int mode, bool border, py::object grad_image,
                   py::object grad_flow) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    const FlowWarpBackward<T> a{image.shape(0),
                                image.shape(1),
                                image.shape(2),
                                image.shape(3),
                                flow.shape(2),
                                flow.shape(3),
                                planes<const T>(grad),
                                planes<const T>(image),
                                data<acc_t<T>>(flow),
                                data<uint8_t>(visibility),
                                mode,
                                border,
                                planes<T>(grad_image),
                                data<acc_t<T>>(grad_flow)};
    Workspace workspace(cuda::flow_warp_backward_workspace(a));
    cuda::flow_warp_backward(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
}

const Binding binding([](py::module_& m) {
  m.def("flow_warp", &warp);
  m.def("flow_warp_backward", &warp_backward);
});

} // namespace
