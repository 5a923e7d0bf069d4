// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/helmert_fit.h"

namespace {

template <class Call>
void with_geometry(const std::string& dtype, Call call) {
  if (dtype == "float32")
    call(float());
  else if (dtype == "float64")
    call(double());
  else
    throw py::type_error("no kernel for " + dtype);
}

void fit(const std::string& dtype, py::array source, py::array target, py::array weight, bool scale,
         py::array transform) {
  with_geometry(dtype, [&](auto tag) {
    using T = decltype(tag);
    cuda::helmert_fit(HelmertFit<T>{source.shape(0), source.shape(1), data<const T>(source),
                                    data<const T>(target), data<const T>(weight), scale,
                                    data<T>(transform)},
                      nullptr);
  });
}

void fit_backward(const std::string& dtype, py::array grad, py::array source, py::array target,
                  py::array weight, bool scale, py::array grad_source, py::array grad_target,
                  py::array grad_weight) {
  with_geometry(dtype, [&](auto tag) {
    using T = decltype(tag);
    cuda::helmert_fit_backward(HelmertFitBackward<T>{source.shape(0), source.shape(1),
                                                     data<const T>(grad), data<const T>(source),
                                                     data<const T>(target), data<const T>(weight),
                                                     scale, data<T>(grad_source),
                                                     data<T>(grad_target), data<T>(grad_weight)},
                               nullptr);
  });
}

const Binding binding([](py::module_& m) {
  m.def("helmert_fit", &fit);
  m.def("helmert_fit_backward", &fit_backward);
});

} // namespace
