// SPDX-License-Identifier: Apache-2.0
// region_crop on the CPU: rows of windows.
//
// Forward: every row of a crop is one run of the image's memory, in either memory format, and is
// copied as bytes. Threads take stretches of the rows of all crops.
//
// Backward: a thread owns rows of the image's gradient and adds, in the order of K, the row of
// every crop that covers them. Sums are carried in the accumulator type. Nobody writes where
// another does: the same bits for any number of threads.
#include "../ops/region_crop.h"

#include <type_traits>
#include <vector>

#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

constexpr int64_t kBytesPerThread = 64 << 10; // less is not worth waking another one

// The windows of all crops.
template <class Op>
std::vector<Window> locate(const Op& op) {
  std::vector<Window> windows(size_t(op.N * op.K));
  parallel(op.N * op.K, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      windows[size_t(i)] = window_at(op.center, i, op.H, op.W, op.size);
  });
  return windows;
}

// `count` rows of `bytes`, in the target one after another, in the source `pitch` apart.
void copy_rows(char* to, const char* from, int64_t bytes, int64_t pitch, int64_t count,
               bool streamed) {
  if (streamed) {
    for (int64_t i = 0; i < count; ++i)
      stream(to + i * bytes, from + i * pitch, bytes);
  } else if (bytes == pitch) {
    memcpy(to, from, count * bytes);
  } else {
    for (int64_t i = 0; i < count; ++i)
      memcpy(to + i * bytes, from + i * pitch, bytes);
  }
}

template <class T>
VECTOR_CLONES void add(acc_t<T>* __restrict sum, const T* __restrict grad, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    sum[i] += widen(grad[i]);
}

template <class T>
VECTOR_CLONES void round_to(T* __restrict to, const acc_t<T>* __restrict sum, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = narrow<T>(sum[i]);
}

} // namespace

void region_crop(const RegionCrop& op) {
  const int64_t crops = op.N * op.K, rows = op.planes * op.size; // of a crop
  const int64_t bytes = op.size * op.pixel, pitch = op.W * op.pixel;
  const std::vector<Window> windows = locate(op);
  for (int64_t i = 0; i < crops; ++i)
    op.valid[i] = windows[size_t(i)].valid;
  if (rows == 0 || bytes == 0)
    return;
  const char* image = static_cast<const char*>(op.image);
  char* out = static_cast<char*>(op.crops);
  const bool streamed = can_stream(bytes, crops * rows * bytes);
  const int64_t grain = std::max<int64_t>(1, kBytesPerThread / bytes);
  parallel(crops * rows, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) { // the rows of one plane of one crop at a time
      const int64_t crop = begin / rows, plane = begin % rows / op.size, y = begin % op.size;
      const int64_t count = std::min(op.size - y, end - begin);
      const Window window = windows[size_t(crop)];
      if (window.valid) {
        const int64_t row = (crop / op.K * op.planes + plane) * op.H + window.y0 + y;
        copy_rows(out + begin * bytes, image + (row * op.W + window.x0) * op.pixel, bytes, pitch,
                  count, streamed);
      } else {
        memset(out + begin * bytes, 0, count * bytes);
      }
      begin += count;
    }
    if (streamed)
      stream_fence();
  });
}

template <class T>
void region_crop_backward(const RegionCropBackward<T>& op) {
  using A = acc_t<T>;
  const int64_t width = op.W * op.across, run = op.size * op.across; // elements of a row
  const int64_t rows = op.N * op.planes * op.H, bytes = width * int64_t(sizeof(T));
  if (rows == 0 || bytes == 0)
    return;
  const std::vector<Window> windows = locate(op);
  const bool streamed = rows * bytes >= kStreamBytes;
  // Where sums have the type of the gradient and stay in the cache, they are made in place.
  const bool in_place = std::is_same_v<A, T> && !streamed;
  const int64_t grain = std::max<int64_t>(1, kBytesPerThread / bytes);
  parallel(rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<A> sums(in_place ? 0 : size_t(width));
    std::vector<T> rounded(streamed && !std::is_same_v<A, T> ? size_t(width) : 0);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / op.H / op.planes, plane = row / op.H % op.planes, y = row % op.H;
      T* target = op.grad_image + row * width;
      A* sum = nullptr; // until a crop covers the row
      for (int64_t crop = n * op.K; crop < (n + 1) * op.K; ++crop) {
        const Window window = windows[size_t(crop)];
        const int64_t line = y - window.y0;
        if (!window.valid || line < 0 || line >= op.size)
          continue;
        if (!sum) {
          if constexpr (std::is_same_v<A, T>)
            sum = in_place ? target : sums.data();
          else
            sum = sums.data();
          memset(sum, 0, size_t(width) * sizeof(A));
        }
        const T* grad = op.grad + ((crop * op.planes + plane) * op.size + line) * run;
        add<T>(sum + window.x0 * op.across, grad, run);
      }
      if (!sum && streamed) {
        stream_zeros(target, bytes);
      } else if (!sum) {
        memset(target, 0, bytes);
      } else if constexpr (std::is_same_v<A, T>) {
        if (streamed)
          stream_anywhere(target, sum, bytes);
      } else if (streamed) {
        round_to(rounded.data(), sum, width);
        stream_anywhere(target, rounded.data(), bytes);
      } else {
        round_to(target, sum, width);
      }
    }
    if (streamed)
      stream_fence();
  });
}

template void region_crop_backward(const RegionCropBackward<float>&);
template void region_crop_backward(const RegionCropBackward<double>&);
template void region_crop_backward(const RegionCropBackward<float16>&);
template void region_crop_backward(const RegionCropBackward<bfloat16>&);

} // namespace pose_kernels::cpu
