// SPDX-License-Identifier: Apache-2.0
// The machine behind cuda_emulation.h: one block's threads as fibers on stacks of their own, and
// the places where they meet. A fiber runs until it waits for others; whoever arrives last computes
// everyone's result.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <sys/mman.h>
#include <type_traits>
#include <vector>

#if !defined(__x86_64__) || defined(__SANITIZE_ADDRESS__)
#define CUDA_EMULATION_UCONTEXT
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace cuda_emulation {

constexpr int kWarp = 32, kMostThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024, kGuardBytes = 64;

// What a thread waits for. Threads meet only with others that wait for the same thing.
enum class Wait { none, warp_barrier, shuffle, vote, match, block_barrier, done };

inline const char* name(Wait wait) {
  const char* names[] = {"nothing", "__syncwarp",    "a shuffle", "a vote",
                         "a match", "__syncthreads", "done"};
  return names[int(wait)];
}

// ---------------------------------------------------------------------------- switching between
// stacks
#ifdef CUDA_EMULATION_UCONTEXT
struct Stack {
  ucontext_t context;
};
#else
struct Stack {
  void* pointer = nullptr;
};
// Saves the callee-saved registers and the stack pointer to *from, loads those of `to`.
__attribute__((naked, noinline)) inline void switch_stack(void** /*from*/, void* /*to*/) {
  asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
      "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
      "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}
#endif

struct Fiber {
  Stack stack;
  Wait wait = Wait::none;
  uint64_t value = 0;  // what it brings
  int source = 0;      // lane it wants the value of (shuffles)
  uint64_t result = 0; // what it gets
  dim3 thread;
  void* fake_stack = nullptr; // AddressSanitizer's
};

// Lanes of a warp that are meeting: all of `mask` will, those of `arrived` are there.
struct Meeting {
  unsigned arrived = 0, mask = 0;
  Wait wait = Wait::none;
};

struct Machine {
  Fiber fibers[kMostThreads];
  Meeting meetings[kMostThreads]; // [warp, lowest lane of the mask]
  char* stacks = nullptr;         // [kMostThreads, kStackBytes]
  Stack scheduler;
  Fiber* running = nullptr;
  dim3 block, grid, block_index;
  int alive = 0, at_barrier = 0;
  unsigned ready[kMostThreads / kWarp]; // per warp: lanes that can go on
  void (*body)(void*) = nullptr;        // the kernel with its arguments
  void* arguments = nullptr;
  unsigned char* shared = nullptr;
  std::string error;
  int64_t blocks_run = 0; // ever
  unsigned order = 0;     // 0: lowest lane first; 1: highest first; else: seed of a shuffle
  uint64_t random = 0;
  void* scheduler_fake_stack = nullptr;
  const void* scheduler_bottom = nullptr;
  size_t scheduler_size = 0;
};

inline Machine the_machine;
inline Machine& machine() {
  return the_machine;
}

inline void schedule(unsigned order) {
  machine().order = order;
}

inline void leave_fiber(bool finished) {
  Machine& m = machine();
  Fiber& fiber = *m.running;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(finished ? nullptr : &fiber.fake_stack, m.scheduler_bottom,
                                 m.scheduler_size);
#endif
  (void)finished;
#ifdef CUDA_EMULATION_UCONTEXT
  swapcontext(&fiber.stack.context, &m.scheduler.context);
#else
  switch_stack(&fiber.stack.pointer, m.scheduler.pointer);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &m.scheduler_bottom, &m.scheduler_size);
#endif
}

inline void enter_fiber(Fiber& fiber) {
  Machine& m = machine();
  m.running = &fiber;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&m.scheduler_fake_stack,
                                 m.stacks + (&fiber - m.fibers) * kStackBytes, kStackBytes);
#endif
#ifdef CUDA_EMULATION_UCONTEXT
  swapcontext(&m.scheduler.context, &fiber.stack.context);
#else
  switch_stack(&m.scheduler.pointer, fiber.stack.pointer);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(m.scheduler_fake_stack, nullptr, nullptr);
#endif
}

[[noreturn]] inline void fail(const std::string& message) { // from inside a thread
  Machine& m = machine();
  m.error = message + " (block " + std::to_string(m.block_index.x) + ", thread " +
            std::to_string(m.running->thread.x) + ")";
  leave_fiber(false);
  std::abort(); // a failed block is never resumed
}

inline void fiber_main() {
  Machine& m = machine();
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_bottom, &m.scheduler_size);
#endif
  m.body(m.arguments);
  m.running->wait = Wait::done;
  --m.alive;
  leave_fiber(true);
  std::abort();
}

inline void prepare(Fiber& fiber, char* stack) {
#ifdef CUDA_EMULATION_UCONTEXT
  getcontext(&fiber.stack.context);
  fiber.stack.context.uc_stack.ss_sp = stack;
  fiber.stack.context.uc_stack.ss_size = kStackBytes;
  fiber.stack.context.uc_link = nullptr;
  makecontext(&fiber.stack.context, fiber_main, 0);
#else
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 3; // alignment as after a call
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int i = 0; i < 6; ++i)
    *--top = nullptr;
  fiber.stack.pointer = top;
#endif
}

// ---------------------------------------------------------------------------- meeting other
// threads
inline int bit_count(unsigned x) {
  return __builtin_popcount(x);
}

inline void deliver(Wait wait, unsigned mask, Fiber* lanes) {
  unsigned votes = 0;
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1u)
      votes |= unsigned(lanes[i].value != 0) << i;
  for (int i = 0; i < kWarp; ++i) {
    if (!(mask >> i & 1u))
      continue;
    Fiber& lane = lanes[i];
    if (wait == Wait::vote)
      lane.result = votes;
    else if (wait == Wait::shuffle)
      lane.result = lanes[lane.source].value;
    else if (wait == Wait::match) {
      lane.result = 0;
      for (int j = 0; j < kWarp; ++j)
        if (mask >> j & 1u && lanes[j].value == lane.value)
          lane.result |= uint64_t(1) << j;
    }
  }
}

// Waits until all lanes of `mask` have arrived with the same wish; returns this lane's result.
inline uint64_t meet_warp(Wait wait, unsigned mask, uint64_t value, int source) {
  Machine& m = machine();
  Fiber& self = *m.running;
  const int thread = int(self.thread.x), warp = thread / kWarp, own = thread % kWarp;
  Fiber* lanes = &m.fibers[warp * kWarp];
  Meeting& meeting = m.meetings[warp * kWarp + (mask ? __builtin_ctz(mask) : 0)];
  if (!(mask >> own & 1u))
    fail(std::string(name(wait)) + ": the calling lane is not in its own mask");
  if (!(mask >> source & 1u))
    fail(std::string(name(wait)) + ": reads lane " + std::to_string(source) +
         ", which is not in the mask");
  if (meeting.arrived == 0) {
    for (int i = 0; i < kWarp; ++i)
      if (mask >> i & 1u && (warp * kWarp + i >= int(m.block.x) || lanes[i].wait == Wait::done))
        fail(std::string(name(wait)) + ": lane " + std::to_string(i) +
             " of the mask has returned or does not exist");
    meeting.mask = mask;
    meeting.wait = wait;
  } else if (meeting.wait != wait || meeting.mask != mask) {
    fail(std::string(name(wait)) + ": lane " + std::to_string(__builtin_ctz(meeting.arrived)) +
         " of the mask waits for " + name(meeting.wait) +
         (meeting.wait == wait ? " with another mask" : ""));
  }
  self.wait = wait;
  self.value = value;
  self.source = source;
  meeting.arrived |= 1u << own;
  if (meeting.arrived != mask) { // someone is still on the way
    m.ready[warp] &= ~(1u << own);
    leave_fiber(false);
    return self.result;
  }
  deliver(wait, mask, lanes);
  for (int i = 0; i < kWarp; ++i)
    if (mask >> i & 1u)
      lanes[i].wait = Wait::none;
  meeting.arrived = 0;
  m.ready[warp] |= mask;
  return self.result;
}

inline int meet_block(int vote) { // how many threads voted yes
  Machine& m = machine();
  Fiber& self = *m.running;
  const int threads = int(m.block.x);
  if (m.alive != threads)
    fail("__syncthreads: a thread of the block has returned");
  self.wait = Wait::block_barrier;
  self.value = uint64_t(vote != 0);
  if (++m.at_barrier < threads) {
    m.ready[self.thread.x / kWarp] &= ~(1u << (self.thread.x % kWarp));
    leave_fiber(false);
    return int(self.result);
  }
  int votes = 0;
  for (int i = 0; i < threads; ++i)
    votes += int(m.fibers[i].value);
  for (int i = 0; i < threads; ++i) {
    m.fibers[i].wait = Wait::none;
    m.fibers[i].result = uint64_t(votes);
    m.ready[i / kWarp] |= 1u << (i % kWarp);
  }
  m.at_barrier = 0;
  return votes;
}

// ---------------------------------------------------------------------------- running a block
inline int pick_lane(Machine& m, unsigned ready) {
  if (m.order == 0)
    return __builtin_ctz(ready);
  if (m.order == 1)
    return 31 - __builtin_clz(ready);
  m.random = m.random * 6364136223846793005u + 1442695040888963407u;
  for (int skip = int(m.random >> 33) % bit_count(ready); skip > 0; --skip)
    ready &= ready - 1;
  return __builtin_ctz(ready);
}

inline void run_block(Machine& m) {
  const int threads = int(m.block.x), warps = (threads + kWarp - 1) / kWarp;
  m.alive = threads;
  m.at_barrier = 0;
  m.random = m.order;
  for (int i = 0; i < threads; ++i) {
    m.fibers[i].wait = Wait::none;
    m.fibers[i].thread = {unsigned(i), 0, 0};
    prepare(m.fibers[i], m.stacks + i * kStackBytes);
  }
  for (Meeting& meeting : m.meetings)
    meeting.arrived = 0;
  for (int w = 0; w < warps; ++w)
    m.ready[w] = threads - w * kWarp >= kWarp ? ~0u : (1u << (threads - w * kWarp)) - 1u;
  while (m.alive > 0) {
    bool progress = false;
    for (int i = 0; i < warps; ++i) {
      const int w = m.order == 1 ? warps - 1 - i : i;
      while (m.ready[w]) {
        const int lane = pick_lane(m, m.ready[w]);
        enter_fiber(m.fibers[w * kWarp + lane]);
        progress = true;
        if (!m.error.empty())
          return;
        if (m.fibers[w * kWarp + lane].wait == Wait::done)
          m.ready[w] &= ~(1u << lane);
      }
    }
    if (!progress && m.alive > 0) {
      for (int i = 0; i < threads; ++i)
        if (m.fibers[i].wait != Wait::done) {
          m.error = "deadlock: thread " + std::to_string(i) + " of block " +
                    std::to_string(m.block_index.x) + " waits for threads at " +
                    name(m.fibers[i].wait) + " that never come";
          return;
        }
    }
  }
}

inline void run_grid(const char* kernel, int64_t blocks, int threads, int64_t shared_bytes,
                     void (*body)(void*), void* arguments) {
  Machine& m = machine();
  if (threads < 1 || threads > kMostThreads)
    throw std::runtime_error(std::string(kernel) + ": a block of " + std::to_string(threads) +
                             " threads");
  if (!m.stacks) {
    void* memory = mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      throw std::bad_alloc();
    m.stacks = static_cast<char*>(memory);
  }
  std::vector<double> shared((size_t(shared_bytes) + kGuardBytes) / 8 + 3);
  auto* aligned =
      reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(shared.data()) + 15) / 16 * 16);
  m.block = {unsigned(threads), 1, 1};
  m.grid = {unsigned(blocks), 1, 1};
  m.body = body;
  m.arguments = arguments;
  m.shared = aligned;
  m.error.clear();
  for (int64_t b = 0; b < blocks; ++b) {
    m.block_index = {unsigned(b), 0, 0};
    std::memset(aligned, 0xff, size_t(shared_bytes) + kGuardBytes); // NaN as float and as double
    run_block(m);
    for (size_t i = 0; m.error.empty() && i < kGuardBytes; ++i)
      if (aligned[shared_bytes + i] != 0xff)
        m.error = "wrote past its shared memory, in block " + std::to_string(b);
    if (!m.error.empty())
      throw std::runtime_error(std::string(kernel) + ": " + m.error);
    ++m.blocks_run;
  }
}

template <class V>
uint64_t to_bits(V value) {
  static_assert(sizeof(V) <= 8 && std::is_trivially_copyable_v<V>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class V>
V shuffle(unsigned mask, V value, int source) {
  const uint64_t bits = meet_warp(Wait::shuffle, mask, to_bits(value), source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

} // namespace cuda_emulation
