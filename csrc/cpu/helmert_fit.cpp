// SPDX-License-Identifier: Apache-2.0
// helmert_fit on the CPU: 16 fits at a time, one per vector lane, all in double.
//
// The points of 16 fits are transposed into lanes, in chunks that stay in the cache; then every
// step of csrc/math/similarity.h is a loop over the lanes without a branch. The sweeps stop when no
// lane needs another one: a lane that is done is not changed by more, so a result depends neither
// on its neighbors nor on the number of threads.

#include "../ops/helmert_fit.h"

#include <algorithm>

#include "../math/similarity.h"
#include "parallel.h"

#if defined(__GNUC__)
#define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE inline
#endif

namespace pose_kernels::cpu {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kChunk = 32; // points of a fit that are in lanes at a time

template <class T>
struct alignas(64) Chunk {
  T x[kChunk * 3][kLanes], y[kChunk * 3][kLanes], w[kChunk][kLanes];
};

struct alignas(64) Lanes {
  double W[kLanes], x[3][kLanes], y[3][kLanes], M[9][kLanes], X[kLanes], Y[kLanes];
  double a[10][kLanes], v[16][kLanes];
};

struct alignas(64) GradientLanes {
  double g[12][kLanes]; // what arrives
  FitMask flows[kLanes];
  double M[9][kLanes], X[kLanes], x[3][kLanes], y[3][kLanes], share[kLanes];
};

// to[j, i] = from[i, j] for i, j < 4: rows `step` apart in, `to_step` apart out.
template <class T>
ALWAYS_INLINE void transpose4(const T* from, int64_t step, T* to, int64_t to_step) {
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
  Four a, b, c, d;
  memcpy(&a, from, sizeof a), memcpy(&b, from + step, sizeof b);
  memcpy(&c, from + 2 * step, sizeof c), memcpy(&d, from + 3 * step, sizeof d);
  const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5),
             ba = __builtin_shufflevector(a, b, 2, 6, 3, 7),
             cd = __builtin_shufflevector(c, d, 0, 4, 1, 5),
             dc = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab, cd, 0, 1, 4, 5), b = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  c = __builtin_shufflevector(ba, dc, 0, 1, 4, 5), d = __builtin_shufflevector(ba, dc, 2, 3, 6, 7);
  memcpy(to, &a, sizeof a), memcpy(to + to_step, &b, sizeof b);
  memcpy(to + 2 * to_step, &c, sizeof c), memcpy(to + 3 * to_step, &d, sizeof d);
#else
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      to[j * to_step + i] = from[i * step + j];
#endif
}

// to[j, i] = from[i, j] for i < rows, j < columns.
template <class T>
ALWAYS_INLINE void transpose(const T* from, int64_t step, int64_t rows, int64_t columns, T* to,
                             int64_t to_step) {
  for (int64_t i = 0; i + 4 <= rows; i += 4)
    for (int64_t j = 0; j + 4 <= columns; j += 4)
      transpose4(from + i * step + j, step, to + j * to_step + i, to_step);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = i < rows / 4 * 4 ? columns / 4 * 4 : 0; j < columns; ++j)
      to[j * to_step + i] = from[i * step + j];
}

// `count` fits of n numbers, `stride` apart; the lanes beyond repeat the last one.
template <class T>
ALWAYS_INLINE void into_lanes(const T* from, int64_t count, int64_t stride, int64_t n,
                              T (*to)[kLanes]) {
  transpose(from, stride, count, n, to[0], kLanes);
  if (count < kLanes)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = count; l < kLanes; ++l)
        to[j][l] = to[j][count - 1];
}

template <class T>
ALWAYS_INLINE void out_of_lanes(const T (*from)[kLanes], int64_t count, int64_t stride, int64_t n,
                                T* to) {
  transpose(from[0], kLanes, n, count, to, stride);
}

template <class T>
struct Points {
  const T *source, *target, *weight; // of the first fit of the block
  int64_t K, count;
};

template <class T>
ALWAYS_INLINE void load(const Points<T>& p, int64_t k, int64_t n, Chunk<T>& chunk) {
  into_lanes(p.source + 3 * k, p.count, 3 * p.K, 3 * n, chunk.x);
  into_lanes(p.target + 3 * k, p.count, 3 * p.K, 3 * n, chunk.y);
  into_lanes(p.weight + k, p.count, p.K, n, chunk.w);
}

// Point k of the chunk in lane l; returns its weight.
template <class T>
ALWAYS_INLINE double point(const Chunk<T>& chunk, int64_t k, int l, double x[3], double y[3]) {
  x[0] = chunk.x[3 * k][l], x[1] = chunk.x[3 * k + 1][l], x[2] = chunk.x[3 * k + 2][l];
  y[0] = chunk.y[3 * k][l], y[1] = chunk.y[3 * k + 1][l], y[2] = chunk.y[3 * k + 2][l];
  const double w = fit_weight(chunk.w[k][l]);
  fit_point(w, x, y);
  return w;
}

// The same relative to the means.
template <class T>
ALWAYS_INLINE double centered(const Chunk<T>& chunk, const Lanes& m, int64_t k, int l, double x[3],
                              double y[3]) {
  const double w = point(chunk, k, l, x, y);
  x[0] -= m.x[0][l], x[1] -= m.x[1][l], x[2] -= m.x[2][l];
  y[0] -= m.y[0][l], y[1] -= m.y[1][l], y[2] -= m.y[2][l];
  return w;
}

ALWAYS_INLINE FitMoments moments_of(const Lanes& m, int l) {
  FitMoments one;
  one.W = m.W[l];
  one.x[0] = m.x[0][l], one.x[1] = m.x[1][l], one.x[2] = m.x[2][l];
  one.y[0] = m.y[0][l], one.y[1] = m.y[1][l], one.y[2] = m.y[2][l];
  one.M[0] = m.M[0][l], one.M[1] = m.M[1][l], one.M[2] = m.M[2][l];
  one.M[3] = m.M[3][l], one.M[4] = m.M[4][l], one.M[5] = m.M[5][l];
  one.M[6] = m.M[6][l], one.M[7] = m.M[7][l], one.M[8] = m.M[8][l];
  one.X = m.X[l], one.Y = m.Y[l];
  return one;
}

ALWAYS_INLINE void keep_means(const FitMoments& one, Lanes& m, int l) {
  m.W[l] = one.W;
  m.x[0][l] = one.x[0], m.x[1][l] = one.x[1], m.x[2][l] = one.x[2];
  m.y[0][l] = one.y[0], m.y[1][l] = one.y[1], m.y[2][l] = one.y[2];
}

ALWAYS_INLINE void keep_moments(const FitMoments& one, Lanes& m, int l) {
  m.M[0][l] = one.M[0], m.M[1][l] = one.M[1], m.M[2][l] = one.M[2];
  m.M[3][l] = one.M[3], m.M[4][l] = one.M[4], m.M[5][l] = one.M[5];
  m.M[6][l] = one.M[6], m.M[7][l] = one.M[7], m.M[8][l] = one.M[8];
  m.X[l] = one.X, m.Y[l] = one.Y;
}

template <int N>
ALWAYS_INLINE void take(const double (*from)[kLanes], int l, double* to) {
  FIT_UNROLL
  for (int i = 0; i < N; ++i)
    to[i] = from[i][l];
}

template <int N>
ALWAYS_INLINE void keep(const double* from, double (*to)[kLanes], int l) {
  FIT_UNROLL
  for (int i = 0; i < N; ++i)
    to[i][l] = from[i];
}

// Moments of all lanes; the chunk holds the points afterwards where there is only one.
template <class T>
ALWAYS_INLINE void moments(const Points<T>& p, Chunk<T>& chunk, Lanes& m) {
  m = Lanes{};
  for (int64_t first = 0; first < p.K; first += kChunk) {
    const int64_t n = std::min(kChunk, p.K - first);
    load(p, first, n, chunk);
    for (int64_t k = 0; k < n; ++k) {
#pragma GCC ivdep
      for (int l = 0; l < kLanes; ++l) {
        double x[3], y[3];
        const double w = point(chunk, k, l, x, y);
        FitMoments one = moments_of(m, l);
        add_to_means(w, x, y, one);
        keep_means(one, m, l);
      }
    }
  }
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    FitMoments one = moments_of(m, l);
    finish_means(one);
    keep_means(one, m, l);
  }
  for (int64_t first = 0; first < p.K; first += kChunk) {
    const int64_t n = std::min(kChunk, p.K - first);
    if (p.K > kChunk)
      load(p, first, n, chunk);
    for (int64_t k = 0; k < n; ++k) {
#pragma GCC ivdep
      for (int l = 0; l < kLanes; ++l) {
        double x[3], y[3];
        const double w = centered(chunk, m, k, l, x, y);
        FitMoments one = moments_of(m, l);
        add_to_moments(w, x, y, one);
        keep_moments(one, m, l);
      }
    }
  }
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    FitMoments one = moments_of(m, l);
    finish_moments(one);
    keep_moments(one, m, l);
  }
}

// Eigenvalues of Horn's matrices on the diagonals of a, eigenvectors in v.
template <class T>
ALWAYS_INLINE void eigenvectors(Lanes& m) {
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    const FitMoments one = moments_of(m, l);
    double a[10];
    horn_matrix(one, fit_case<T>(one), a);
    keep<10>(a, m.a, l);
    m.v[0][l] = m.v[5][l] = m.v[10][l] = m.v[15][l] = 1.0; // the rest is 0 already
  }
  for (int sweep = 0; sweep < kMostSweeps; ++sweep) {
    int unfinished = 0;
#pragma GCC ivdep
    for (int l = 0; l < kLanes; ++l) {
      double a[10], v[16];
      take<10>(m.a, l, a);
      take<16>(m.v, l, v);
      unfinished += jacobi_sweep(a, v, FitTolerance<T>::zero) ? 0 : 1;
      keep<10>(a, m.a, l);
      keep<16>(v, m.v, l);
    }
    if (unfinished == 0)
      break;
  }
}

template <class T>
VECTOR_CLONES void fit_block(const HelmertFit<T>& op, int64_t first, int64_t count) {
  Chunk<T> chunk;
  Lanes m;
  const Points<T> points{op.source + 3 * first * op.K, op.target + 3 * first * op.K,
                         op.weight + first * op.K, op.K, count};
  moments(points, chunk, m);
  eigenvectors<T>(m);
  alignas(64) T transform[12][kLanes];
  const FitMask scale = fit_mask(op.scale);
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    const FitMoments one = moments_of(m, l);
    const FitCase about = fit_case<T>(one);
    double a[10], v[16], out[12];
    take<10>(m.a, l, a);
    take<16>(m.v, l, v);
    Fit fit;
    solve_fit(one, about, a, v, scale, fit);
    transform_of(one, about, fit, out);
    FIT_UNROLL
    for (int i = 0; i < 12; ++i)
      transform[i][l] = T(out[i]);
  }
  out_of_lanes<T>(transform, count, 12, 12, op.transform + 12 * first);
}

template <class T>
VECTOR_CLONES void backward_block(const HelmertFitBackward<T>& op, int64_t first, int64_t count) {
  Chunk<T> chunk;
  Lanes m;
  GradientLanes g;
  alignas(64) T arriving[12][kLanes];
  const int64_t K = op.K;
  const FitMask scale = fit_mask(op.scale);
  const Points<T> points{op.source + 3 * first * K, op.target + 3 * first * K,
                         op.weight + first * K, K, count};
  moments(points, chunk, m);
  eigenvectors<T>(m);
  into_lanes(op.grad + 12 * first, count, 12, 12, arriving);
#pragma GCC ivdep
  for (int l = 0; l < kLanes; ++l) {
    const FitMoments one = moments_of(m, l);
    const FitCase about = fit_case<T>(one);
    double a[10], v[16], in[12];
    take<10>(m.a, l, a);
    take<16>(m.v, l, v);
    FIT_UNROLL
    for (int i = 0; i < 12; ++i)
      in[i] = double(arriving[i][l]);
    Fit fit;
    FitGradient gradient;
    solve_fit(one, about, a, v, scale, fit);
    moment_gradient(one, about, fit, v, scale, in, gradient);
    g.flows[l] = gradient.flows;
    keep<9>(gradient.M, g.M, l);
    keep<3>(gradient.x, g.x, l);
    keep<3>(gradient.y, g.y, l);
    g.X[l] = gradient.X, g.share[l] = gradient.share;
  }
  for (int64_t from = 0; from < K; from += kChunk) {
    const int64_t n = std::min(kChunk, K - from);
    if (K > kChunk)
      load(points, from, n, chunk);
    for (int64_t k = 0; k < n; ++k) {
#pragma GCC ivdep
      for (int l = 0; l < kLanes; ++l) {
        double x[3], y[3], to_x[3], to_y[3], to_w;
        const double w = centered(chunk, m, k, l, x, y);
        FitGradient gradient;
        gradient.flows = g.flows[l];
        take<9>(g.M, l, gradient.M);
        take<3>(g.x, l, gradient.x);
        take<3>(g.y, l, gradient.y);
        gradient.X = g.X[l], gradient.share = g.share[l];
        point_gradient(gradient, w, x, y, to_x, to_y, to_w);
        chunk.x[3 * k][l] = T(to_x[0]), chunk.y[3 * k][l] = T(to_y[0]);
        chunk.x[3 * k + 1][l] = T(to_x[1]), chunk.y[3 * k + 1][l] = T(to_y[1]);
        chunk.x[3 * k + 2][l] = T(to_x[2]), chunk.y[3 * k + 2][l] = T(to_y[2]);
        chunk.w[k][l] = T(to_w);
      }
    }
    const int64_t at = first * K + from;
    out_of_lanes<T>(chunk.x, count, 3 * K, 3 * n, op.grad_source + 3 * at);
    out_of_lanes<T>(chunk.y, count, 3 * K, 3 * n, op.grad_target + 3 * at);
    out_of_lanes<T>(chunk.w, count, K, n, op.grad_weight + at);
  }
}

// Blocks a thread must have to be worth starting: some 20 microseconds of work.
int64_t grain(int64_t K) {
  return std::max<int64_t>(1, 512 / (32 + K));
}

} // namespace

template <class T>
void helmert_fit(const HelmertFit<T>& op) {
  parallel((op.B + kLanes - 1) / kLanes, grain(op.K), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      fit_block(op, block * kLanes, std::min<int64_t>(kLanes, op.B - block * kLanes));
  });
}

template <class T>
void helmert_fit_backward(const HelmertFitBackward<T>& op) {
  parallel((op.B + kLanes - 1) / kLanes, grain(op.K), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      backward_block(op, block * kLanes, std::min<int64_t>(kLanes, op.B - block * kLanes));
  });
}

#define INSTANTIATE(T)                                                                             \
  template void helmert_fit(const HelmertFit<T>&);                                                 \
  template void helmert_fit_backward(const HelmertFitBackward<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

} // namespace pose_kernels::cpu
