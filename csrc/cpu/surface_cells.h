// SPDX-License-Identifier: Apache-2.0
// What uv_raster draws on each tile: the cells of four pixels that hold a triangle, and the lonely
// pixels, in pixel order. A counting sort, in parallel; a record is 8 bytes.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "../ops/uv_raster.h"
#include "parallel.h"

namespace pose_kernels::cpu {

constexpr int64_t kSortRows = 16; // pixel rows sorted by one task

struct Record {
  int32_t pixel;        // y W + x, of pixel e of a cell, or of a lonely pixel
  uint16_t first, last; // texel rows
};

// Cells of tile t: records[begin[2t] .. begin[2t+1]); lonely pixels: up to begin[2t+2].
struct Partition {
  std::unique_ptr<Record[]> records;
  std::vector<int64_t> begin;
};

template <class A>
Record record_of(const SurfaceGrid<A>& grid, int64_t n, int64_t y, int64_t x, int standing) {
  Record record{int32_t(y * grid.W + x), 65535, 0};
  if (standing == kLonely) {
    TilePoint<A> point;
    const A* uv = grid.uv + n * 2 * grid.H * grid.W + record.pixel;
    if (tile_point(uv[0], uv[grid.H * grid.W], grid.S, point)) {
      record.first = uint16_t(point.y0);
      record.last = uint16_t(point.y0 + point.dy);
    }
    return record;
  }
  for (int which = 0; which < 2; ++which) {
    Triangle t;
    if (standing >> which & 1 && grid.triangle(n, y, x - 1, which, t)) {
      record.first = std::min(record.first, uint16_t(t.y0));
      record.last = std::max(record.last, uint16_t(t.y1));
    }
  }
  return record;
}

template <class T>
Partition partition(const UvRaster<T>& op) {
  const auto grid = op.grid();
  const int64_t pixels = op.H * op.W, chunks = (op.H + kSortRows - 1) / kSortRows;
  const int64_t bins = 2 * op.P;
  std::vector<int64_t> next(op.N * chunks * bins, 0); // counts, then positions
  std::unique_ptr<uint8_t[]> standing(new uint8_t[op.N * pixels]);

  auto rows = [&](int64_t job, auto&& visit) {
    const int64_t n = job / chunks, first = job % chunks * kSortRows;
    for (int64_t y = first; y < std::min(first + kSortRows, op.H); ++y)
      for (int64_t x = 0; x < op.W; ++x)
        visit(n, y, x, standing[n * pixels + y * op.W + x]);
  };
  auto bin_of = [&](int64_t n, int64_t y, int64_t x, int what) {
    const int part = part_at(op.part, n * pixels + y * op.W + x, int(op.P));
    return 2 * (part - 1) + int(what == kLonely);
  };
  parallel(op.N * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job)
      rows(job, [&](int64_t n, int64_t y, int64_t x, uint8_t& what) {
        what = uint8_t(grid.standing(n, y, x));
        if (what != kNothing)
          ++next[job * bins + bin_of(n, y, x, what)];
      });
  });

  Partition sorted;
  sorted.begin.resize(op.N * bins + 1);
  int64_t total = 0;
  for (int64_t n = 0; n < op.N; ++n)
    for (int64_t i = 0; i < bins; ++i) {
      sorted.begin[n * bins + i] = total;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int64_t& position = next[(n * chunks + chunk) * bins + i];
        const int64_t count = position;
        position = total;
        total += count;
      }
    }
  sorted.begin[op.N * bins] = total;
  sorted.records.reset(new Record[total]);
  parallel(op.N * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job)
      rows(job, [&](int64_t n, int64_t y, int64_t x, uint8_t what) {
        if (what != kNothing)
          sorted.records[next[job * bins + bin_of(n, y, x, what)]++] =
              record_of(grid, n, y, x, what);
      });
  });
  return sorted;
}

} // namespace pose_kernels::cpu
