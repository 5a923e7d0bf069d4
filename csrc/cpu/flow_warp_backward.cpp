// SPDX-License-Identifier: Apache-2.0
// flow_warp backward on the CPU. Without atomics: same bits for any number of threads.
//
// The gradient of the flow is a gather, over the same pieces as the forward: the products
// of what arrives with the four taps, summed over the channels, then the slopes of the weights.
// That of the image is a scatter. The output pixels are sorted by the upper row of the image they
// read (counting sort; 4 bytes a pixel), and a band of image rows owns the sums of its pixels: it
// takes the lists of its rows and of the row above, in order, geometry recomputed 512 pixels at a
// time. A band stays in the second-level cache while it is added to; half types are summed beside
// it in float.

#include "../ops/flow_warp.h"

#include <memory>
#include <vector>

#include "flow_readers.h"
#include "flow_rows.h"

namespace pose_kernels::cpu {
namespace {

// ---- the flow

// What arrives at the pixels of a piece in a plane, or, where it goes to the second half of the
// channels, in the plane that is `second` elements on.
VECTOR_CLONES void collect(const float* grad, int64_t w, int64_t second, const FlowPiece& piece,
                           const int32_t* side, float* arriving) {
  const int64_t columns = piece.columns;
  for (int64_t r = 0; r < piece.rows; ++r, grad += w, side += columns, arriving += columns) {
    memcpy(arriving, grad, size_t(columns) * sizeof(float));
    for (int64_t k = 0; k < columns && second; ++k)
      arriving[k] = side[k] == 1 ? grad[k + second] : arriving[k];
  }
}

// Products of what arrives in K planes of float with the four taps, added to those of the others.
template <int K>
VECTOR_CLONES void dot_pairs(const float* plane, int64_t source, const float* arriving,
                             const FlowTaps<float>& taps, int64_t count, float (*dots)[kPiece]) {
  for (int64_t i = 0; i < count; i += kGroup) {
    four_t dot[4];
    for (int k = 0; k < 4; ++k)
      dot[k] = load<float, 4>(dots[k] + i);
    const int64_t base[4] = {taps.base[i], taps.base[i + 1], taps.base[i + 2], taps.base[i + 3]};
    for (int p = 0; p < K; ++p) {
      const four_t g = load<float, 4>(arriving + p * kPiece + i);
      four_t tap[4];
      load_pairs(plane + p * source, base, tap[0], tap[1]);
      load_pairs(plane + p * source + taps.down, base, tap[2], tap[3]);
      for (int k = 0; k < 4; ++k)
        dot[k] += g * tap[k];
    }
    for (int k = 0; k < 4; ++k)
      store(dots[k] + i, dot[k]);
  }
}

void dot_planes(const FlowWarpBackward<float>& op, const FlowPiece& piece,
                const FlowTaps<float>& taps, float (*dots)[kPiece]) {
  const int64_t source = op.H * op.W, pixels = op.h * op.w, count = piece.count();
  const int64_t second = op.mode == kFlowExpand ? op.C * pixels : 0;
  const float* plane = op.image.data + piece.n * op.C * source;
  const float* grad =
      op.grad.data + piece.n * op.out_channels() * pixels + piece.y0 * op.w + piece.x0;
  float arriving[4][kPiece] = {};
  memset(dots, 0, 4 * sizeof dots[0]);
  for (int64_t c = 0, read; c < op.C; c += read) {
    read = op.C - c >= 4 ? 4 : op.C - c == 3 ? 3 : 1;
    for (int64_t p = 0; p < read; ++p)
      collect(grad + (c + p) * pixels, op.w, second, piece, taps.side, arriving[p]);
    const auto dot = read == 4 ? dot_pairs<4> : read == 3 ? dot_pairs<3> : dot_pairs<1>;
    dot(plane + c * source, source, arriving[0], taps, count, dots);
  }
}

// The same at one pixel, of C channels `step` and, of what arrives, `grad_step` elements apart.
template <class T>
ALWAYS_INLINE void dot_taps(const T* grad, int64_t grad_step, const T* const* tap, int64_t step,
                            int64_t C, acc_t<T>* dots) {
  using A = acc_t<T>;
  A d0 = 0, d1 = 0, d2 = 0, d3 = 0;
#pragma omp simd reduction(+ : d0, d1, d2, d3)
  for (int64_t c = 0; c < C; ++c) {
    const A g = widen(grad[c * grad_step]);
    d0 += g * widen(tap[0][c * step]);
    d1 += g * widen(tap[1][c * step]);
    d2 += g * widen(tap[2][c * step]);
    d3 += g * widen(tap[3][c * step]);
  }
  dots[0] = d0, dots[1] = d1, dots[2] = d2, dots[3] = d3;
}

// The same pixel by pixel, for any type and format.
template <class T, bool LAST>
VECTOR_CLONES void dot_pixels(const FlowWarpBackward<T>& op, const FlowPiece& piece,
                              const FlowTaps<acc_t<T>>& taps, acc_t<T> (*dots)[kPiece]) {
  using A = acc_t<T>;
  const int64_t source = op.H * op.W, pixels = op.h * op.w, wide = op.out_channels();
  const int64_t step = LAST ? 1 : source, grad_step = LAST ? 1 : pixels, pixel = LAST ? op.C : 1;
  const T* image = op.image.data + piece.n * op.C * source;
  const T* grad = op.grad.data + piece.n * wide * pixels;
  for (int64_t i = 0, r = 0; r < piece.rows; ++r) {
    const int64_t at = (piece.y0 + r) * op.w + piece.x0;
    for (int64_t k = 0; k < piece.columns; ++k, ++i) {
      const T* g = grad + (at + k) * (LAST ? wide : 1) + (taps.side[i] == 1 ? op.C : 0) * grad_step;
      const T* first = image + taps.base[i] * pixel;
      const T* second = first + taps.down * pixel;
      const T* tap[4] = {first, first + taps.right * pixel, second, second + taps.right * pixel};
      A dot[4];
      if (LAST && op.C == 3) // colors: no loop
        dot_taps(g, 1, tap, 1, 3, dot);
      else
        dot_taps(g, grad_step, tap, step, op.C, dot);
      for (int j = 0; j < 4; ++j)
        dots[j][i] = dot[j];
    }
  }
}

// The slopes of the weights times the products. A tap that moves nothing is not there, be it NaN.
template <class A>
VECTOR_CLONES void slopes_times_dots(const FlowTaps<A>& taps, const A (*dots)[kPiece],
                                     int64_t count, A* grad_x, A* grad_y) {
  for (int64_t i = 0; i < count; ++i) {
    A gx = 0, gy = 0;
    for (int k = 0; k < 4; ++k) {
      const A x = taps.slope_x[k][i], y = taps.slope_y[k][i], dot = dots[k][i];
      gx += x != A(0) ? x * dot : A(0);
      gy += y != A(0) ? y * dot : A(0);
    }
    grad_x[i] = gx, grad_y[i] = gy;
  }
}

template <class T>
void flow_gradient(const FlowWarpBackward<T>& op) {
  using A = acc_t<T>;
  const bool last = op.grad.pixel > 1;
  const int64_t pixels = op.h * op.w;
  const FlowPieces pieces(op.h, op.w);
  const int64_t grain = grain_of(pieces.rows * pieces.columns * 4 * (op.C + 8));
  parallel(op.N * pieces.per_sample, grain, [&](int64_t begin, int64_t end) {
    const auto taps = std::make_unique<FlowTaps<A>>();
    A dots[4][kPiece], sums[2][kPiece];
    for (int64_t number = begin; number < end; ++number) {
      const FlowPiece piece = pieces.at(number);
      place_taps<A, true>(op.flow, op.visibility, op.mode, op.border, op.h, op.w, int(op.H),
                          int(op.W), piece, *taps);
      bool done = false;
      if constexpr (std::is_same_v<T, float>)
        if (!last && taps->right)
          dot_planes(op, piece, *taps, dots), done = true;
      if (!done)
        last ? dot_pixels<T, true>(op, piece, *taps, dots)
             : dot_pixels<T, false>(op, piece, *taps, dots);
      slopes_times_dots<A>(*taps, dots, piece.count(), sums[0], sums[1]);
      A* to = op.grad_flow + piece.n * 2 * pixels + piece.y0 * op.w + piece.x0;
      for (int64_t r = 0; r < piece.rows; ++r, to += op.w)
        for (int axis = 0; axis < 2; ++axis)
          memcpy(to + axis * pixels, sums[axis] + r * piece.columns,
                 size_t(piece.columns) * sizeof(A));
    }
  });
}

// ---- the image

// Rows [first, last) of the image gradient of one sample, channels [c, c + width).
struct Band {
  int64_t n, first, last, c, width;
};

// What a band needs to know of up to kPiece readers: their taps, bases from the band's first pixel
// on, none read outside of the band.
template <class A>
struct Spots {
  FlowTaps<A> taps;
  int64_t arriving[kPiece]; // where the gradient of channel 0 is, from the sample's first on
};

template <class T>
VECTOR_CLONES void place_spots(const FlowWarpBackward<T>& op, const Band& band, const int32_t* list,
                               int64_t count, Spots<acc_t<T>>& spots) {
  using A = acc_t<T>;
  const int64_t pixels = op.h * op.w;
  const A* flow_x = op.flow + band.n * 2 * pixels;
  const double per_pixel = 1.0 / double(op.w);
  const int w = int(op.w), W = int(op.W), first = int(band.first), last = int(band.last);
  FlowInputs<A> in;
  for (int64_t i = 0; i < count; ++i) {
    in.x[i] = flow_x[list[i]];
    in.y[i] = flow_x[list[i] + pixels];
    in.taken[i] = 1;
  }
  for (int64_t i = 0; i < count; ++i) {
    in.row[i] = int((double(list[i]) + 0.5) * per_pixel); // exact below 2^31
    in.column[i] = list[i] - in.row[i] * w;
  }
  FlowTaps<A>& taps = spots.taps;
  if (op.border)
    weigh_taps<A, false>(in, W, int(op.H), true, count, taps);
  else
    weigh_taps<A, false>(in, W, int(op.H), false, count, taps);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const int row = taps.row[i];
    const int upper = (row >= first) & (row < last) ? 3 : 0;
    const int lower = (row + 1 >= first) & (row + 1 < last) ? 12 : 0;
    taps.base[i] -= first * W;
    taps.read[i] &= upper | lower;
  }
  const int64_t pixel = op.grad.pixel, second = op.C * op.grad.channel;
  for (int64_t i = 0; i < count; ++i)
    spots.arriving[i] = list[i] * pixel;
  if (op.mode == kFlowExpand)
    for (int64_t i = 0; i < count; ++i)
      spots.arriving[i] += op.visibility[band.n * pixels + list[i]] == 1 ? second : 0;
}

// sums: [K, rows, W]. Several planes at once: a sum waits for its neighbor's.
template <int K, class T>
VECTOR_CLONES void add_planes(const T* grad, int64_t channel, const Spots<acc_t<T>>& spots,
                              int64_t count, int64_t W, acc_t<T>* sums, int64_t plane) {
  using A = acc_t<T>;
  const FlowTaps<A>& taps = spots.taps;
  for (int64_t i = 0; i < count; ++i) {
    const A w[4] = {taps.weight[0][i], taps.weight[1][i], taps.weight[2][i], taps.weight[3][i]};
    const int read = taps.read[i];
    const T* g = grad + spots.arriving[i];
    A* to = sums + taps.base[i];
    for (int k = 0; k < K; ++k, g += channel, to += plane) {
      const A arriving = widen(*g);
      if (read == 15) { // four tests less
        to[0] += w[0] * arriving;
        to[1] += w[1] * arriving;
        to[W] += w[2] * arriving;
        to[W + 1] += w[3] * arriving;
        continue;
      }
      for (int tap = 0; tap < 4; ++tap)
        if (read >> tap & 1)
          to[tap / 2 * W + tap % 2] += w[tap] * arriving;
    }
  }
}

// sums: [rows, W, C].
template <class T>
VECTOR_CLONES void add_pixels(const T* grad, const Spots<acc_t<T>>& spots, int64_t count, int64_t C,
                              int64_t W, acc_t<T>* sums) {
  using A = acc_t<T>;
  const FlowTaps<A>& taps = spots.taps;
  for (int64_t i = 0; i < count; ++i) {
    const T* g = grad + spots.arriving[i];
    for (int k = 0; k < 4; ++k) {
      if (!(taps.read[i] >> k & 1))
        continue;
      A* to = sums + (taps.base[i] + k / 2 * W + k % 2) * C;
      const A w = taps.weight[k][i];
      if (C == 3) { // colors: no loop
        for (int c = 0; c < 3; ++c)
          to[c] += w * widen(g[c]);
        continue;
      }
#pragma omp simd
      for (int64_t c = 0; c < C; ++c)
        to[c] += w * widen(g[c]);
    }
  }
}

template <class T>
VECTOR_CLONES void narrow_all(const acc_t<T>* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = narrow<T>(from[i]);
}

template <class T>
void fill_band(const FlowWarpBackward<T>& op, const Band& band, const Readers& readers,
               Spots<acc_t<T>>& spots, std::vector<acc_t<T>>& buffer) {
  using A = acc_t<T>;
  constexpr bool direct = std::is_same_v<T, A>;
  const bool last = op.grad_image.pixel > 1;
  // Channels last: one run of rows x W x C; contiguous: `width` planes, rows x W of each.
  const int64_t source = op.H * op.W, rows = band.last - band.first;
  const int64_t run = rows * op.W * (last ? op.C : 1), runs = last ? 1 : band.width;
  T* out = op.grad_image.data + band.n * op.C * source + band.c * op.grad_image.channel +
           band.first * op.W * op.grad_image.pixel;
  if (!direct)
    buffer.assign(size_t(run * runs), A(0));
  auto sums = [&](int64_t r) -> A* {
    if constexpr (direct)
      return out + r * source;
    else
      return buffer.data() + r * run;
  };
  if (direct)
    for (int64_t r = 0; r < runs; ++r)
      memset(static_cast<void*>(sums(r)), 0, size_t(run) * sizeof(A));

  const T* grad =
      op.grad.data + band.n * op.out_channels() * op.h * op.w + band.c * op.grad.channel;
  const int64_t low = std::max<int64_t>(band.first - 1, 0),
                high = std::min(band.last, readers.bins);
  const int64_t begin = readers.begin[band.n * readers.bins + low];
  const int64_t end = readers.begin[band.n * readers.bins + high];
  for (int64_t i = begin; i < end; i += kPiece) {
    const int64_t count = std::min(kPiece, end - i);
    place_spots(op, band, readers.pixels.get() + i, count, spots);
    if (last)
      add_pixels(grad, spots, count, op.C, op.W, sums(0));
    else
      for (int64_t r = 0; r < runs;) {
        const int64_t left = runs - r, plane = direct ? source : run, step = op.grad.channel;
        const T* from = grad + r * step;
        if (left >= 4)
          add_planes<4>(from, step, spots, count, op.W, sums(r), plane), r += 4;
        else if (left == 3)
          add_planes<3>(from, step, spots, count, op.W, sums(r), plane), r += 3;
        else
          add_planes<1>(from, step, spots, count, op.W, sums(r), plane), r += 1;
      }
  }
  if (!direct)
    for (int64_t r = 0; r < runs; ++r)
      narrow_all<T>(buffer.data() + r * run, run, out + r * source);
}

template <class T>
void image_gradient(const FlowWarpBackward<T>& op) {
  using A = acc_t<T>;
  if (op.C == 0)
    return;
  const Readers readers = sort_readers(op);
  const bool last = op.grad_image.pixel > 1;
  constexpr int64_t planes = 16, cache = 1 << 19; // channels and bytes of a band
  const int64_t width = last ? op.C : std::min(op.C, planes);
  const int64_t blocks = (op.C + width - 1) / width;
  const int64_t fit = cache / (op.W * width * int64_t(sizeof(A)));
  const int64_t rows = std::max<int64_t>(1, std::min(fit, (op.H + 7) / 8));
  const int64_t bands = (op.H + rows - 1) / rows;
  const int64_t grain = grain_of(rows * op.W * (op.C + 8));
  parallel(op.N * blocks * bands, grain, [&](int64_t begin, int64_t end) {
    const auto spots = std::make_unique<Spots<A>>();
    std::vector<A> buffer;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % bands * rows, c = i / bands % blocks * width;
      const Band band{i / bands / blocks, first, std::min(first + rows, op.H), c,
                      std::min(width, op.C - c)};
      fill_band(op, band, readers, *spots, buffer);
    }
  });
}

} // namespace

template <class T>
void flow_warp_backward(const FlowWarpBackward<T>& op) {
  if (op.grad_flow)
    flow_gradient(op);
  if (op.grad_image.data)
    image_gradient(op);
}

template void flow_warp_backward(const FlowWarpBackward<float>&);
template void flow_warp_backward(const FlowWarpBackward<double>&);
template void flow_warp_backward(const FlowWarpBackward<float16>&);
template void flow_warp_backward(const FlowWarpBackward<bfloat16>&);

} // namespace pose_kernels::cpu
