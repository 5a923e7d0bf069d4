// SPDX-License-Identifier: Apache-2.0
#include "arrays.h"

#include "../../csrc/ops/region_crop.h"

namespace {

// Planes of pixels: (N, .., C, H, W) in either memory format.
struct Layout {
  int64_t planes, across;
  explicit Layout(const py::array& x) {
    const auto axes = x.ndim(), C = x.shape(axes - 3);
    const bool last = x.strides(axes - 1) != x.itemsize();
    planes = last ? 1 : C;
    across = last ? C : 1;
  }
};

Centers centers(const py::array& center) {
  return {center.data(), center.itemsize() == sizeof(double)};
}

void crop(py::array image, py::array center, py::array crops, py::array valid) {
  const Layout layout(image);
  cuda::region_crop(RegionCrop{center.shape(0), center.shape(1), layout.planes, image.shape(2),
                               image.shape(3), crops.shape(3), layout.across * image.itemsize(),
                               centers(center), image.data(), const_cast<void*>(crops.data()),
                               data<bool>(valid)},
                    nullptr);
}

void crop_backward(const std::string& dtype, py::array grad, py::array center,
                   py::array grad_image) {
  with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    const Layout layout(grad_image);
    cuda::region_crop_backward(
        RegionCropBackward<T>{center.shape(0), center.shape(1), layout.planes, grad_image.shape(2),
                              grad_image.shape(3), grad.shape(3), layout.across, centers(center),
                              data<const T>(grad), data<T>(grad_image)},
        nullptr);
  });
}

const Binding binding([](py::module_& m) {
  m.def("region_crop", &crop);
  m.def("region_crop_backward", &crop_backward);
});

} // namespace
