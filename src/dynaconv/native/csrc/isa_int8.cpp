// Selects the table of int8 kernels beside that of float32, by the processor's VNNI instructions.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstring>

#include "int8.h"

namespace dynaconv {
namespace {

bool processor_has_vnni(const char* set) {
#if defined(__x86_64__)
  if (!std::strcmp(set, "avx512")) return __builtin_cpu_supports("avx512vnni");
  unsigned a = 0, b = 0, c = 0, d = 0;
  // AVX-VNNI; not every compiler knows its name.
  if (!std::strcmp(set, "avx2")) return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
#endif
  return false;
}

const Int8Kernels& choose() {
  const char* set = kernels().name;
  if (processor_has_vnni(set)) {
    const Int8Kernels* table = !std::strcmp(set, "avx512") ? int8_kernels_avx512() : int8_kernels_avx2();
    if (table) return *table;
  }
  return *int8_kernels_portable();
}

}  // namespace

const Int8Kernels& int8_kernels() {
  static const Int8Kernels& chosen = choose();
  return chosen;
}

}  // namespace dynaconv
