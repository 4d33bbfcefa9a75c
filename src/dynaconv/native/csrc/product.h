// A matrix product over rows of pixels, cut into register tiles.
#pragma once

#include "workspace.h"

namespace dynaconv {

// `tile` holds what all tiles share; its pointers are those of sample 0, row 0, channel 0. The other members say how
// pointers move. Rows of a sample have `length` output pixels each.
struct Product {
  Tile tile{};
  Index samples = 1, rows = 1, length = 0, channels = 0;
  Index x_sample = 0, x_row = 0;
  Index w_sample = 0;                // 0: all samples share the weights
  Index z_sample = 0, z_row = 0;
  Index scale_sample = 0, bias_sample = 0;
  Index add_sample = 0, add_row = 0;
  Index out_sample = 0, out_row = 0;
  Ahead ahead;                       // what is read after this product
  bool to_panels = false;            // `add` and `out` are panels, so a half panel has 8 floats a pixel
};

void multiply(const Product& product, const Team& team);

// Register tiles of the pixels of one sample.
Index tiles_a_sample(const Product& product);

// The part of a product that is `channels` columns from `first` on, a multiple of 16, of one sample. Its result goes
// to `out`, one channel block after another.
Product columns(const Product& product, Index sample, Index first, Index channels, float* out, Index out_block);

// The part of a product of one sample that is image rows [from, to), each `width` pixels of the output.
Product rows(const Product& product, Index from, Index to, Index width);

// The product of a matrix with pixels that lie one after another, 16 floats apart: the usual case.
Product pointwise(const float* x, Index x_block, Index depth, const float* w, Index pixels, Index channels, float* out,
                  Index out_block);

}  // namespace dynaconv
