// SPDX-License-Identifier: Apache-2.0
// What the parts read, as lists: for each output row, which parts cover which voxel and how. The
// backward of helmert_warp walks such a list once per few channels.
#pragma once

#include <vector>

#include "volume_rows.h"

namespace pose_kernels::cpu {

// One part at one output voxel.
template <class A>
struct PartSample {
  int32_t x, part;
  int32_t cell;      // flat index of corner 0
  int32_t value[8];  // rows of the volume; -1: reads as 0
  int32_t target[8]; // rows of its gradient
  A weight[8];       // w_q m(q)
  A plain[8];        // w_q
  A slope[3][8];     // d w_q / d position, times m(q)
};

// One output row: its samples are samples[order[begin .. end)], by voxel and then by part.
struct SampleRow {
  int64_t n, z, y;
  int64_t begin, end; // until it is filled, end is the most there can be
};

// The rows of samples [first, last) that any part reaches, cut into chunks of bounded memory; rows
// of different samples take turns, so that threads that own samples all have something to do.
template <class A>
std::vector<std::vector<SampleRow>> chunk_rows(VolumeSize size, int64_t first, int64_t last,
                                               const std::vector<std::vector<Part<A>>>& parts) {
  constexpr int64_t limit = 1 << 12; // 1 MB: read again for every few channels, from the cache
  const int64_t slabs = (last - first) * size.z;
  std::vector<std::vector<SampleRow>> found(slabs);
  parallel(slabs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = first + i / size.z, z = i % size.z;
      std::vector<int64_t> most(size.y, 0);
      for (const Part<A>& part : parts[n]) {
        const Interval rows = part.rows(size, z);
        for (int64_t y = rows.first; y <= rows.last; ++y) {
          const Interval reach = part.voxels(size, y, z);
          if (!reach.empty())
            most[y] += reach.last - reach.first + 1;
        }
      }
      for (int64_t y = 0; y < size.y; ++y)
        if (most[y])
          found[i].push_back({n, z, y, 0, most[y]});
    }
  });
  std::vector<std::vector<SampleRow>> chunks;
  int64_t filled = limit;
  const auto add = [&](SampleRow row) {
    if (filled + row.end > limit) {
      chunks.emplace_back();
      filled = 0;
    }
    row.begin = filled;
    filled = row.end = filled + row.end;
    chunks.back().push_back(row);
  };
  for (int64_t z = 0; z < size.z; ++z) {
    bool more = true;
    for (size_t i = 0; more; ++i) {
      more = false;
      for (int64_t slab = z; slab < slabs; slab += size.z)
        if (i < found[slab].size()) {
          add(found[slab][i]);
          more = true;
        }
    }
  }
  return chunks;
}

// Fills samples[row.begin ..) and their order; returns with row.end set to what there was.
template <class A>
void sample_row(VolumeSize size, const std::vector<Part<A>>& parts, const int32_t* value_slot,
                const int32_t* target_slot, bool masked_only, RunReads<A>& reads,
                std::vector<int32_t>& position, SampleRow& row, PartSample<A>* samples,
                int32_t* order) {
  const CellSteps steps(size);
  int64_t count = row.begin;
  position.assign(size.x + 1, 0);
  for (const Part<A>& part : parts) {
    const Interval rows = part.rows(size, row.z);
    if (row.y < rows.first || row.y > rows.last)
      continue;
    const Interval reach = part.voxels(size, row.y, row.z);
    if (reach.empty())
      continue;
    for_runs(reach, [&](int64_t first, int64_t run) {
      read_run<A, true>(part, size, steps, row.y, row.z, first, run, reads);
      for (int64_t at = 0; at < run; ++at) {
        PartSample<A>& s = samples[count];
        bool covered = false;
        for (int k = 0; k < 8; ++k) {
          const int i = k & 1, j = k >> 1 & 1, l = k >> 2;
          const A wx = reads.axis[0][i][at], wy = reads.axis[1][j][at], wz = reads.axis[2][l][at],
                  dx = reads.slope[0][i][at], dy = reads.slope[1][j][at],
                  dz = reads.slope[2][l][at];
          const bool corner = dx * dy * dz != A(0); // of the true cell, and in the volume
          const A m = corner ? reads.mask[k][at] : A(0);
          const bool masked = corner && m != A(0);
          covered = covered || masked;
          const int32_t q = reads.cell[at] + steps.to[k];
          s.value[k] = (masked_only ? masked : corner) ? value_slot ? value_slot[q] : q : -1;
          s.target[k] = target_slot ? target_slot[q] : q;
          s.plain[k] = wx * wy * wz;
          s.weight[k] = reads.weight[k][at];
          s.slope[0][k] = dx * wy * wz * m;
          s.slope[1][k] = wx * dy * wz * m;
          s.slope[2][k] = wx * wy * dz * m;
        }
        if (!covered)
          continue;
        s.x = int32_t(first + at), s.part = part.index, s.cell = reads.cell[at];
        ++position[s.x + 1];
        ++count;
      }
    });
  }
  for (int64_t x = 0; x < size.x; ++x) // a counting sort by voxel; parts stay in order
    position[x + 1] += position[x];
  for (int64_t i = row.begin; i < count; ++i)
    order[row.begin + position[samples[i].x]++] = int32_t(i);
  row.end = count;
}

} // namespace pose_kernels::cpu
