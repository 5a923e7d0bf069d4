// SPDX-License-Identifier: Apache-2.0
// Volumes come as (N, C, D H, W): `planes` needs one image axis pair, whatever the depth.
#include "arrays.h"

#include "../../csrc/ops/helmert_warp.h"

namespace {

template <class T>
HelmertWarp<T> forward_arguments(const py::array& volume, const py::array& mask,
                                 const py::array& transform, int64_t depth, const py::object& out) {
  const bool bits = mask.dtype().kind() == 'i';
  return {volume.shape(0),
          volume.shape(1),
          depth,
          volume.shape(2) / depth,
          volume.shape(3),
          transform.shape(1),
          planes<const T>(volume),
          bits ? data<int32_t>(mask) : nullptr,
          bits ? nullptr : data<acc_t<T>>(mask),
          data<acc_t<T>>(transform),
          planes<T>(out)};
}

void warp(const std::string& dtype, py::array volume, py::array mask, py::array transform,
          int64_t depth, py::array out) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto a = forward_arguments<T>(volume, mask, transform, depth, out);
    Workspace workspace(cuda::helmert_warp_workspace(a));
    cuda::helmert_warp(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
}

void warp_backward(const std::string& dtype, py::array grad, py::array volume, py::array mask,
                   py::array transform, int64_t depth, py::object grad_volume, py::object grad_mask,
                   py::object grad_transform) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = acc_t<T>;
    const auto f = forward_arguments<T>(volume, mask, transform, depth, py::none());
    const HelmertWarpBackward<T> a{f.N,
                                   f.C,
                                   f.D,
                                   f.H,
                                   f.W,
                                   f.P,
                                   planes<const T>(grad),
                                   f.volume,
                                   f.bits,
                                   f.mask,
                                   f.transform,
                                   planes<T>(grad_volume),
                                   data<A>(grad_mask),
                                   data<A>(grad_transform)};
    Workspace workspace(cuda::helmert_warp_backward_workspace(a));
    cuda::helmert_warp_backward(a, workspace.memory.data(), nullptr);
    workspace.check();
  });
}

// Bytes of scratch memory for bits, (volume, transform) or a floating mask, (volume, mask,
// transform).
int64_t backward_workspace(int64_t N, int64_t C, int64_t D, int64_t H, int64_t W, int64_t P,
                           bool bits) {
  float some = 0;
  const int32_t word = 0;
  const Planes<float> volume{&some, D * H * W, 1};
  const Planes<const float> read{&some, D * H * W, 1};
  return cuda::helmert_warp_backward_workspace(HelmertWarpBackward<float>{
      N, C, D, H, W, P, read, read, bits ? &word : nullptr, bits ? nullptr : &some, &some, volume,
      bits ? nullptr : &some, &some});
}

const Binding binding([](py::module_& m) {
  m.def("helmert_warp", &warp);
  m.def("helmert_warp_backward_workspace", &backward_workspace);
  m.def("helmert_warp_backward", &warp_backward);
});

} // namespace
