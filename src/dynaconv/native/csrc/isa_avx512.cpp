#ifdef __AVX512F__
#define VL 16
// The 14 x 2 accumulators of a tile fill 28 of 32 registers. Benchmark: benchmarks/native.py
// (results on Zen 4: docs/native.md).
#define TILE_PIXELS 14
#define TILE_PANELS 2
#include "kernels_impl.h"

namespace dynaconv {
const Kernels* kernels_avx512() {
  static const Kernels k = table("avx512");
  return &k;
}
}  // namespace dynaconv
#else
#include "kernels.h"

namespace dynaconv {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace dynaconv
#endif
