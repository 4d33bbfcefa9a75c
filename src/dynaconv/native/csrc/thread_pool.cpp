#include "thread_pool.h"

#include <algorithm>
#include <chrono>

namespace dynaconv {
namespace {

using Clock = std::chrono::steady_clock;

// Waits until `value` is no longer `old`: spins first, since loops follow one another within microseconds, then sleeps.
// Benchmarks of the spin time: benchmarks/native.py --threads 2, and benchmarks/native_load.py --busy 1 2 for its cost
// beside other processes (results on Zen 4: docs/native.md).
void wait(const std::atomic<std::uint32_t>& value, std::uint32_t old) {
  constexpr std::chrono::microseconds kSpinTime(40);
  constexpr int kSpinsPerClockRead = 64;
  const auto begin = Clock::now();
  do {
    for (int spin = 0; spin < kSpinsPerClockRead; ++spin) {
      if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  } while (Clock::now() - begin < kSpinTime);
  value.wait(old, std::memory_order_acquire);
}

// Detects oversubscription: workers that are preempted while they hold a chunk, so that the main thread has to wait.
// After kLateLoops such loops within kWindow the main thread runs loops alone for kSerialTime. The workers sleep then,
// and the system can move the main thread to a processor that they leave.
// Benchmark of its four constants: benchmarks/native_load.py --busy 1 2 (results on Zen 4: docs/native.md).
class OversubscriptionDetector {
 public:
  static OversubscriptionDetector& this_thread() {
    thread_local OversubscriptionDetector detector;
    return detector;
  }

  bool is_oversubscribed(Clock::time_point now) const { return now < serial_until_; }

  // Reports a loop of `num_threads` threads that began at `begin`. At `taken` the main thread found no chunk left to
  // take; at `end` all chunks were done.
  void report(Index num_threads, Clock::time_point begin, Clock::time_point taken, Clock::time_point end) {
    constexpr std::chrono::microseconds kMinWait(100), kWindow(60'000), kSerialTime(200'000);
    constexpr int kLateLoops = 3;
    // Short waits come from chunks of unequal size, longer ones from large chunks. The main thread would need
    // (num_threads - 1) times its own part for the parts of all workers; waiting less than that is worth it.
    const Index parts = std::max<Index>(2, num_threads - 1);
    if (end - taken < kMinWait || end - taken < parts * (taken - begin)) return;
    if (end - window_begin_ > kWindow) {
      window_begin_ = end;
      late_loops_ = 0;
    }
    if (++late_loops_ < kLateLoops) return;
    late_loops_ = 0;
    serial_until_ = end + kSerialTime;
  }

 private:
  Clock::time_point window_begin_{}, serial_until_{};
  int late_loops_ = 0;
};

constexpr std::uint64_t kTakenMask = (1 << 12) - 1, kChunksMask = kTakenMask << 12;

}  // namespace

bool ThreadPool::is_oversubscribed() {
  return OversubscriptionDetector::this_thread().is_oversubscribed(Clock::now());
}

bool ThreadPool::run_chunk() {
  std::uint64_t loop = loop_.load(std::memory_order_acquire);
  for (;;) {
    const std::uint64_t taken = loop & kTakenMask, chunks = (loop & kChunksMask) >> 12;
    if (taken == chunks) return false;
    if (!loop_.compare_exchange_weak(loop, loop + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    try {
      const Index begin = chunk_begin(Index(taken)), end = chunk_begin(Index(taken) + 1);
      if (begin < end) body_(begin, end, context_);
    } catch (...) {
      if (!failed_.test_and_set()) exception_ = std::current_exception();
    }
    // The main thread waits only for the last chunk.
    if (chunks_done_.fetch_add(1, std::memory_order_release) + 1 == chunks) chunks_done_.notify_one();
    return true;
  }
}

Index ThreadPool::chunk_begin(Index chunk) const {
  if (chunk <= large_chunks_) return large_end_ * chunk / large_chunks_;
  return large_end_ + (n_ - large_end_) * (chunk - large_chunks_) / small_chunks_;
}

void ThreadPool::parallel_for(Index n, Body body, void* context) {
  if (n <= 0) return;
  const auto begin = Clock::now();
  auto& detector = OversubscriptionDetector::this_thread();
  if (detector.is_oversubscribed(begin)) return body(0, n, context);
  // Five chunks per thread fit into the 12 bits of `loop_`.
  constexpr Index kMaxThreads = 512;
  const Index num_threads = std::clamp<Index>(threads.count(), 1, kMaxThreads);
  n_ = n;
  // Large chunks take 17/20 of the loop, four small ones per thread the rest. Benchmark of both numbers:
  // benchmarks/native.py --threads 2 (results on Zen 4: docs/native.md). More small chunks make no measurable
  // difference.
  large_end_ = n * 17 / 20;
  large_chunks_ = std::min(num_threads, n);
  small_chunks_ = std::min(4 * num_threads, n);
  body_ = body;
  context_ = context;
  chunks_done_.store(0, std::memory_order_relaxed);
  const std::uint64_t chunks = std::uint64_t(large_chunks_ + small_chunks_);
  const std::uint64_t closed = loop_.load(std::memory_order_relaxed) | kTakenMask | kChunksMask;
  loop_.store(closed + 1 + (chunks << 12), std::memory_order_release);
  num_published_.fetch_add(1, std::memory_order_release);
  num_published_.notify_all();
  while (run_chunk()) {
  }
  if (chunks_done_.load(std::memory_order_acquire) != chunks) {
    const auto taken = Clock::now();
    for (std::uint32_t done; (done = chunks_done_.load(std::memory_order_acquire)) != chunks;) wait(chunks_done_, done);
    detector.report(num_threads, begin, taken, Clock::now());
  }
  if (exception_) std::rethrow_exception(exception_);
}

void ThreadPool::run_worker() {
  while (!stopped_.load(std::memory_order_acquire)) {
    const std::uint32_t published = num_published_.load(std::memory_order_acquire);
    while (run_chunk()) {
    }
    if (!stopped_.load(std::memory_order_acquire)) wait(num_published_, published);
  }
}

void ThreadPool::start(Main main, void* context) {
  struct Call {
    ThreadPool& pool;
    Main main;
    void* context;
  } call{*this, main, context};
  threads.parallel_for(
      threads.count(),
      [](Index begin, Index, void* raw) {
        Call& c = *static_cast<Call*>(raw);
        if (begin > 0) return c.pool.run_worker();
        struct StopWorkers {
          ThreadPool& pool;
          ~StopWorkers() {
            pool.stopped_.store(true, std::memory_order_release);
            pool.num_published_.fetch_add(1, std::memory_order_release);
            pool.num_published_.notify_all();
          }
        } stop_workers{c.pool};
        c.main(c.pool, c.context);
      },
      &call);
}

}  // namespace dynaconv
