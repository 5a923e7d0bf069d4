// SPDX-License-Identifier: Apache-2.0
// csrc/math bound to NumPy, for test_math.py.
#include "../csrc/math/bilinear.h"
#include "../csrc/math/layout.h"
#include "../csrc/math/pyramid.h"
#include "../csrc/math/scalar.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;
using namespace pose_kernels;

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
Array<float> widened(Array<uint16_t> bits) {
  Array<float> out(bits.size());
  for (py::ssize_t i = 0; i < bits.size(); ++i)
    out.mutable_at(i) = widen(T{bits.at(i)});
  return out;
}

template <class T>
Array<uint16_t> narrowed(Array<float> values) {
  Array<uint16_t> out(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i)
    out.mutable_at(i) = narrow<T>(values.at(i)).bits;
  return out;
}

// The conversions in integer arithmetic, for compilers without _Float16.
Array<float> widened_portably(Array<uint16_t> bits) {
  Array<float> out(bits.size());
  for (py::ssize_t i = 0; i < bits.size(); ++i)
    out.mutable_at(i) = half_bits_to_float(bits.at(i));
  return out;
}

Array<uint16_t> narrowed_portably(Array<float> values) {
  Array<uint16_t> out(values.size());
  for (py::ssize_t i = 0; i < values.size(); ++i)
    out.mutable_at(i) = float_to_half_bits(values.at(i));
  return out;
}

// Per point: finite, four texels, four weights, and the gradient of the four values given.
template <class A>
py::tuple sample(Array<A> u, Array<A> v, int S, Array<A> values) {
  const py::ssize_t n = u.size();
  Array<bool> finite(n);
  Array<int> texels({n, py::ssize_t(4)});
  Array<A> weights({n, py::ssize_t(4)}), gradient({n, py::ssize_t(2)});
  for (py::ssize_t i = 0; i < n; ++i) {
    TilePoint<A> point{};
    finite.mutable_at(i) = tile_point(u.at(i), v.at(i), S, point);
    int q[4] = {0, 0, 0, 0};
    A w[4] = {0, 0, 0, 0}, g[4], gu = 0, gv = 0;
    for (int k = 0; k < 4; ++k)
      g[k] = values.at(i, k);
    if (finite.at(i)) {
      corner_texels(point, S, q);
      corner_weights(point.ax, point.ay, w);
      corner_gradient(point, g, gu, gv);
    }
    for (int k = 0; k < 4; ++k) {
      texels.mutable_at(i, k) = q[k];
      weights.mutable_at(i, k) = w[k];
    }
    gradient.mutable_at(i, 0) = gu;
    gradient.mutable_at(i, 1) = gv;
  }
  return py::make_tuple(finite, texels, weights, gradient);
}

template <class T>
Array<int> parts(Array<T> map, int P) {
  Array<int> out(map.size());
  for (py::ssize_t i = 0; i < map.size(); ++i)
    out.mutable_at(i) = part_at(PartMap{map.data(), int(sizeof(T))}, i, P);
  return out;
}

PYBIND11_MODULE(math_module, m) {
  m.def("widen_half", &widened<float16>);
  m.def("widen_bfloat16", &widened<bfloat16>);
  m.def("widen_half_portable", &widened_portably);
  m.def("narrow_half_portable", &narrowed_portably);
  m.def("narrow_half", &narrowed<float16>);
  m.def("narrow_bfloat16", &narrowed<bfloat16>);
  m.def("sample32", &sample<float>);
  m.def("sample64", &sample<double>);
  m.def("parts8", &parts<uint8_t>);
  m.def("parts32", &parts<int32_t>);
  m.def("parts64", &parts<int64_t>);
  m.def("parent_side", &parent_side);
  m.def("side_parent", &side_parent);
  m.def("pyramid_nodes", &pyramid_nodes);
}
