#if defined(__AVXVNNI__) && defined(__AVX2__)
#define VL 8
#define TILE_PIXELS 6
#define TILE_PANELS 1
#include "int8_impl.h"

namespace dynaconv {
const Int8Kernels* int8_kernels_avx2() {
  static const Int8Kernels k = int8_table("avx_vnni", true);
  return &k;
}
}  // namespace dynaconv
#else
#include "int8.h"

namespace dynaconv {
const Int8Kernels* int8_kernels_avx2() { return nullptr; }
}  // namespace dynaconv
#endif
