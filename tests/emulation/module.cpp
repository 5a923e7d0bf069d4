// SPDX-License-Identifier: Apache-2.0
// Binds the CUDA launchers, compiled by cuda_emulation.h, to NumPy. Outputs are arrays the caller
// made (and poisoned); half types travel as uint16 arrays with their name. Workspaces are poisoned
// and guarded.
#include "cuda_emulation.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../../csrc/ops/push_pull.h"
#include "../../csrc/ops/uv_gather.h"
#include "../../csrc/ops/uv_splat.h"

namespace py = pybind11;
using namespace pose_kernels;

std::vector<int> self_check(const std::string& name); // self_check.cu

namespace {

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

PartMap part_map(const py::array& part) {
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

} // namespace

PYBIND11_MODULE(cuda_emulated, m) {
  using namespace py::literals;
  m.def("schedule", &cuda_emulation::schedule, "order"_a);
  m.def("uv_splat", &splat);
  m.def("uv_splat_backward", &splat_backward);
  m.def("uv_gather", &gather);
  m.def("push_pull", &fill);
  m.def("self_check", [](const std::string& name) {
    py::list answers;
    for (int word : self_check(name))
      answers.append(word);
    return answers;
  });
}
