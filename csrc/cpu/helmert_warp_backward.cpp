// SPDX-License-Identifier: Apache-2.0
// The backward of helmert_warp on the CPU.
//
// Which part won a voxel is found again rather than kept: that is cheap where 5 % of the voxels are
// covered, and saves a byte per element. Channels never meet except in the gradients of transform
// and mask, so a thread owns a few channels of one sample, walks all voxels in order and adds to
// its channels of the volume's gradient: no atomics, and the same bits for any number of threads.
// Where each part reads is worked out once for all channels, chunk by chunk (part_samples.h).

#include <algorithm>
#include <memory>
#include <type_traits>

#include "../ops/helmert_warp.h"
#include "part_samples.h"

namespace pose_kernels::cpu {
namespace {

constexpr int kLanes = 16;

// A few channels [c, c + width) of one sample, and what is summed over them.
template <class A>
struct Piece {
  int64_t n, c, width;
  Rows<const A> values;          // of the volume, from channel c on
  Rows<A> target;                // of its gradient; data null: not wanted
  std::vector<double> transform; // [P, 3, 4]
  std::vector<A> dots;           // [samples, 8]: sum over channels of the gradient times V(q)
};

template <class T>
struct Walk {
  const HelmertWarpBackward<T>* op;
  const std::vector<SampleRow>* rows;
  const PartSample<acc_t<T>>* samples;
  const int32_t* order;
};

// All rows of a chunk for L channels of a piece, `c` channels into it. `values` has room for the
// values of all parts at a voxel, `moments` for six sums a part; L numbers each.
template <class T, int L>
VECTOR_CLONES void walk_lanes(const Walk<T>& walk, Piece<acc_t<T>>& piece, int64_t c,
                              acc_t<T>* __restrict__ values, acc_t<T>* __restrict__ moments) {
  using A = acc_t<T>;
  using V = lanes_t<A, L>;
  const HelmertWarpBackward<T>& op = *walk.op;
  const int64_t voxels = op.D * op.H * op.W;
  const V zero = V() * A(0);
  const A* volume = piece.values.data + c;
  for (const SampleRow& row : *walk.rows) {
    if (row.n != piece.n)
      continue;
    if (op.grad_transform)
      std::fill(moments, moments + op.P * 6 * L, A(0));
    for (int64_t begin = row.begin; begin < row.end;) {
      const int32_t x = walk.samples[walk.order[begin]].x;
      int64_t end = begin;
      A best[L] = {};
      for (; end < row.end && walk.samples[walk.order[end]].x == x; ++end) {
        const PartSample<A>& s = walk.samples[walk.order[end]];
        V sum = zero;
        for (int k = 0; k < 8; ++k)
          if (s.weight[k] != A(0))
            sum += s.weight[k] * load<A, L>(volume + s.value[k] * piece.values.stride);
        A* value = values + (end - begin) * L;
        store(value, sum);
        if (end == begin)
          memcpy(best, value, sizeof best);
#pragma omp simd
        for (int i = 0; i < L; ++i)
          best[i] = larger(best[i], value[i]);
      }
      const bool some_zero = end - begin < op.P; // a part that is not here takes part with 0
      A left[L];                                 // the gradient, until somebody wins it
      const Planes<const T>& grad = op.grad;
      const int64_t voxel = (row.z * op.H + row.y) * op.W + x;
      const T* from =
          grad.data + piece.n * op.C * voxels + voxel * grad.pixel + (piece.c + c) * grad.channel;
      for (int i = 0; i < L; ++i)
        left[i] = widen(from[i * grad.channel]);
      if (some_zero) {
#pragma omp simd
        for (int i = 0; i < L; ++i)
          best[i] = larger(best[i], A(0));
      }
      bool zero_seen = !some_zero;
      for (int64_t j = begin; j < end; ++j) {
        const PartSample<A>& s = walk.samples[walk.order[j]];
        if (!zero_seen && s.part > j - begin) { // the first missing part comes before this one
#pragma omp simd
          for (int i = 0; i < L; ++i) {
            const A mine = left[i];
            left[i] = best[i] == A(0) ? A(0) : mine;
          }
          zero_seen = true;
        }
        const A* value = values + (j - begin) * L;
        A won[L];
#pragma omp simd
        for (int i = 0; i < L; ++i) {
          const bool wins = (value[i] == best[i]) | (value[i] != value[i]);
          const A mine = left[i];
          won[i] = wins ? mine : A(0);
          left[i] = wins ? A(0) : mine;
        }
        const V g = load<A, L>(won);
        if (piece.target.data)
          for (int k = 0; k < 8; ++k)
            if (s.weight[k] != A(0)) {
              A* to = piece.target.data + s.target[k] * piece.target.stride + c;
              store(to, load<A, L>(to) + s.weight[k] * g);
            }
        if (!op.grad_transform && !op.grad_mask)
          continue;
        V along[3] = {zero, zero, zero};
        for (int k = 0; k < 8; ++k) {
          if (s.value[k] < 0)
            continue;
          const V v = load<A, L>(volume + s.value[k] * piece.values.stride);
          if (op.grad_mask)
            piece.dots[walk.order[j] * 8 + k] += sum_of<A, L>(g * v);
          if (op.grad_transform)
            for (int r = 0; r < 3; ++r)
              along[r] += s.slope[r][k] * v;
        }
        if (op.grad_transform)
          for (int r = 0; r < 3; ++r) {
            const V moved = g * along[r];
            A *by_x = moments + (s.part * 6 + r) * L, *all = by_x + 3 * L;
            store(by_x, load<A, L>(by_x) + moved * A(x));
            store(all, load<A, L>(all) + moved);
          }
      }
      begin = end;
    }
    if (op.grad_transform) // from here on in double: these are sums over the whole volume
      for (int64_t p = 0; p < op.P; ++p)
        for (int r = 0; r < 3; ++r) {
          const A* moment = moments + (p * 6 + r) * L;
          const double by_x = sum_of<A, L>(load<A, L>(moment)),
                       all = sum_of<A, L>(load<A, L>(moment + 3 * L));
          double* to = piece.transform.data() + (p * 3 + r) * 4;
          to[0] += by_x, to[1] += all * double(row.y), to[2] += all * double(row.z), to[3] += all;
        }
  }
}

template <class T>
void walk_piece(const Walk<T>& walk, Piece<acc_t<T>>& piece, int64_t sample_count) {
  using A = acc_t<T>;
  const int64_t P = walk.op->P;
  if (walk.op->grad_mask)
    piece.dots.assign(sample_count * 8, A(0));
  std::vector<A> room(P * 7 * kLanes);
  for_lanes(piece.width, [&](int64_t c, auto lanes) {
    constexpr int L = decltype(lanes)::value;
    walk_lanes<T, L>(walk, piece, c, room.data(), room.data() + P * L);
  });
}

// The gradient of the mask: for each part, over the samples in order.
template <class T>
void add_to_mask(const Walk<T>& walk, const std::vector<Piece<acc_t<T>>>& pieces, int64_t n,
                 int64_t part) {
  using A = acc_t<T>;
  const HelmertWarpBackward<T>& op = *walk.op;
  const VolumeSize size = size_of(op);
  const CellSteps steps(size);
  A* to = op.grad_mask + (n * op.P + part) * size.voxels();
  for (const SampleRow& row : *walk.rows) {
    if (row.n != n)
      continue;
    for (int64_t i = row.begin; i < row.end; ++i) {
      const PartSample<A>& s = walk.samples[i];
      if (s.part != part)
        continue;
      for (int k = 0; k < 8; ++k) {
        A dot = 0;
        for (const auto& piece : pieces)
          if (piece.n == n)
            dot += piece.dots[i * 8 + k];
        if (s.plain[k] != A(0))
          to[s.cell + steps.to[k]] += s.plain[k] * dot;
      }
    }
  }
}

// Everything of samples [first, last), channels [c, c + width).
template <class T>
void walk_samples(const HelmertWarpBackward<T>& op, int64_t first, int64_t last,
                  const std::vector<std::vector<Part<acc_t<T>>>>& parts,
                  std::vector<Piece<acc_t<T>>>& pieces) {
  using A = acc_t<T>;
  const VolumeSize size = size_of(op);
  std::vector<PartSample<A>> samples;
  std::vector<int32_t> order;
  for (std::vector<SampleRow>& rows : chunk_rows(size, first, last, parts)) {
    const int64_t most = rows.back().end;
    if (int64_t(samples.size()) < most)
      samples.resize(most), order.resize(most);
    parallel(int64_t(rows.size()), 1, [&](int64_t begin, int64_t end) {
      RunReads<A> reads;
      std::vector<int32_t> position;
      for (int64_t i = begin; i < end; ++i) {
        const Piece<A>* piece = pieces.data();
        while (piece->n != rows[i].n)
          ++piece;
        sample_row(size, parts[rows[i].n], piece->values.slot, piece->target.slot,
                   op.grad_mask == nullptr, reads, position, rows[i], samples.data(), order.data());
      }
    });
    const Walk<T> walk{&op, &rows, samples.data(), order.data()};
    parallel(int64_t(pieces.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        walk_piece(walk, pieces[i], most);
    });
    if (op.grad_mask)
      parallel((last - first) * op.P, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          add_to_mask(walk, pieces, first + i / op.P, i % op.P);
      });
  }
}

template <class A>
void clear(A* data, int64_t count) {
  parallel(count, 1 << 16, [&](int64_t begin, int64_t end) {
    if (count * int64_t(sizeof(A)) >= kStreamBytes)
      stream_zeros(data + begin, (end - begin) * int64_t(sizeof(A)));
    else
      std::fill(data + begin, data + end, A(0));
    stream_fence();
  });
}

// Rows of the gradient to channels [c, c + width) of sample n; 0 where there is no row.
template <class T>
void unpack(const HelmertWarpBackward<T>& op, const Cover& cover, int64_t n, int64_t c,
            int64_t width, const acc_t<T>* rows) {
  const int64_t plane = op.H * op.W, voxels = op.D * plane;
  const int64_t rows_of_region = rows_at_once(op.W, width);
  const int64_t regions = (op.H + rows_of_region - 1) / rows_of_region; // of a slab
  const Planes<T>& to = op.grad_volume;
  parallel(op.D * regions, 1, [&](int64_t begin, int64_t end) {
    RegionWriter<T> writer(op.N * op.C * voxels * int64_t(sizeof(T)));
    std::vector<int32_t> at, which;
    for (int64_t i = begin; i < end; ++i) {
      at.clear(), which.clear();
      const int64_t y = i % regions * rows_of_region, first = i / regions * plane + y * op.W;
      const int64_t count = std::min(rows_of_region, op.H - y) * op.W;
      int64_t row =
          cover.dense ? first
                      : std::lower_bound(cover.voxels.begin(), cover.voxels.end(), int32_t(first)) -
                            cover.voxels.begin() + 1;
      for (; row < cover.rows && cover.voxel(row) < first + count; ++row) {
        at.push_back(int32_t(cover.voxel(row) - first));
        which.push_back(int32_t(row));
      }
      const int64_t start = n * op.C * voxels + c * to.channel + first * to.pixel;
      writer.write({to.data + start, to.channel, to.pixel}, width, count, at, which, rows, width);
    }
    stream_fence();
  });
}

} // namespace

template <class T>
void helmert_warp_backward(const HelmertWarpBackward<T>& op) {
  using A = acc_t<T>;
  const int64_t voxels = size_of(op).voxels();
  if (op.grad_mask)
    clear(op.grad_mask, op.N * op.P * voxels);
  if (op.N * op.C == 0) {
    if (op.grad_transform)
      std::fill(op.grad_transform, op.grad_transform + op.N * op.P * 12, A(0));
    return;
  }
  std::vector<std::vector<Part<A>>> parts(op.N);
  std::vector<Cover> covers(op.N);
  // In place: rows of channels that need no packing. Never where T is not what is summed in.
  const bool same = std::is_same_v<T, A>;
  const bool planes = same && op.C < kFewChannels && op.volume.pixel == 1 &&
                      (!op.grad_volume.data || op.grad_volume.pixel == 1);
  const bool values_in_place = same && (planes || op.volume.pixel > 1 || op.C == 1);
  const bool target_in_place =
      same && op.grad_volume.data && (planes || op.grad_volume.pixel > 1 || op.C == 1);
  const int64_t channel = planes ? voxels : 1, pixel = planes ? 1 : op.C; // of what is in place
  const bool pack_values = !values_in_place;
  const bool pack_target = op.grad_volume.data && !target_in_place;
  parallel(op.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      parts[n] = active_parts(op, n);
      if (pack_values || pack_target) // the mask's gradient also needs what no mask covers
        covers[n] = Cover::of(op, n, op.grad_mask != nullptr);
    }
  });
  if (target_in_place)
    clear(reinterpret_cast<A*>(op.grad_volume.data), op.N * op.C * voxels);
  Plan plan{op.N, planes ? 1 : op.C};
  if (pack_values || pack_target)
    plan = plan_packing<T>(op, covers, int64_t(pack_values) + int64_t(pack_target));
  std::vector<double> transform(op.grad_transform ? op.N * op.P * 12 : 0, 0.0);
  for (int64_t first = 0; first < op.N; first += plan.samples)
    for (int64_t c = 0; c < op.C; c += plan.width) {
      const int64_t last = first + plan.samples, width = std::min(plan.width, op.C - c);
      // Two pieces or more, for two threads.
      const int64_t lanes = width >= 2 * kLanes ? kLanes : width >= 16 ? 8 : 4;
      int64_t rows = 0;
      for (int64_t n = first; n < last; ++n)
        rows += covers[n].rows;
      const Pages<A> value_rows(pack_values ? rows * width : 0);
      const Pages<A> target_rows(pack_target ? rows * width : 0);
      if (pack_target)
        clear(target_rows.get(), rows * width);
      std::vector<Piece<A>> pieces;
      int64_t at = 0;
      for (int64_t n = first; n < last; ++n) {
        const Cover& cover = covers[n];
        Rows<const A> values{nullptr, pixel, nullptr};
        Rows<A> target{nullptr, pixel, nullptr};
        if (pack_values) {
          pack<T>({op.volume.data + n * op.C * voxels, op.volume.channel, op.volume.pixel}, cover,
                  c, width, value_rows.get() + at);
          values = {value_rows.get() + at, width, cover.slots()};
        } else if constexpr (std::is_same_v<T, A>) {
          values.data = op.volume.data + n * op.C * voxels + c * channel;
        }
        if (pack_target)
          target = {target_rows.get() + at, width, cover.slots()};
        else if constexpr (std::is_same_v<T, A>)
          target.data =
              target_in_place ? op.grad_volume.data + n * op.C * voxels + c * channel : nullptr;
        for (int64_t k = 0; k < width; k += lanes)
          pieces.push_back(
              {n,
               c + k,
               std::min(lanes, width - k),
               Rows<const A>{values.data + k, values.stride, values.slot},
               Rows<A>{target.data ? target.data + k : nullptr, target.stride, target.slot},
               std::vector<double>(op.grad_transform ? op.P * 12 : 0, 0.0),
               {}});
        at += cover.rows * width;
      }
      // A chunk may hold rows of one sample only: its pieces go to different threads.
      std::stable_sort(pieces.begin(), pieces.end(),
                       [](const Piece<A>& a, const Piece<A>& b) { return a.c < b.c; });
      walk_samples(op, first, last, parts, pieces);
      for (const Piece<A>& piece : pieces)
        for (size_t i = 0; i < piece.transform.size(); ++i)
          transform[piece.n * op.P * 12 + i] += piece.transform[i];
      at = 0;
      for (int64_t n = first; pack_target && n < last; ++n) {
        unpack(op, covers[n], n, c, width, target_rows.get() + at);
        at += covers[n].rows * width;
      }
    }
  for (size_t i = 0; i < transform.size(); ++i)
    op.grad_transform[i] = A(transform[i]);
}

template void helmert_warp_backward(const HelmertWarpBackward<float>&);
template void helmert_warp_backward(const HelmertWarpBackward<double>&);
template void helmert_warp_backward(const HelmertWarpBackward<float16>&);
template void helmert_warp_backward(const HelmertWarpBackward<bfloat16>&);

} // namespace pose_kernels::cpu
