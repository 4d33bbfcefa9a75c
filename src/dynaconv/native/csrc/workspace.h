// Memory that a thread keeps from one call to the next, and the spreading of loops over threads.
#pragma once

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <new>

#include "crew.h"
#include "pages.h"

namespace dynaconv {

// Grows when asked for more and never shrinks. Fresh memory is zero, so that padding lanes hold ordinary numbers.
class Buffer {
 public:
  float* get(Index floats) {
    if (floats > size_) {
      const std::size_t bytes = (std::size_t(floats) * sizeof(float) + 63) / 64 * 64;
      memory_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
      size_ = memory_ ? floats : 0;
      if (!memory_) throw std::bad_alloc();
      use_large_pages(memory_.get(), bytes);
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

enum Scratch { kPadded, kContext, kHidden, kGateOut, kHeads, kLatent, kMixed, kFormed, kFused, kSums, kNumScratch };

struct Workspace {
  std::deque<Buffer> slots, sums;
  Buffer scratch[kNumScratch];

  static Workspace& mine() {
    thread_local Workspace workspace;
    return workspace;
  }
};

// Runs loops with the whole crew, or on the calling thread alone.
class Team {
 public:
  Team() = default;
  explicit Team(Crew& crew) : crew_(&crew), threads_(threads.count()) {}

  // Calls f(begin, end) on ranges that cover [0, n). `work` is a rough count of multiply-adds: below some ten thousand
  // telling another thread costs more than it brings.
  template <class F>
  void each(Index n, double work, const F& f) const {
    if (!crew_ || n < 2 || work < 2e4) {
      if (n > 0) f(Index(0), n);
      return;
    }
    crew_->each(
        n, [](Index begin, Index end, void* context) { (*static_cast<const F*>(context))(begin, end); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

  bool parallel() const { return crew_ != nullptr; }
  Index size() const { return threads_; }

 private:
  Crew* crew_ = nullptr;
  Index threads_ = 1;
};

inline Index round_up(Index n, Index to) { return (n + to - 1) / to * to; }
// Floats of one input's row in the panels of `channels` outputs.
inline Index panel_width(Index channels) {
  const Index rest = channels % kPanel;
  return channels - rest + (rest == 0 ? 0 : rest <= kHalf ? kHalf : kPanel);
}

}  // namespace dynaconv
