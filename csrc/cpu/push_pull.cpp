// SPDX-License-Identifier: Apache-2.0
// push_pull on the CPU, forward and adjoint.
//
// One task per tile. The known/unknown pyramid is built once and shared by all channels; per
// channel, every level above 0 (a third of a plane) stays in L2, level 0 is read once where
// something is known and written once, past the cache. All inner loops run along a row: the pull
// adds pairs, the push interpolates vertically into a padded row and then emits two children per
// parent. A task owns its tile: the same bits for any number of threads.

#include "../ops/push_pull.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "memory.h"
#include "parallel.h"
#include "push_pull_rows.h"

namespace pose_kernels::cpu {
namespace {

// A stretch of a row outside of which nothing is known: tiles are mostly unknown, and so are the
// rows in which something is known.
struct Span {
  int64_t first, last; // nodes [first, last), first a multiple of kLine

  bool empty() const { return first >= last; }
  int64_t size() const { return last - first; }
};
constexpr int64_t kLine = 16;

// The span of all nodes from `first` to before `last`, of a row of `width`.
Span around(int64_t first, int64_t last, int64_t width) {
  return {first / kLine * kLine, std::min((last + kLine - 1) / kLine * kLine, width)};
}

Span join(Span a, Span b) {
  if (a.empty() || b.empty())
    return a.empty() ? b : a;
  return {std::min(a.first, b.first), std::max(a.last, b.last)};
}

// Of a row in which something is known.
Span span_of(const uint8_t* known, int64_t width) {
  auto nothing = [&](int64_t x) { // in eight nodes
    uint64_t eight;
    memcpy(&eight, known + x, 8);
    return eight == 0;
  };
  int64_t first = 0, last = width;
  while (last % 8 && !known[last - 1])
    --last;
  while (last % 8 == 0 && nothing(last - 8))
    last -= 8;
  while (first + 8 < last && nothing(first))
    first += 8;
  return around(first, last, width);
}

// A node is known where its mask is above the limit: the weight at level 0, the number of known
// children elsewhere. Masks have the type of the values, so that all loops have one vector length.
template <class A>
struct Level {
  int64_t H, W;
  const A* mask; // [H, W]
  A limit;
  std::vector<Span> span;  // [H]
  aligned_vector<A> count; // [H, W] known children; empty at level 0
  aligned_vector<A> value; // [H, W]; empty at level 0
};

template <class A>
struct Pyramid {
  Pyramid(int64_t H, int64_t W)
      : nothing(W, -std::numeric_limits<A>::infinity()), flags(W), rows(6 * stride(W)) {
    levels.push_back({H, W, nullptr, A(0), std::vector<Span>(H), {}, {}});
    while (H > 1 || W > 1) {
      H = parent_side(H), W = parent_side(W);
      levels.push_back({H, W, nullptr, A(0), std::vector<Span>(H), aligned_vector<A>(H * W),
                        aligned_vector<A>(H * W)});
    }
    for (Level<A>& level : levels)
      level.mask = level.count.data(); // of level 0: know()
  }
  std::vector<Level<A>> levels;
  std::vector<uint8_t> within; // [H, W] of level 0; empty: no limit
  std::vector<A> nothing;      // the mask of a row with nothing known
  std::vector<uint8_t> flags;
  aligned_vector<A> rows;

  // Rows for scratch, with room beyond both ends.
  static int64_t stride(int64_t W) { return (W + 3 * kLine - 1) / kLine * kLine; }
  A* row(int64_t i) { return &rows[i * stride(levels[0].W) + kLine]; }
};

// Known nodes of all levels from one weight plane [H, W]; false if there is none.
template <class A>
bool know(Pyramid<A>& pyramid, const A* weight, A min_weight) {
  Level<A>& base = pyramid.levels[0];
  base.mask = weight, base.limit = min_weight;
  for (int64_t y = 0; y < base.H; ++y) {
    const bool any = above(weight + y * base.W, min_weight, base.W, pyramid.flags.data());
    base.span[y] = any ? span_of(pyramid.flags.data(), base.W) : Span{0, 0};
  }
  for (size_t l = 0; l + 1 < pyramid.levels.size(); ++l) {
    const Level<A>& level = pyramid.levels[l];
    Level<A>& next = pyramid.levels[l + 1];
    for (int64_t j = 0; j < next.H; ++j) {
      const int64_t y = 2 * j;
      const bool single = y + 1 == level.H;
      const Span span = join(level.span[y], single ? Span{0, 0} : level.span[y + 1]);
      A* count = &next.count[j * next.W];
      next.span[j] = around(span.first / 2, (span.last + 1) / 2, next.W);
      std::fill(count, count + next.W, A(0));
      if (!span.empty()) {
        const A* top = level.mask + y * level.W + span.first;
        count_children(top, single ? pyramid.nothing.data() : top + level.W, level.limit,
                       span.size(), pyramid.row(0), count + span.first / 2);
      }
    }
  }
  return !pyramid.levels.back().span[0].empty();
}

// Texels no farther (Chebyshev) than radius from a known one: rows first, then columns.
template <class A>
void reach(Pyramid<A>& pyramid, int64_t radius) {
  const Level<A>& base = pyramid.levels[0];
  const int64_t H = base.H, W = base.W, far = radius + 1;
  auto known = [&](int64_t i) { return base.mask[i] > base.limit; };
  std::vector<uint8_t> rows(H * W, 0);
  pyramid.within.assign(H * W, 0);
  for (int64_t y = 0; y < H; ++y) {
    int64_t left = far, right = far;
    for (int64_t x = 0; x < W; ++x) {
      left = known(y * W + x) ? 0 : std::min(left + 1, far);
      rows[y * W + x] |= left <= radius;
      const int64_t mirrored = W - 1 - x;
      right = known(y * W + mirrored) ? 0 : std::min(right + 1, far);
      rows[y * W + mirrored] |= right <= radius;
    }
  }
  std::vector<int64_t> above(W, far), below(W, far);
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x) {
      above[x] = rows[y * W + x] ? 0 : std::min(above[x] + 1, far);
      pyramid.within[y * W + x] |= above[x] <= radius;
      const int64_t mirrored = H - 1 - y;
      below[x] = rows[mirrored * W + x] ? 0 : std::min(below[x] + 1, far);
      pyramid.within[mirrored * W + x] |= below[x] <= radius;
    }
}

// Row y of level l: its values where stored, or those of `span` in the atlas (widened into
// `scratch`) at level 0.
template <class T>
const acc_t<T>* values(const Pyramid<acc_t<T>>& pyramid, size_t l, int64_t y, Span span,
                       const T* plane, int64_t pixel, acc_t<T>* scratch) {
  const int64_t W = pyramid.levels[l].W;
  if (l > 0)
    return &pyramid.levels[l].value[y * W];
  if constexpr (std::is_same_v<T, acc_t<T>>)
    if (pixel == 1)
      return plane + y * W;
  read_row(plane + (y * W + span.first) * pixel, pixel, span.size(), scratch + span.first);
  return scratch;
}

// Writes one finished row of level 0, limited to `within`.
template <class T>
void put(const Pyramid<acc_t<T>>& pyramid, int64_t y, acc_t<T>* row, T* plane, int64_t pixel,
         bool streamed) {
  const int64_t W = pyramid.levels[0].W;
  if (!pyramid.within.empty())
    keep(row, &pyramid.within[y * W], W, row);
  T* out = plane + y * W * pixel;
  if (pixel != 1) {
    for (int64_t x = 0; x < W; ++x)
      out[x * pixel] = narrow<T>(row[x]);
  } else if constexpr (std::is_same_v<T, acc_t<T>>) {
    streamed ? stream(out, row, W * int64_t(sizeof(T))) : (void)memcpy(out, row, W * sizeof(T));
  } else {
    narrow_row(row, W, out);
  }
}

template <class T>
void fill_plane(Pyramid<acc_t<T>>& pyramid, const T* plane, int64_t pixel, T* out,
                int64_t out_pixel, bool streamed) {
  using A = acc_t<T>;
  std::vector<Level<A>>& levels = pyramid.levels;
  A *scratch = pyramid.row(0), *second = pyramid.row(1), *up = pyramid.row(2);
  A* const blended[2] = {pyramid.row(3), pyramid.row(4)};
  for (size_t l = 0; l + 1 < levels.size(); ++l) { // pull
    const Level<A>& level = levels[l];
    Level<A>& above = levels[l + 1];
    for (int64_t j = 0; j < above.H; ++j) {
      // A row with nothing known is not read: the other one stands in for it, with nothing known.
      const int64_t y = 2 * j, one = level.span[y].empty() ? y + 1 : y;
      if (above.span[j].empty())
        continue;
      const bool both = one == y && y + 1 < level.H && !level.span[y + 1].empty();
      const Span span = both ? join(level.span[y], level.span[y + 1]) : level.span[one];
      const A* first = values(pyramid, l, one, span, plane, pixel, scratch);
      const A* other = both ? values(pyramid, l, y + 1, span, plane, pixel, second) : first;
      const A* mask = level.mask + one * level.W + span.first;
      const int64_t parent = j * above.W + span.first / 2;
      mean(first + span.first, mask, other + span.first,
           both ? mask + level.W : pyramid.nothing.data(), level.limit, span.size(),
           &above.count[parent], up, &above.value[parent]);
    }
  }
  for (size_t l = levels.size(); l-- > 0;) { // push
    Level<A>& level = levels[l];
    const Level<A>* above = l + 1 < levels.size() ? &levels[l + 1] : nullptr;
    for (int64_t y = 0; y < level.H; ++y) {
      A* row = l > 0 ? &level.value[y * level.W] : up;
      const Span span = level.span[y];
      const A* own = scratch; // what is known, before the row is overwritten
      if (!span.empty() && l > 0)
        std::copy(row + span.first, row + span.last, scratch + span.first);
      else if (!span.empty())
        own = values(pyramid, l, y, span, plane, pixel, scratch);
      if (above) {
        // A row ahead: what was stored a moment ago cannot yet be read at another alignment.
        for (int64_t next = y == 0 ? 0 : y + 1; next < std::min(y + 2, level.H); ++next)
          blend(above->value.data() + next / 2 * above->W,
                above->value.data() + side_parent(next, above->H) * above->W, above->W,
                blended[next & 1]);
        upsample(blended[y & 1], level.W, row);
      } else {
        std::fill(row, row + level.W, A(0));
      }
      if (!span.empty())
        select(level.mask + y * level.W + span.first, level.limit, own + span.first, span.size(),
               row + span.first);
      if (l == 0)
        put(pyramid, y, row, out, out_pixel, streamed);
    }
  }
}

template <class T>
void fill_plane_adjoint(Pyramid<acc_t<T>>& pyramid, const T* plane, int64_t pixel, T* out,
                        int64_t out_pixel, bool streamed) {
  using A = acc_t<T>;
  std::vector<Level<A>>& levels = pyramid.levels;
  A *first = pyramid.row(0), *second = pyramid.row(1), *left = pyramid.row(2);
  A *right = pyramid.row(3), *upper = pyramid.row(4), *lower = pyramid.row(5);
  auto gradient = [&](size_t l, int64_t y, Span span, A* scratch) { // of R_l
    const A* row = values(pyramid, l, y, span, plane, pixel, scratch);
    if (l > 0 || pyramid.within.empty())
      return row;
    keep(row + span.first, &pyramid.within[y * levels[0].W + span.first], span.size(),
         scratch + span.first);
    return static_cast<const A*>(scratch);
  };
  for (size_t l = 0; l + 1 < levels.size(); ++l) { // what the unknown nodes took, to their parents
    const Level<A>& level = levels[l];
    Level<A>& above = levels[l + 1];
    for (int64_t j = 0; j <= above.H; ++j) { // the rows between parents j - 1 and j
      const int64_t a = j > 0 ? 2 * j - 1 : 0, b = std::min(2 * j, level.H - 1);
      if (a < level.H) { // at a border there is one: both parents are one and the same
        const Span all{0, level.W};
        const A* row = gradient(l, a, all, first);
        return_rows(row, level.mask + a * level.W, a == b ? row : gradient(l, b, all, second),
                    level.mask + b * level.W, level.limit, level.W, upper, lower);
      }
      if (j > 0)
        return_pairs(upper, level.W, left, right, &above.value[(j - 1) * above.W]);
      std::swap(upper, lower);
    }
  }
  for (size_t l = levels.size(); l-- > 0;) { // and from parents to the known children they average
    Level<A>& level = levels[l];
    for (int64_t y = 0; y < level.H; ++y) {
      A* row = l > 0 ? &level.value[y * level.W] : second;
      const Span span = level.span[y];
      if (l == 0)
        std::fill(row, row + level.W, A(0));
      if (!span.empty()) {
        if (l + 1 < levels.size()) {
          const Level<A>& above = levels[l + 1];
          const int64_t parent = y / 2 * above.W + span.first / 2;
          share(&above.value[parent], &above.count[parent], parent_side(span.size()), left);
        } else {
          std::fill(left, left + level.W, A(0));
        }
        take(level.mask + y * level.W + span.first, level.limit,
             gradient(l, y, span, first) + span.first, left, span.size(), row + span.first);
      }
      if (l == 0)
        put(pyramid, y, row, out, out_pixel, streamed);
    }
  }
}

} // namespace

template <class T>
void push_pull(const PushPull<T>& op) {
  using A = acc_t<T>;
  const int64_t texels = op.H * op.W;
  if (op.M * op.C * texels == 0)
    return;
  const bool streamed = can_stream(op.W * int64_t(sizeof(T)), op.M * op.C * texels * sizeof(T));
  parallel(op.M, 1, [&](int64_t begin, int64_t end) {
    Pyramid<A> pyramid(op.H, op.W);
    for (int64_t m = begin; m < end; ++m) {
      T* filled = op.filled.data + m * op.C * texels;
      if (!know(pyramid, op.weight + m * texels, op.min_weight)) {
        const int64_t bytes = op.C * texels * int64_t(sizeof(T));
        streamed ? stream_zeros(filled, bytes) : (void)memset(filled, 0, bytes);
        continue;
      }
      if (op.radius >= 0)
        reach(pyramid, std::min(op.radius, std::max(op.H, op.W)));
      const T* atlas = op.atlas.data + m * op.C * texels;
      const auto apply = op.adjoint ? fill_plane_adjoint<T> : fill_plane<T>;
      for (int64_t c = 0; c < op.C; ++c)
        apply(pyramid, atlas + c * op.atlas.channel, op.atlas.pixel, filled + c * op.filled.channel,
              op.filled.pixel, streamed);
    }
    stream_fence();
  });
}

template void push_pull(const PushPull<float>&);
template void push_pull(const PushPull<double>&);
template void push_pull(const PushPull<float16>&);
template void push_pull(const PushPull<bfloat16>&);

} // namespace pose_kernels::cpu
