#include "crew.h"

#include <algorithm>
#include <chrono>

namespace dynaconv {
namespace {

using Clock = std::chrono::steady_clock;

// Waits until `value` is no longer `old`. Loops follow one another within microseconds, so a thread looks for some tens
// of them, then sleeps.
void wait(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  constexpr std::chrono::microseconds kLook(40);
  const auto begin = Clock::now();
  do {
    for (int turn = 0; turn < 64; ++turn) {
      if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  } while (Clock::now() - begin < kLook);
  value.wait(old, std::memory_order_acquire);
}

// Whether the other threads get processors, as the leader sees it. One that the system suspends in the middle of a
// chunk is waited for; where that happens again and again the leader works alone for a while, which takes less time:
// the others sleep then, and the system moves the leader to a processor that they leave.
class Company {
 public:
  static Company& mine() {
    thread_local Company company;
    return company;
  }

  bool is_scarce(Clock::time_point now) const { return now < alone_until_; }

  // Reports a loop of so many threads, whose own part the leader had done at `done`, and which ended at `end`.
  void report(Index count, Clock::time_point begin, Clock::time_point done, Clock::time_point end) {
    constexpr std::chrono::microseconds kLate(100), kWindow(60'000), kAlone(200'000);
    // Chunks of unequal size make for short waits, and large chunks for long ones. What the leader would take for the
    // parts of all the others is worth waiting for.
    if (end - done < kLate || end - done < std::max<Index>(2, count - 1) * (done - begin)) return;
    if (end - first_ > kWindow) {
      first_ = end;
      late_ = 0;
    }
    if (++late_ < 3) return;
    late_ = 0;
    alone_until_ = end + kAlone;
  }

 private:
  Clock::time_point first_{}, alone_until_{};
  int late_ = 0;
};

constexpr std::uint64_t kTaken = (1 << 12) - 1, kChunks = kTaken << 12;

}  // namespace

bool Crew::is_scarce() { return Company::mine().is_scarce(Clock::now()); }

bool Crew::work() {
  std::uint64_t open = open_.load(std::memory_order_acquire);
  for (;;) {
    const std::uint64_t taken = open & kTaken, chunks = (open & kChunks) >> 12;
    if (taken == chunks) return false;
    if (!open_.compare_exchange_weak(open, open + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    try {
      const Index begin = chunk(Index(taken)), end = chunk(Index(taken) + 1);
      if (begin < end) body_(begin, end, context_);
    } catch (...) {
      if (!failed_.test_and_set()) problem_ = std::current_exception();
    }
    // The leader waits for the last one alone.
    if (done_.fetch_add(1, std::memory_order_release) + 1 == chunks) done_.notify_one();
    return true;
  }
}

Index Crew::chunk(Index index) const {
  if (index <= large_chunks_) return large_ * index / large_chunks_;
  return large_ + (n_ - large_) * (index - large_chunks_) / small_chunks_;
}

void Crew::each(Index n, Body body, void* context) {
  if (n <= 0) return;
  const auto begin = Clock::now();
  if (Company::mine().is_scarce(begin)) return body(0, n, context);
  constexpr Index kMostThreads = 512;
  const Index count = std::clamp<Index>(threads.count(), 1, kMostThreads);
  n_ = n;
  large_ = n * 17 / 20;
  large_chunks_ = std::min(count, n);
  small_chunks_ = std::min(4 * count, n);
  body_ = body;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  const std::uint64_t pieces = std::uint64_t(large_chunks_ + small_chunks_);
  const std::uint64_t closed = open_.load(std::memory_order_relaxed) | kTaken | kChunks;
  open_.store(closed + 1 + (pieces << 12), std::memory_order_release);
  loops_.fetch_add(1, std::memory_order_release);
  loops_.notify_all();
  while (work()) {
  }
  if (done_.load(std::memory_order_acquire) != pieces) {
    const auto done = Clock::now();
    for (std::uint32_t now; (now = done_.load(std::memory_order_acquire)) != pieces;) wait(done_, now);
    Company::mine().report(count, begin, done, Clock::now());
  }
  if (problem_) std::rethrow_exception(problem_);
}

void Crew::help() {
  while (!over_.load(std::memory_order_acquire)) {
    const std::uint32_t loops = loops_.load(std::memory_order_acquire);
    while (work()) {
    }
    if (!over_.load(std::memory_order_acquire)) wait(loops_, loops);
  }
}

void Crew::start(Lead lead, void* context) {
  struct Call {
    Crew& crew;
    Lead lead;
    void* context;
  } call{*this, lead, context};
  threads.parallel_for(
      threads.count(),
      [](Index begin, Index, void* raw) {
        Call& c = *static_cast<Call*>(raw);
        if (begin > 0) return c.crew.help();
        struct Over {
          Crew& crew;
          ~Over() {
            crew.over_.store(true, std::memory_order_release);
            crew.loops_.fetch_add(1, std::memory_order_release);
            crew.loops_.notify_all();
          }
        } over{c.crew};
        c.lead(c.crew, c.context);
      },
      &call);
}

}  // namespace dynaconv
