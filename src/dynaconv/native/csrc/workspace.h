// Buffers that a thread keeps between calls, and parallel loops.
#pragma once

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <new>

#include "thread_pool.h"
#include "huge_pages.h"

namespace dynaconv {

// A buffer that grows on demand and never shrinks. New memory is zero, so that padding lanes hold finite numbers.
class Buffer {
 public:
  float* get(Index floats) {
    if (floats > size_) {
      const std::size_t bytes = (std::size_t(floats) * sizeof(float) + 63) / 64 * 64;
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
      size_ = memory_ ? floats : 0;
      if (!memory_) throw std::bad_alloc();
      use_huge_pages(memory_.get(), bytes);
      std::memset(memory_.get(), 0, bytes);
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  Index size_ = 0;
};

enum Scratch {
  kPadded, kContext, kHidden, kGateOut, kHeads, kBias, kAttentions, kLatent, kMixed, kBlocks, kFormed, kWidened, kFused,
  kSums, kBytes, kRanges, kLimits, kScales, kWords, kUnpacked, kNumScratch
};

struct Workspace {
  std::deque<Buffer> slots, sums;
  Buffer group, group_sums;
  Buffer scratch[kNumScratch];

  static Workspace& this_thread() {
    thread_local Workspace workspace;
    return workspace;
  }
};

// The threads that run a loop: those of a pool, or the calling thread alone.
class Team {
 public:
  Team() = default;
  explicit Team(ThreadPool& pool) : pool_(&pool), num_threads_(threads.count()) {}

  // Calls f(begin, end) on ranges that cover [0, n). `work` is a rough number of multiply-adds; the calling thread runs
  // a loop of less than kMinWork alone, because waking another thread costs more than it saves. Benchmark of kMinWork:
  // benchmarks/native.py --threads 2 (results on Zen 4: docs/native.md).
  template <class F>
  void parallel_for(Index n, double work, const F& f) const {
    constexpr double kMinWork = 2e4;
    if (!pool_ || n < 2 || work < kMinWork) {
      if (n > 0) f(Index(0), n);
      return;
    }
    pool_->parallel_for(
        n, [](Index begin, Index end, void* context) { (*static_cast<const F*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

  bool is_parallel() const { return pool_ != nullptr; }
  Index size() const { return num_threads_; }

 private:
  ThreadPool* pool_ = nullptr;
  Index num_threads_ = 1;
};

inline Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }
// Floats per input in the panels of `channels` output channels.
inline Index panel_width(Index channels) {
  const Index rest = channels % kPanel;
  return channels - rest + (rest == 0 ? 0 : rest <= kHalf ? kHalf : kPanel);
}

}  // namespace dynaconv
