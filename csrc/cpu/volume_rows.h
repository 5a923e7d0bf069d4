// SPDX-License-Identifier: Apache-2.0
// Volumes as rows of channels. The warp wants all channels of a voxel side by side, and only those
// voxels that some mask covers: 4 % of a volume around a person. A channels-last volume is read
// where it lies; of any other the covered voxels are packed into rows, as many channels at a time
// as fit into the memory the op may take (one byte per element of the volume).
#pragma once

#include <type_traits>
#include <vector>

#include "../math/layout.h"
#include "memory.h"
#include "part_rows.h"

namespace pose_kernels::cpu {

// Boxes of the parts of sample n: one for each part.
template <class Op>
std::vector<PartBox> part_boxes(const Op& op, int64_t n) {
  const VolumeSize size = size_of(op);
  const int64_t row_bits = size.x + size.y + size.z;
  // Per part and axis, which coordinates occur: bit-parallel over the parts where they are bits.
  std::vector<PartBox> boxes(op.P);
  const auto extent = [&](auto occurs, int64_t length, int& low, int& high) {
    low = int(length), high = -1;
    for (int64_t i = 0; i < length; ++i)
      if (occurs(i))
        low = std::min(low, int(i)), high = int(i);
  };
  if (op.bits) {
    const int32_t* bits = op.bits + n * size.voxels();
    std::vector<int32_t> seen(row_bits);
    int32_t *in_x = seen.data(), *in_y = in_x + size.x, *in_z = in_y + size.y;
    for (int64_t z = 0; z < size.z; ++z)
      for (int64_t y = 0; y < size.y; ++y) {
        const int32_t* row = bits + (z * size.y + y) * size.x;
        int32_t all = 0;
#pragma omp simd reduction(| : all)
        for (int64_t x = 0; x < size.x; ++x)
          all |= row[x];
        if (all) {
#pragma omp simd
          for (int64_t x = 0; x < size.x; ++x)
            in_x[x] |= row[x];
        }
        in_y[y] |= all, in_z[z] |= all;
      }
    for (int p = 0; p < int(op.P); ++p) {
      PartBox& box = boxes[p];
      extent([&](int64_t i) { return in_x[i] >> p & 1; }, size.x, box.low[0], box.high[0]);
      extent([&](int64_t i) { return in_y[i] >> p & 1; }, size.y, box.low[1], box.high[1]);
      extent([&](int64_t i) { return in_z[i] >> p & 1; }, size.z, box.low[2], box.high[2]);
    }
    return boxes;
  }
  std::vector<uint8_t> seen(row_bits);
  for (int64_t p = 0; p < op.P; ++p) {
    const auto* mask = op.mask + (n * op.P + p) * size.voxels();
    std::fill(seen.begin(), seen.end(), uint8_t(0));
    uint8_t *in_x = seen.data(), *in_y = in_x + size.x, *in_z = in_y + size.y;
    for (int64_t z = 0; z < size.z; ++z)
      for (int64_t y = 0; y < size.y; ++y) {
        const auto* row = mask + (z * size.y + y) * size.x;
        uint8_t all = 0;
#pragma omp simd reduction(| : all)
        for (int64_t x = 0; x < size.x; ++x) {
          const uint8_t here = row[x] != 0;
          in_x[x] |= here;
          all |= here;
        }
        in_y[y] |= all, in_z[z] |= all;
      }
    PartBox& box = boxes[p];
    extent([&](int64_t i) { return in_x[i] != 0; }, size.x, box.low[0], box.high[0]);
    extent([&](int64_t i) { return in_y[i] != 0; }, size.y, box.low[1], box.high[1]);
    extent([&](int64_t i) { return in_z[i] != 0; }, size.z, box.low[2], box.high[2]);
  }
  return boxes;
}

// The parts of sample n that can reach anything, in order.
template <class Op>
auto active_parts(const Op& op, int64_t n) {
  using A = std::remove_const_t<std::remove_pointer_t<decltype(op.transform)>>;
  const int64_t voxels = size_of(op).voxels();
  const std::vector<PartBox> boxes = part_boxes(op, n);
  std::vector<Part<A>> parts;
  for (int64_t p = 0; p < op.P; ++p) {
    const A* map = op.transform + (n * op.P + p) * 12;
    bool finite = boxes[p].high[0] >= 0;
    for (int i = 0; i < 12; ++i)
      finite = finite && map[i] - map[i] == A(0);
    if (finite)
      parts.push_back({int(p), map, boxes[p], op.bits ? op.bits + n * voxels : nullptr,
                       op.bits ? nullptr : op.mask + (n * op.P + p) * voxels});
  }
  return parts;
}

// Lists the voxels of sample n that some part covers; false when they are most of the volume.
template <class Op>
bool covered_voxels(const Op& op, int64_t n, std::vector<int32_t>& found) {
  const int64_t voxels = size_of(op).voxels();
  const int32_t parts = op.P >= 31 ? INT32_MAX : int32_t((int64_t(1) << op.P) - 1);
  for (int64_t q = 0; q < voxels; ++q) {
    bool covered = op.bits && (op.bits[n * voxels + q] & parts);
    if (!op.bits)
      for (int64_t p = 0; p < op.P && !covered; ++p)
        covered = op.mask[(n * op.P + p) * voxels + q] != 0;
    if (covered) {
      found.push_back(int32_t(q));
      if (2 * int64_t(found.size()) > voxels) {
        found = {};
        return false;
      }
    }
  }
  return true;
}

// `width` channels of every voxel, or of the covered ones: row r starts at data + r * stride.
template <class A>
struct Rows {
  A* data;
  int64_t stride;
  const int32_t* slot; // voxel -> row, row 0 where not covered; or null: the voxel is the row
};

// The covered voxels of a sample, and where each lies when they are packed.
struct Cover {
  std::vector<int32_t> voxels; // ascending; row i + 1 is voxel i, row 0 is zeros
  std::vector<int32_t> slot;   // voxel -> row
  bool dense = false;          // most voxels are covered: all are packed, row q is voxel q
  int64_t rows = 0;

  template <class Op>
  static Cover of(const Op& op, int64_t n, bool all) {
    Cover cover;
    const int64_t voxels = size_of(op).voxels();
    cover.dense = all || !covered_voxels(op, n, cover.voxels);
    cover.rows = cover.dense ? voxels : int64_t(cover.voxels.size()) + 1;
    if (!cover.dense) {
      cover.slot.assign(voxels, 0);
      for (size_t i = 0; i < cover.voxels.size(); ++i)
        cover.slot[cover.voxels[i]] = int32_t(i) + 1;
    }
    return cover;
  }
  const int32_t* slots() const { return dense ? nullptr : slot.data(); }
  int64_t first_row() const { return dense ? 0 : 1; }
  int64_t voxel(int64_t row) const { return dense ? row : voxels[row - 1]; }
};

// Channels [c, c + width) of a sample's covered voxels, as rows of `width`.
template <class T>
void pack(const Planes<const T>& volume, const Cover& cover, int64_t c, int64_t width,
          acc_t<T>* rows) {
  using A = acc_t<T>;
  if (!cover.dense)
    std::fill(rows, rows + width, A(0));
  parallel(cover.rows - cover.first_row(), 512, [&](int64_t begin, int64_t end) {
    constexpr int64_t run = 16; // voxels at a time: neighbors share the lines of a plane
    for (int64_t r = begin; r < end; r += run) {
      const int64_t count = std::min(run, end - r), row = r + cover.first_row();
      int64_t at[run];
      for (int64_t i = 0; i < count; ++i)
        at[i] = cover.voxel(row + i) * volume.pixel + c * volume.channel;
      if (volume.pixel > 1) {
        for (int64_t i = 0; i < count; ++i)
          for (int64_t k = 0; k < width; ++k)
            rows[(row + i) * width + k] = widen(volume.data[at[i] + k]);
      } else {
        for (int64_t k = 0; k < width; ++k)
          for (int64_t i = 0; i < count; ++i)
            rows[(row + i) * width + k] = widen(volume.data[at[i] + k * volume.channel]);
      }
    }
  });
}

// Rows of a slab that are put together at once: at most 2 MB of `width` channels.
inline int64_t rows_at_once(int64_t W, int64_t width) {
  return std::max<int64_t>(1, (1 << 19) / (W * std::max<int64_t>(width, 16)));
}

// Few channels are read plane by plane where they lie: packing would take more than they do.
constexpr int64_t kFewChannels = 8;

// How much of a volume is packed at a time.
struct Plan {
  int64_t samples; // 1, or all
  int64_t width;   // channels
};

// `copies` arrays of rows within one byte per element of the volume, or 4 MB where that is more.
template <class T, class Op>
Plan plan_packing(const Op& op, const std::vector<Cover>& covers, int64_t copies) {
  const int64_t voxels = size_of(op).voxels(), size = copies * int64_t(sizeof(acc_t<T>));
  // 8 MB for what else there is: lists of samples, rows on their way out.
  int64_t budget = std::max<int64_t>(op.N * op.C * voxels - (8 << 20), 4 << 20), all = 0, most = 1;
  for (const Cover& cover : covers) {
    all += cover.rows, most = std::max(most, cover.rows);
    budget -= int64_t(cover.slot.size() + cover.voxels.size()) * 4;
  }
  if (all * op.C * size <= budget)
    return {op.N, op.C};
  const int64_t width = std::min(op.C, std::max<int64_t>(budget, 0) / (most * size));
  return {1, width >= 16 ? width / 16 * 16 : std::max<int64_t>(width, 1)};
}

// Writes rows to channels [c, c + width) of a stretch of `count` voxels of one sample: row which[i]
// goes to voxel at[i] of the stretch; all other voxels become 0. For channels last `at` ascends.
template <class T>
struct RegionWriter {
  bool streaming;
  std::vector<T> buffer;

  explicit RegionWriter(int64_t bytes) : streaming(bytes >= kStreamBytes) {}

  void put(T* to, const T* from, int64_t count) {
    if (streaming)
      stream_anywhere(to, from, count * int64_t(sizeof(T)));
    else
      memcpy(to, from, count * sizeof(T));
  }
  void clear(T* to, int64_t count) {
    if (streaming)
      stream_zeros(to, count * int64_t(sizeof(T)));
    else
      memset(static_cast<void*>(to), 0, count * sizeof(T));
  }

  // `out` points to the first voxel of the stretch, channel c.
  template <class A>
  void write(const Planes<T>& out, int64_t width, int64_t count, const std::vector<int32_t>& at,
             const std::vector<int32_t>& which, const A* rows, int64_t stride) {
    if (out.pixel > 1)
      interleaved(out, width, count, at, which, rows, stride);
    else
      planar(out, width, count, at, which, rows, stride);
  }

  // Channels last: voxel by voxel, runs of empty ones at once.
  template <class A>
  void interleaved(const Planes<T>& out, int64_t width, int64_t count,
                   const std::vector<int32_t>& at, const std::vector<int32_t>& which, const A* rows,
                   int64_t stride) {
    const bool whole = width == out.pixel;
    buffer.resize(width);
    int64_t done = 0;
    for (size_t i = 0; i <= at.size(); ++i) {
      const int64_t next = i < at.size() ? at[i] : count;
      if (whole)
        clear(out.data + done * width, (next - done) * width);
      else
        for (; done < next; ++done)
          clear(out.data + done * out.pixel, width);
      if (i == at.size())
        break;
      const A* row = rows + which[i] * stride;
      if constexpr (std::is_same_v<T, A>) {
        put(out.data + next * out.pixel, row, width);
      } else {
        for (int64_t k = 0; k < width; ++k)
          buffer[k] = narrow<T>(row[k]);
        put(out.data + next * out.pixel, buffer.data(), width);
      }
      done = next + 1;
    }
  }

  // Contiguous: a few planes at a time are put together in the cache.
  template <class A>
  void planar(const Planes<T>& out, int64_t width, int64_t count, const std::vector<int32_t>& at,
              const std::vector<int32_t>& which, const A* rows, int64_t stride) {
    if (at.empty()) {
      for (int64_t k = 0; k < width; ++k)
        clear(out.data + k * out.channel, count);
      return;
    }
    constexpr int64_t group = 16;
    // Planes a power of two apart would compete for the same cache lines.
    const int64_t plane = (count + 15) / 16 * 16 + 16;
    if (int64_t(buffer.size()) != plane * group)
      buffer.assign(plane * group, T());
    for (int64_t k = 0; k < width; k += group) {
      const int64_t wide = std::min(group, width - k);
      for (size_t i = 0; i < at.size(); ++i) {
        const A* row = rows + which[i] * stride + k;
        T* to = buffer.data() + at[i];
        for (int64_t j = 0; j < wide; ++j)
          to[j * plane] = narrow<T>(row[j]);
      }
      for (int64_t j = 0; j < wide; ++j)
        put(out.data + (k + j) * out.channel, &buffer[j * plane], count);
    }
    for (int64_t j = 0; j < group; ++j) // as it was found
      for (int32_t i : at)
        buffer[j * plane + i] = T();
  }
};

} // namespace pose_kernels::cpu
