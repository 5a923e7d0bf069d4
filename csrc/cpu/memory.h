// SPDX-License-Identifier: Apache-2.0
// Writing large outputs once: stores that bypass the cache, and huge pages for fresh memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pose_kernels::cpu {

// Outputs from this size on are streamed: they would not stay in the cache anyway, and a plain
// store first reads the line it is about to overwrite.
constexpr int64_t kStreamBytes = 16 << 20;

// Whether pieces of `bytes` each can be streamed one after another: they must keep the alignment.
inline bool can_stream(int64_t piece_bytes, int64_t total_bytes) {
  return total_bytes >= kStreamBytes && piece_bytes % 16 == 0;
}

// memcpy past the cache; `target` is aligned to 16 bytes.
inline void stream(void* target, const void* source, int64_t bytes) {
  char* to = static_cast<char*>(target);
  const char* from = static_cast<const char*>(source);
  int64_t i = 0;
#if defined(__SSE2__)
  for (; i + 16 <= bytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
#endif
  memcpy(to + i, from + i, bytes - i);
}

// The same to a target aligned to its elements only, and zeros.
inline void stream_anywhere(void* target, const void* source, int64_t bytes) {
  const int64_t head = std::min<int64_t>(bytes, int64_t(-reinterpret_cast<intptr_t>(target) & 15));
  memcpy(target, source, head);
  stream(static_cast<char*>(target) + head, static_cast<const char*>(source) + head, bytes - head);
}

inline void stream_zeros(void* target, int64_t bytes) {
  char* to = static_cast<char*>(target);
  int64_t i = std::min<int64_t>(bytes, int64_t(-reinterpret_cast<intptr_t>(target) & 15));
  memset(to, 0, i);
#if defined(__SSE2__)
  for (; i + 16 <= bytes; i += 16)
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i), _mm_setzero_si128());
#endif
  memset(to + i, 0, bytes - i);
}

// Memory that begins a cache line: vectors of whole lines then never straddle two.
template <class T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
  void deallocate(T* data, size_t) { ::operator delete(data, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
  bool operator!=(const LineAllocator&) const { return false; }
};
template <class T>
using aligned_vector = std::vector<T, LineAllocator<T>>;

// Before another thread reads what was streamed.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Ask for huge pages behind a fresh output: without them the page faults of a 150 MB tensor cost
// several times the kernel. POSE_KERNELS_HUGE_PAGES=0 turns it off.
inline void prefer_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  static const bool enabled = [] {
    const char* value = std::getenv("POSE_KERNELS_HUGE_PAGES");
    return !(value && value[0] == '0');
  }();
  constexpr uintptr_t page = uintptr_t(2) << 20;
  if (!enabled || bytes < int64_t(2 * page))
    return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) & ~(page - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + uintptr_t(bytes)) & ~(page - 1);
  if (begin < end)
    (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE); // advice only
#else
  (void)data, (void)bytes;
#endif
}

// Memory that is not initialized, in huge pages where it is large: rows that are read here and
// there would otherwise take as long to find as to read.
template <class T>
class Pages {
public:
  explicit Pages(int64_t count) {
    constexpr int64_t page = int64_t(2) << 20;
    const int64_t bytes = count * int64_t(sizeof(T));
    if (bytes < 2 * page) {
      data_.reset(static_cast<T*>(std::malloc(bytes)));
    } else {
      data_.reset(static_cast<T*>(std::aligned_alloc(page, (bytes + page - 1) / page * page)));
      prefer_huge_pages(data_.get(), bytes);
    }
    if (!data_ && bytes)
      throw std::bad_alloc();
  }
  T* get() const { return data_.get(); }

private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::unique_ptr<T[], Free> data_;
};

} // namespace pose_kernels::cpu
