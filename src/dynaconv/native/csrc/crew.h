// Threads that work on one program together, from its first step to its last.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "program.h"

namespace dynaconv {

// One thread, the leader, goes through the program and publishes loops; the others help with whatever loop is open.
// Iterations are taken in chunks, by whoever comes: a thread that the system has suspended is missed only where it
// holds a chunk, and nobody waits for one that has not come yet. The whole crew meets but once, at the end.
class Crew {
 public:
  using Body = void (*)(Index begin, Index end, void* context);

  // Runs lead(crew) on the calling thread while torch's other threads help.
  template <class F>
  static void run(const F& lead) {
    Crew crew;
    crew.start([](Crew& c, void* context) { (*static_cast<const F*>(context))(c); },
               const_cast<void*>(static_cast<const void*>(&lead)));
  }

  // Whether the caller had to wait for the others lately, so that it is better off without them for a while.
  static bool is_scarce();

  // Calls body on ranges that cover [0, n): large ones first, one for each thread, then small ones, so that all are
  // done at about the same time. Only the leader calls it, and does all of it where others had to be waited for lately.
  void each(Index n, Body body, void* context);

 private:
  using Lead = void (*)(Crew& crew, void* context);

  void start(Lead lead, void* context);
  void help();
  bool work();   // takes and does one chunk, if one is open
  Index chunk(Index index) const;   // where it begins

  // What is open, as one number, so that nobody takes a piece of a loop that has been replaced meanwhile: the loop's
  // number, its chunks (12 bits), the chunks taken (12 bits).
  alignas(64) std::atomic<std::uint64_t> open_{0};
  alignas(64) std::atomic<std::uint32_t> done_{0};
  alignas(64) std::atomic<std::uint32_t> loops_{0};   // how many were opened: a thread sleeps on 32 bits
  std::atomic<bool> over_{false};
  std::atomic_flag failed_{};
  std::exception_ptr problem_;
  // Fixed while a chunk of the loop is open or being worked on.
  Index n_ = 0, large_ = 0, large_chunks_ = 0, small_chunks_ = 0;
  Body body_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace dynaconv
