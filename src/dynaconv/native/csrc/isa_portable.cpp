// Vectors of four floats: SSE2, NEON, or whatever the compiler makes of them.
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
