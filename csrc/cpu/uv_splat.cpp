// SPDX-License-Identifier: Apache-2.0
// uv_splat on the CPU.
//
// A photo touches about 4 % of its atlas, so nearly all of the work is writing zeros: every byte of
// the output is written exactly once, past the cache, and everything else happens in a few KB.
//   1. Sort the foreground pixels by (image, part), in pixel order (counting sort, in parallel).
//   2. One task per tile. The tile is cut into blocks of 16 texels; blocks that a pixel touches get a
//      slot in a compact accumulator (the whole of it fits L1 or L2), all others stay unmapped.
//   3. Accumulate D, turn it into normalized weights, accumulate the channels, and walk the tile
//      in order: mapped blocks are copied out, runs of unmapped ones are zeros.
// One task owns a tile and adds in pixel order: the same bits for any number of threads.
//
// The backward is a gather, in uv_gather.cpp.

#include "../ops/uv_splat.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "../math/bilinear.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

constexpr int kBlock = 16;              // texels
constexpr int64_t kChunk = 8192;        // pixels sorted by one task
constexpr int64_t kPlanarChannels = 16; // channels accumulated together on a planar atlas

template <class A>
struct Record {
  int32_t pixel;
  int32_t texel; // of corner 0
  A ax, ay;
};

// Foreground pixels grouped by tile, in pixel order; tile t owns records[begin[t] .. begin[t+1]).
template <class A>
struct Partition {
  std::unique_ptr<Record<A>[]> records;
  std::vector<int64_t> begin;
};

template <class T>
Partition<acc_t<T>> partition(const UvSplat<T>& op) {
  using A = acc_t<T>;
  const int64_t pixels = op.H * op.W, chunks = (pixels + kChunk - 1) / kChunk;
  const int64_t tiles = op.N * op.P;
  std::vector<int64_t> next(op.N * chunks * op.P, 0); // [N, chunks, P]: counts, then positions

  auto for_each_pixel = [&](int64_t job, auto&& visit) {
    const int64_t n = job / chunks, first = job % chunks * kChunk;
    const int64_t last = std::min(first + kChunk, pixels);
    const A* u = op.uv + n * 2 * pixels;
    const A* v = u + pixels;
    for (int64_t p = first; p < last; ++p) {
      const int part = part_at(op.part, n * pixels + p, int(op.P));
      TilePoint<A> point;
      if (part > 0 && tile_point(u[p], v[p], int(op.S), point))
        visit(part - 1, Record<A>{int32_t(p), int32_t(point.y0 * op.S + point.x0), point.ax, point.ay});
    }
  };
  parallel(op.N * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      int64_t* count = &next[job * op.P];
      for_each_pixel(job, [&](int tile, const Record<A>&) { ++count[tile]; });
    }
  });

  Partition<A> sorted;
  sorted.begin.resize(tiles + 1);
  int64_t total = 0;
  for (int64_t n = 0; n < op.N; ++n)
    for (int64_t i = 0; i < op.P; ++i) {
      sorted.begin[n * op.P + i] = total;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int64_t& position = next[(n * chunks + chunk) * op.P + i];
        const int64_t count = position;
        position = total;
        total += count;
      }
    }
  sorted.begin[tiles] = total;
  sorted.records.reset(new Record<A>[total]);
  parallel(op.N * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      int64_t* position = &next[job * op.P];
      for_each_pixel(job, [&](int tile, const Record<A>& record) {
        sorted.records[position[tile]++] = record;
      });
    }
  });
  return sorted;
}

// One thread's workspace, reused from tile to tile.
template <class A>
struct Workspace {
  explicit Workspace(int64_t blocks) : slot(blocks, -1) {}
  std::vector<int32_t> slot;     // [blocks of a tile]: place in the accumulators, or -1
  std::vector<int32_t> offset;   // [records, 4]: slot * 16 + texel in block
  std::vector<A> weight;         // [records, 4]
  std::vector<A> total_weight;   // [slots, 16]
  std::vector<A> total;          // planar: [channels, slots, 16]; channels last: [slots, 16, C]
};

// Writes `width` values per texel, in texel order, from the mapped blocks [slots, 16, width].
template <class T>
void emit(T* out, const acc_t<T>* total, const std::vector<int32_t>& slot, int64_t texels,
          int64_t width, bool streamed) {
  const int64_t blocks = int64_t(slot.size());
  auto put = [&](int64_t texel, const T* source, int64_t count) {
    T* target = out + texel * width;
    const int64_t bytes = count * width * int64_t(sizeof(T));
    if (streamed)
      stream(target, source, bytes);
    else
      source ? memcpy(target, source, bytes) : memset(target, 0, bytes);
  };
  for (int64_t b = 0; b < blocks;) {
    int64_t end = b + 1;
    if (slot[b] < 0) {
      while (end < blocks && slot[end] < 0)
        ++end;
      put(b * kBlock, nullptr, std::min(end * kBlock, texels) - b * kBlock);
    } else {
      const int64_t count = std::min<int64_t>(kBlock, texels - b * kBlock);
      const acc_t<T>* source = total + int64_t(slot[b]) * kBlock * width;
      if constexpr (std::is_same_v<T, acc_t<T>>) {
        put(b * kBlock, source, count);
      } else {
        T* target = out + b * kBlock * width;
        for (int64_t i = 0; i < count * width; ++i)
          target[i] = narrow<T>(source[i]);
      }
    }
    b = end;
  }
}

template <class T>
VECTOR_CLONES void add_channels_last(const T* color, int64_t C, const int32_t* offset,
                                     const acc_t<T>* w, acc_t<T>* total) {
  acc_t<T>* t0 = total + offset[0] * C;
  acc_t<T>* t1 = total + offset[1] * C;
  acc_t<T>* t2 = total + offset[2] * C;
  acc_t<T>* t3 = total + offset[3] * C;
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    const acc_t<T> x = widen(color[c]);
    t0[c] += w[0] * x;
    t1[c] += w[1] * x;
    t2[c] += w[2] * x;
    t3[c] += w[3] * x;
  }
}

template <class T>
void splat_tile(const UvSplat<T>& op, int64_t tile, const Record<acc_t<T>>* records, int64_t count,
                Workspace<acc_t<T>>& space, bool streamed) {
  using A = acc_t<T>;
  const int64_t texels = op.S * op.S;

  int32_t slots = 0; // map the touched blocks in first-touch order
  space.offset.resize(count * 4);
  space.weight.resize(count * 4);
  const int step = op.S > 1, corner[4] = {0, step, int(op.S) * step, (int(op.S) + 1) * step};
  for (int64_t r = 0; r < count; ++r) {
    corner_weights(records[r].ax, records[r].ay, &space.weight[r * 4]);
    for (int k = 0; k < 4; ++k) {
      const int32_t q = records[r].texel + corner[k];
      int32_t& slot = space.slot[q / kBlock];
      if (slot < 0)
        slot = slots++;
      space.offset[r * 4 + k] = slot * kBlock + q % kBlock;
    }
  }

  const int32_t* offset = space.offset.data();
  A* weight = space.weight.data();
  if (op.normalize || op.weight) {
    space.total_weight.assign(slots * kBlock, A(0));
    A* D = space.total_weight.data();
    for (int64_t i = 0; i < count * 4; ++i)
      D[offset[i]] += weight[i];
    if (op.weight)
      emit<A>(op.weight + tile * texels, D, space.slot, texels, 1, streamed);
    if (op.normalize)
      for (int64_t i = 0; i < count * 4; ++i)
        weight[i] = D[offset[i]] > op.min_weight ? weight[i] / D[offset[i]] : A(0);
  }

  const T* image = op.image.data + tile / op.P * op.C * op.H * op.W;
  T* atlas = op.atlas.data + tile * op.C * texels;
  if (op.atlas.pixel > 1) { // channels last
    space.total.assign(int64_t(slots) * kBlock * op.C, A(0));
    for (int64_t r = 0; r < count; ++r)
      add_channels_last(image + records[r].pixel * op.image.pixel, op.C, offset + r * 4,
                        weight + r * 4, space.total.data());
    emit(atlas, space.total.data(), space.slot, texels, op.C, streamed);
  } else {
    const int64_t plane = int64_t(slots) * kBlock;
    for (int64_t first = 0; first < op.C; first += kPlanarChannels) {
      const int64_t channels = std::min(kPlanarChannels, op.C - first);
      space.total.assign(channels * plane, A(0));
      for (int64_t c = 0; c < channels; ++c) {
        const T* color = image + (first + c) * op.image.channel;
        A* total = space.total.data() + c * plane;
        for (int64_t r = 0; r < count; ++r) {
          const A x = widen(color[records[r].pixel * op.image.pixel]);
          for (int k = 0; k < 4; ++k)
            total[offset[r * 4 + k]] += weight[r * 4 + k] * x;
        }
        emit(atlas + (first + c) * texels, total, space.slot, texels, 1, streamed);
      }
    }
  }
  std::fill(space.slot.begin(), space.slot.end(), -1);
}

} // namespace

template <class T>
void uv_splat(const UvSplat<T>& op) {
  using A = acc_t<T>;
  const int64_t texels = op.S * op.S, tiles = op.N * op.P;
  const Partition<A> sorted = partition(op);
  const bool streamed = tiles * texels * (op.C + 1) * int64_t(sizeof(T)) >= kStreamBytes;
  parallel(tiles, 1, [&](int64_t begin, int64_t end) {
    Workspace<A> space((texels + kBlock - 1) / kBlock);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = sorted.begin[tile];
      splat_tile(op, tile, &sorted.records[first], sorted.begin[tile + 1] - first, space, streamed);
    }
    stream_fence();
  });
}

template void uv_splat(const UvSplat<float>&);
template void uv_splat(const UvSplat<double>&);
template void uv_splat(const UvSplat<float16>&);
template void uv_splat(const UvSplat<bfloat16>&);

} // namespace pose_kernels::cpu
