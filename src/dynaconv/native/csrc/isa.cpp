// Selects the table of kernels: the best one that the processor can run, or the one that DYNACONV_ISA names.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace dynaconv {
namespace {

bool processor_has(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!std::strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && processor_has("avx2");
  if (!std::strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
#endif
  return !std::strcmp(name, "portable");
}

const Kernels* compiled_table(const char* name) {
  if (!std::strcmp(name, "avx512")) return kernels_avx512();
  if (!std::strcmp(name, "avx2")) return kernels_avx2();
  if (!std::strcmp(name, "portable")) return kernels_portable();
  throw std::runtime_error(std::string("DYNACONV_ISA must be 'avx512', 'avx2' or 'portable'; got '") + name + "'.");
}

const Kernels& choose() {
  const char* forced = std::getenv("DYNACONV_ISA");
  if (forced && *forced) return kernels_named(forced);
  for (const char* name : {"avx512", "avx2"})
    if (processor_has(name) && compiled_table(name)) return *compiled_table(name);
  return *kernels_portable();
}

}  // namespace

const Kernels& kernels_named(const char* name) {
  const Kernels* table = compiled_table(name);
  if (!table || !processor_has(name))
    throw std::runtime_error(std::string("DYNACONV_ISA='") + name +
                             "' needs instructions that this processor or build does not have; unset it.");
  return *table;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace dynaconv
