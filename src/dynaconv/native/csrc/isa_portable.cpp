// Vectors of four floats: SSE2, NEON, or the code that the compiler generates for other processors.
// The accumulators of a tile, four vectors per pixel, fill 12 of 16 SSE2 registers or 24 of 32 NEON registers.
// Benchmark: benchmarks/native.py with DYNACONV_ISA=portable.
#define VL 4
#ifdef __aarch64__
#define TILE_PIXELS 6
#else
#define TILE_PIXELS 3
#endif
#define TILE_PANELS 1
#include "kernels_impl.h"

namespace dynaconv {
const Kernels* kernels_portable() {
  static const Kernels k = table("portable");
  return &k;
}
}  // namespace dynaconv
