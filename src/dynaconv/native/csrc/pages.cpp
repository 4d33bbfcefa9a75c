#include "pages.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#endif

namespace dynaconv {

void use_large_pages(const void* data, std::size_t bytes) {
#if defined(__linux__)
  constexpr std::uintptr_t kPage = 4096, kLarge = 2 << 20;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
  if (end < begin + kLarge) return;
  void* first = reinterpret_cast<void*>(begin);
  madvise(first, end - begin, MADV_HUGEPAGE);
  // Pages that are there already are gathered at once (Linux 6.1); else the kernel does it by and by.
  madvise(first, end - begin, MADV_COLLAPSE);
#else
  (void)data;
  (void)bytes;
#endif
}

}  // namespace dynaconv
