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
__attribute__((flatten)) Record record_of(const SurfaceGrid<A>& grid, int64_t n, int64_t y,
                                          int64_t x, int standing) {
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
    AtlasTriangle t;
    if (standing >> which & 1 && grid.triangle(n, y, x - 1, which, t)) {
      record.first = std::min(record.first, uint16_t(t.y0));
      record.last = std::max(record.last, uint16_t(t.y1));
    }
  }
  return record;
}

// The triangles of each cell between two rows of pixels: bits 0 and 1. Flattened, so that only what
// decides is calculated.
__attribute__((flatten)) inline void mark_cells(const SurfacePoint* up, const SurfacePoint* down,
                                                int64_t W, int S, double longest, uint8_t* cells) {
  for (int64_t x = 0; x + 1 < W; ++x) {
    const SurfacePoint &e = up[x + 1], &s = down[x];
    AtlasTriangle t;
    int found = 0;
    if (e.part != 0 && e.part == s.part)
      found = int(make_triangle(up[x], e, s, S, longest, t)) |
              int(make_triangle(e, down[x + 1], s, S, longest, t)) << 1;
    cells[x] = uint8_t(found);
  }
}

// SurfaceGrid::standing of the pixels of rows first .. last - 1, each cell looked at once.
template <class A>
void find_standing(const SurfaceGrid<A>& grid, int64_t n, int64_t first, int64_t last,
                   uint8_t* standing) {
  const int64_t W = grid.W;
  std::vector<SurfacePoint> points[2] = {std::vector<SurfacePoint>(W),
                                         std::vector<SurfacePoint>(W)};
  // A column on the left where nothing is; the last one of a row holds no cell either.
  std::vector<uint8_t> cells[2] = {std::vector<uint8_t>(W + 1), std::vector<uint8_t>(W + 1)};
  const auto load = [&](int64_t y) {
    for (int64_t x = 0; x < W; ++x)
      points[y & 1][x] = grid.point(n, y, x);
  };
  const auto mark = [&](int64_t y) { // the cells whose pixel n lies in row y
    const auto &up = points[y & 1], &down = points[(y + 1) & 1];
    mark_cells(up.data(), down.data(), W, grid.S, grid.longest, cells[y & 1].data() + 1);
  };
  if (first > 0)
    load(first - 1);
  load(first);
  if (first > 0)
    mark(first - 1);
  for (int64_t y = first; y < last; ++y) {
    load(y + 1); // beyond the image: of no part
    mark(y);
    const auto &above = cells[(y + 1) & 1], &here = cells[y & 1];
    for (int64_t x = 0; x < W; ++x) {
      const bool used = (here[x + 1] & 1) || above[x + 1] || (above[x] & 2);
      const int what = here[x] ? here[x] : used ? kNothing : kLonely;
      standing[y * W + x] = uint8_t(points[y & 1][x].part == 0 ? kNothing : what);
    }
  }
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
    for (int64_t job = begin; job < end; ++job) {
      const int64_t n = job / chunks, first = job % chunks * kSortRows;
      find_standing(grid, n, first, std::min(first + kSortRows, op.H), &standing[n * pixels]);
      rows(job, [&](int64_t n, int64_t y, int64_t x, uint8_t what) {
        if (what != kNothing)
          ++next[job * bins + bin_of(n, y, x, what)];
      });
    }
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
