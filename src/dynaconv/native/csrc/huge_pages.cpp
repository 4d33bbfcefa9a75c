#include "huge_pages.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#endif

namespace dynaconv {

void use_huge_pages(const void* data, std::size_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t kHugePage = 2 << 20;
  const auto page_size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + page_size - 1) / page_size * page_size;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / page_size * page_size;
  if (end < begin + kHugePage) return;
  void* first = reinterpret_cast<void*>(begin);
  madvise(first, end - begin, MADV_HUGEPAGE);
  // Collapses pages that are already mapped now (Linux 6.1); older kernels do it later in the background.
  madvise(first, end - begin, MADV_COLLAPSE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace dynaconv
