#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define VL 16
// As in isa_avx512.cpp: two panels need two registers for weights and one for pixels.
#define TILE_PIXELS 14
#define TILE_PANELS 2
#include "int8_impl.h"

namespace dynaconv {
const Int8Kernels* int8_kernels_avx512() {
  static const Int8Kernels k = int8_table("avx512_vnni", true);
  return &k;
}
}  // namespace dynaconv
#else
#include "int8.h"

namespace dynaconv {
const Int8Kernels* int8_kernels_avx512() { return nullptr; }
}  // namespace dynaconv
#endif
