// SPDX-License-Identifier: Apache-2.0
// Which output pixels of flow_warp read which rows of the image: a counting sort.
#pragma once

#include <memory>
#include <vector>

#include "flow_rows.h"

namespace pose_kernels::cpu {

// Output pixels of each sample that read anything, by the upper row of the image they read, then in
// order: those of row `bin` of sample n are pixels[begin[n bins + bin] .. begin[n bins + bin + 1]).
struct Readers {
  int64_t bins;
  std::unique_ptr<int32_t[]> pixels;
  std::vector<int64_t> begin;
};

template <class T>
Readers sort_readers(const FlowWarpBackward<T>& op) {
  using A = acc_t<T>;
  Readers readers{std::max<int64_t>(op.H - 1, 1), nullptr, {}};
  const int64_t bins = readers.bins;
  const FlowPieces pieces(op.h, op.w);
  const int64_t size = pieces.rows * pieces.columns;
  const int64_t some = std::max<int64_t>(8192, 4 * bins) / size + 1; // pieces of a chunk
  const int64_t chunks = (pieces.per_sample + some - 1) / some;
  std::vector<int64_t> next(op.N * chunks * bins, 0); // [N, chunks, bins]: counts, then places
  auto for_each = [&](int64_t job, FlowTaps<A>& taps, auto&& visit) {
    const int64_t n = job / chunks, first = job % chunks * some;
    const int64_t last = std::min(first + some, pieces.per_sample);
    for (int64_t number = first; number < last; ++number) {
      const FlowPiece piece = pieces.at(n * pieces.per_sample + number);
      place_taps<A, false>(op.flow, op.visibility, op.mode, op.border, op.h, op.w, int(op.H),
                           int(op.W), piece, taps);
      for (int64_t i = 0, r = 0; r < piece.rows; ++r) {
        const int64_t at = (piece.y0 + r) * op.w + piece.x0;
        for (int64_t k = 0; k < piece.columns; ++k, ++i)
          if (taps.read[i])
            visit(taps.row[i], int32_t(at + k));
      }
    }
  };
  const int64_t grain = grain_of(16 * some * size);
  parallel(op.N * chunks, grain, [&](int64_t begin, int64_t end) {
    const auto taps = std::make_unique<FlowTaps<A>>();
    for (int64_t job = begin; job < end; ++job)
      for_each(job, *taps, [&](int32_t bin, int32_t) { ++next[job * bins + bin]; });
  });
  readers.begin.reserve(op.N * bins + 1);
  int64_t total = 0;
  for (int64_t n = 0; n < op.N; ++n)
    for (int64_t bin = 0; bin < bins; ++bin) {
      readers.begin.push_back(total);
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int64_t& place = next[(n * chunks + chunk) * bins + bin];
        const int64_t count = place;
        place = total;
        total += count;
      }
    }
  readers.begin.push_back(total);
  readers.pixels.reset(new int32_t[total]);
  parallel(op.N * chunks, grain, [&](int64_t begin, int64_t end) {
    const auto taps = std::make_unique<FlowTaps<A>>();
    for (int64_t job = begin; job < end; ++job)
      for_each(job, *taps, [&](int32_t bin, int32_t pixel) {
        readers.pixels[next[job * bins + bin]++] = pixel;
      });
  });
  return readers;
}

} // namespace pose_kernels::cpu
