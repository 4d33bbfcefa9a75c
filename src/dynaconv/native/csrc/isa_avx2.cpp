#ifdef __AVX2__
#define VL 8
// The 6 x 2 accumulators of a tile fill 12 of 16 registers. Benchmark: benchmarks/native.py with DYNACONV_ISA=avx2.
#define TILE_PIXELS 6
#define TILE_PANELS 1
#include "kernels_impl.h"

namespace dynaconv {
const Kernels* kernels_avx2() {
  static const Kernels k = table("avx2");
  return &k;
}
}  // namespace dynaconv
#else
#include "kernels.h"

namespace dynaconv {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace dynaconv
#endif
