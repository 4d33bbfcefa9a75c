#ifdef __AVX512F__
#define VL 16
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
