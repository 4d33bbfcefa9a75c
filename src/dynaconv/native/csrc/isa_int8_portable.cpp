// Integers without special instructions: the reference of the others, and what a program in int8 runs on without VNNI.
#define VL 4
#define TILE_PIXELS 3
#define TILE_PANELS 1
#include "int8_impl.h"

namespace dynaconv {
const Int8Kernels* int8_kernels_portable() {
  static const Int8Kernels k = int8_table("portable", false);
  return &k;
}
}  // namespace dynaconv
