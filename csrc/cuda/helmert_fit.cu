// SPDX-License-Identifier: Apache-2.0
// helmert_fit: thread = fit, everything in double registers (csrc/math/similarity.h).
//
// A block is 64 fits. Their points come through shared memory, a chunk at a time, so that global
// loads and stores are coalesced although a thread walks along a row; rows are padded to an odd
// length, and 32 threads that read the same column of 32 rows meet no bank conflict. With K up to
// the chunk (about 16) points are read once, else once per pass: means, moments, and in the
// backward the gradients, which go back the same way.
//
// Per fit 28 K bytes in float32 and about 2,500 double operations, the Jacobi sweeps foremost: one
// float quotient per rotation and no square root. No atomics, no local memory; a fit's bits do not
// depend on its neighbors.
#include "../math/similarity.h"
#include "../ops/helmert_fit.h"
#include "launch.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kThreads = 64;
constexpr int kBlocks = 6; // per SM: up to 168 registers, or some architectures spill at 128
constexpr int64_t kSharedBytes = 48 * 1024; // what needs no permission

// Points of 64 fits in shared memory: source and target [64, 3 n], weight [64, n], rows padded.
struct Stage {
  int chunk;        // points at a time
  int wide, narrow; // elements from one row to the next

  template <class T>
  static Stage plan(int64_t K) {
    const int64_t row = kSharedBytes / (kThreads * int64_t(sizeof(T))); // 7 n + 3 at most
    const int64_t most = (row - 3) / 7;
    const int n = int(K < most ? K : most);
    return {n, (3 * n) | 1, n | 1};
  }
  template <class T>
  int64_t bytes() const {
    return kThreads * int64_t(2 * wide + narrow) * int64_t(sizeof(T));
  }
};

// move(row, column) for all of rows x width, by all threads of the block, neighbors side by side.
template <class Move>
__device__ __forceinline__ void for_elements(int rows, int width, const Move& move) {
  const int step_rows = kThreads / width, step_columns = kThreads % width;
  int row = int(threadIdx.x) / width, column = int(threadIdx.x) % width;
#pragma unroll 4
  while (row < rows) {
    move(row, column);
    row += step_rows;
    column += step_columns;
    if (column >= width) {
      column -= width;
      ++row;
    }
  }
}

template <class T>
struct Points {
  const T* source; // [rows, K, 3]     of this block's fits
  const T* target; // [rows, K, 3]
  const T* weight; // [rows, K]
  int64_t K;
  int rows;
  Stage stage;
  T* x; // shared
  T* y;
  T* w;

  __device__ __forceinline__ void load(int64_t first, int n) const {
    __syncthreads(); // the chunk before has been read
    for_elements(rows, 3 * n, [&](int row, int column) {
      const int64_t at = (row * K + first) * 3 + column;
      x[row * stage.wide + column] = source[at];
      y[row * stage.wide + column] = target[at];
    });
    for_elements(rows, n, [&](int row, int column) {
      w[row * stage.narrow + column] = weight[row * K + first + column];
    });
    __syncthreads();
  }

  // Point k of the chunk, of this thread's fit; returns its weight.
  __device__ __forceinline__ double point(int k, double px[3], double py[3]) const {
    const T* from = x + threadIdx.x * stage.wide + 3 * k;
    const T* to = y + threadIdx.x * stage.wide + 3 * k;
    px[0] = from[0], px[1] = from[1], px[2] = from[2];
    py[0] = to[0], py[1] = to[1], py[2] = to[2];
    const double weight = fit_weight(w[threadIdx.x * stage.narrow + k]);
    fit_point(weight, px, py);
    return weight;
  }
};

template <class T, class Op>
__device__ __forceinline__ Points<T> points_of(const Op& a, Stage stage) {
  const int64_t first = int64_t(blockIdx.x) * kThreads;
  const int rows = a.B - first < kThreads ? int(a.B - first) : kThreads;
  T* shared = reinterpret_cast<T*>(dynamic_shared());
  return {a.source + first * a.K * 3,
          a.target + first * a.K * 3,
          a.weight + first * a.K,
          a.K,
          rows,
          stage,
          shared,
          shared + kThreads * stage.wide,
          shared + 2 * kThreads * stage.wide};
}

__device__ __forceinline__ void center(const FitMoments& m, double x[3], double y[3]) {
#pragma unroll
  for (int i = 0; i < 3; ++i)
    x[i] -= m.x[i], y[i] -= m.y[i];
}

// body(k, n) over the chunks of the points, each of them in shared memory.
template <class T, class Body>
__device__ __forceinline__ void for_chunks(const Points<T>& points, bool loaded, const Body& body) {
  for (int64_t first = 0; first < points.K; first += points.stage.chunk) {
    const int64_t left = points.K - first;
    const int n = left < points.stage.chunk ? int(left) : points.stage.chunk;
    if (!loaded)
      points.load(first, n);
    body(first, n);
  }
}

template <class T>
__device__ __forceinline__ FitMoments moments_of(const Points<T>& points, bool own) {
  FitMoments m;
  const bool once = points.K <= points.stage.chunk;
  for_chunks(points, false, [&](int64_t, int n) {
    for (int k = 0; own && k < n; ++k) {
      double x[3], y[3];
      const double w = points.point(k, x, y);
      add_to_means(w, x, y, m);
    }
  });
  finish_means(m);
  for_chunks(points, once, [&](int64_t, int n) {
    for (int k = 0; own && k < n; ++k) {
      double x[3], y[3];
      const double w = points.point(k, x, y);
      center(m, x, y);
      add_to_moments(w, x, y, m);
    }
  });
  finish_moments(m);
  return m;
}

template <class T>
__device__ __forceinline__ void eigenvectors(const FitMoments& m, const FitCase& about,
                                             double a[10], double v[16]) {
  horn_matrix(m, about, a);
#pragma unroll
  for (int i = 0; i < 16; ++i)
    v[i] = i % 5 == 0 ? 1.0 : 0.0;
#pragma unroll 1
  for (int sweep = 0; sweep < kMostSweeps; ++sweep)
    if (jacobi_sweep(a, v, FitTolerance<T>::zero))
      break;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    helmert_fit_kernel(HelmertFit<T> a, Stage stage) {
  const Points<T> points = points_of<T>(a, stage);
  const bool own = int(threadIdx.x) < points.rows;
  const FitMoments m = moments_of(points, own);
  if (!own)
    return;
  const FitCase about = fit_case<T>(m);
  double e[10], v[16], out[12];
  eigenvectors<T>(m, about, e, v);
  Fit fit;
  solve_fit(m, about, e, v, fit_mask(a.scale), fit);
  transform_of(m, about, fit, out);
  T* transform = a.transform + (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 12;
#pragma unroll
  for (int i = 0; i < 12; ++i)
    transform[i] = T(out[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    helmert_fit_backward_kernel(HelmertFitBackward<T> a, Stage stage) {
  const Points<T> points = points_of<T>(a, stage);
  const bool own = int(threadIdx.x) < points.rows, once = points.K <= stage.chunk;
  const FitMoments m = moments_of(points, own);
  FitGradient g;
  const int64_t first_fit = int64_t(blockIdx.x) * kThreads;
  if (own) {
    const FitCase about = fit_case<T>(m);
    double e[10], v[16], in[12];
    eigenvectors<T>(m, about, e, v);
    Fit fit;
    solve_fit(m, about, e, v, fit_mask(a.scale), fit);
    const T* grad = a.grad + (first_fit + threadIdx.x) * 12;
#pragma unroll
    for (int i = 0; i < 12; ++i)
      in[i] = grad[i];
    moment_gradient(m, about, fit, v, fit_mask(a.scale), in, g);
  }
  T* to_source = a.grad_source + first_fit * a.K * 3;
  T* to_target = a.grad_target + first_fit * a.K * 3;
  T* to_weight = a.grad_weight + first_fit * a.K;
  for_chunks(points, once, [&](int64_t first, int n) {
    for (int k = 0; own && k < n; ++k) { // in place: a thread reads and writes its own row
      double x[3], y[3], to_x[3], to_y[3], to_w;
      const double w = points.point(k, x, y);
      center(m, x, y);
      point_gradient(g, w, x, y, to_x, to_y, to_w);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        points.x[threadIdx.x * stage.wide + 3 * k + i] = T(to_x[i]);
        points.y[threadIdx.x * stage.wide + 3 * k + i] = T(to_y[i]);
      }
      points.w[threadIdx.x * stage.narrow + k] = T(to_w);
    }
    __syncthreads();
    for_elements(points.rows, 3 * n, [&](int row, int column) {
      const int64_t at = (row * a.K + first) * 3 + column;
      to_source[at] = points.x[row * stage.wide + column];
      to_target[at] = points.y[row * stage.wide + column];
    });
    for_elements(points.rows, n, [&](int row, int column) {
      to_weight[row * a.K + first + column] = points.w[row * stage.narrow + column];
    });
  });
}

} // namespace

template <class T>
void helmert_fit(const HelmertFit<T>& a, void* stream) {
  const Stage stage = Stage::plan<T>(a.K);
  launch("helmert_fit", helmert_fit_kernel<T>, blocks_for(a.B, kThreads), kThreads,
         stage.bytes<T>(), stream, a, stage);
}

template <class T>
void helmert_fit_backward(const HelmertFitBackward<T>& a, void* stream) {
  const Stage stage = Stage::plan<T>(a.K);
  launch("helmert_fit_backward", helmert_fit_backward_kernel<T>, blocks_for(a.B, kThreads),
         kThreads, stage.bytes<T>(), stream, a, stage);
}

template void helmert_fit(const HelmertFit<float>&, void*);
template void helmert_fit(const HelmertFit<double>&, void*);
template void helmert_fit_backward(const HelmertFitBackward<float>&, void*);
template void helmert_fit_backward(const HelmertFitBackward<double>&, void*);

} // namespace pose_kernels::cuda
