// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/capsule_mask.h"

namespace {

template <class T>
CapsulePoints<T> points(const py::array& array) {
  const auto step = [&](int axis) { return int64_t(array.strides(axis)) / int64_t(sizeof(T)); };
  return {data<T>(array), step(0), step(1), step(2)};
}

template <class T>
CapsuleSet<T> capsules(const py::array& start, const py::array& end, const py::array& radius,
                       const py::array& part, int64_t num_parts) {
  return {start.shape(0),
          start.shape(1),
          num_parts,
          points<T>(start),
          points<T>(end),
          points<T>(radius),
          data<int32_t>(part),
          part.strides(0) / int64_t(sizeof(int32_t)),
          part.strides(1) / int64_t(sizeof(int32_t))};
}

template <class Call>
void with_geometry(const std::string& dtype, Call call) {
  if (dtype == "float64")
    call(double());
  else
    call(float());
}

void hard(const std::string& dtype, py::array start, py::array end, py::array radius,
          py::array part, py::array mask, int64_t num_parts) {
  with_geometry(dtype, [&](auto tag) {
    using T = decltype(tag);
    const bool packed = mask.ndim() == 4;
    const auto axis = mask.ndim() - 3;
    const CapsuleMask<T> a{capsules<T>(start, end, radius, part, num_parts),
                           mask.shape(axis),
                           mask.shape(axis + 1),
                           mask.shape(axis + 2),
                           packed ? data<int32_t>(mask) : nullptr,
                           packed ? nullptr : data<uint8_t>(mask)};
    cuda::capsule_mask(a, nullptr);
  });
}

void soft(const std::string& dtype, py::array start, py::array end, py::array radius,
          py::array part, py::array mask, double softness) {
  with_geometry(dtype, [&](auto tag) {
    using T = decltype(tag);
    const CapsuleSoftMask<T> a{capsules<T>(start, end, radius, part, mask.shape(1)),
                               mask.shape(2),
                               mask.shape(3),
                               mask.shape(4),
                               T(softness),
                               data<T>(mask)};
    cuda::capsule_soft_mask(a, nullptr);
  });
}

void soft_backward(const std::string& dtype, py::array grad, py::array start, py::array end,
                   py::array radius, py::array part, double softness, py::array grad_start,
                   py::array grad_end, py::array grad_radius) {
  with_geometry(dtype, [&](auto tag) {
    using T = decltype(tag);
    const CapsuleSoftMaskBackward<T> a{capsules<T>(start, end, radius, part, grad.shape(1)),
                                       grad.shape(2),
                                       grad.shape(3),
                                       grad.shape(4),
                                       T(softness),
                                       data<T>(grad),
                                       data<T>(grad_start),
                                       data<T>(grad_end),
                                       data<T>(grad_radius)};
    Workspace workspace(cuda::capsule_soft_mask_backward_workspace(a));
    cuda::capsule_soft_mask_backward(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
}

const Binding binding([](py::module_& m) {
  m.def("capsule_mask", &hard);
  m.def("capsule_soft_mask", &soft);
  m.def("capsule_soft_mask_backward", &soft_backward);
});

} // namespace
