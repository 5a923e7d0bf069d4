// SPDX-License-Identifier: Apache-2.0
// NumPy arrays as arguments of the emulated launchers. Outputs are arrays the caller made (and
// poisoned); half types travel as uint16 arrays with their name. Workspaces are poisoned and
// guarded. A file bind_<what>.cpp here defines its functions in a Binding; nothing lists them.
#pragma once

#include "cuda_emulation.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../../csrc/math/layout.h"

namespace py = pybind11;
using namespace pose_kernels;

// Runs `define` when the module is imported.
struct Binding {
  using Define = void (*)(py::module_&);
  explicit Binding(Define define) { all().push_back(define); }
  static std::vector<Define>& all() {
    static std::vector<Define> bindings;
    return bindings;
  }
};

template <class Call>
void with_type(const std::string& dtype, Call call) {
  if (dtype == "float32")
    call(float());
  else if (dtype == "float64")
    call(double());
  else if (dtype == "float16")
    call(float16());
  else if (dtype == "bfloat16")
    call(bfloat16());
  else
    throw py::type_error("no kernel for " + dtype);
}

template <class T>
T* data(const py::object& array) { // null for None
  if (array.is_none())
    return nullptr;
  auto typed = py::cast<py::array>(array);
  if (typed.itemsize() != sizeof(T))
    throw py::type_error("an array has elements of another size than its kernel");
  return static_cast<T*>(const_cast<void*>(typed.data()));
}

// An array (.., C, H, W) in either memory format.
template <class T>
Planes<T> planes(const py::object& array) {
  if (array.is_none())
    return {nullptr, 0, 0};
  auto typed = py::cast<py::array>(array);
  const auto axes = typed.ndim();
  return {data<T>(array), typed.strides(axes - 3) / py::ssize_t(sizeof(T)),
          typed.strides(axes - 1) / py::ssize_t(sizeof(T))};
}

inline PartMap part_map(const py::array& part) {
  return {part.data(), int(part.itemsize())};
}

struct Workspace {
  std::vector<unsigned char> memory;
  int64_t bytes;
  explicit Workspace(int64_t bytes) : memory(size_t(bytes) + 64, 0xff), bytes(bytes) {}
  void check() const {
    for (int64_t i = 0; i < 64; ++i)
      if (memory[size_t(bytes + i)] != 0xff)
        throw std::runtime_error("a kernel wrote past its workspace");
  }
};
