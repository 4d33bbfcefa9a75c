// A thread pool that runs the loops of one program.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "program.h"

namespace dynaconv {

// A pool on the host's threads, for one run of a program. The main thread, which gets index 0 of the host's parallel
// loop, walks through the program and publishes loops; the other threads, the workers, take chunks of the published
// loop. Chunks are taken dynamically: a loop waits for a preempted thread only if that thread holds a chunk, and never
// for a worker that has not started yet. The only barrier over all threads is at the end of the run.
class ThreadPool {
 public:
  using Body = void (*)(Index begin, Index end, void* context);

  // Calls main(pool) on the main thread; the host's other threads are the workers.
  template <class F>
  static void run(const F& main) {
    ThreadPool pool;
    pool.start([](ThreadPool& p, void* context) { (*static_cast<const F*>(context))(p); },
               const_cast<void*>(static_cast<const void*>(&main)));
  }

  // Returns whether the calling thread often had to wait for preempted workers lately, so that it is faster without
  // them for now.
  static bool is_oversubscribed();

  // Calls body on ranges that cover [0, n): one large chunk per thread first, then small ones, so that all threads
  // finish at about the same time. Only the main thread may call it. That thread runs the whole loop itself if the
  // processors are oversubscribed.
  void parallel_for(Index n, Body body, void* context);

 private:
  using Main = void (*)(ThreadPool& pool, void* context);

  void start(Main main, void* context);
  void run_worker();
  bool run_chunk();   // takes and runs one chunk; false if none is left
  Index chunk_begin(Index chunk) const;

  // The published loop in one word, so that no thread takes a chunk of a loop that has been replaced: number of the
  // loop, number of its chunks (12 bits), number of chunks taken (12 bits).
  alignas(64) std::atomic<std::uint64_t> loop_{0};
  alignas(64) std::atomic<std::uint32_t> chunks_done_{0};
  alignas(64) std::atomic<std::uint32_t> num_published_{0};   // workers sleep on it; a futex has 32 bits
  std::atomic<bool> stopped_{false};
  std::atomic_flag failed_{};
  std::exception_ptr exception_;
  // The published loop; constant while one of its chunks is open or running.
  Index n_ = 0, large_end_ = 0, large_chunks_ = 0, small_chunks_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace dynaconv
