// A matrix product over rows of pixels, in register tiles.
#pragma once

#include "windows.h"
#include "workspace.h"

namespace dynaconv {

// `tile` holds the fields that all tiles share; its pointers are those of sample 0, row 0, channel 0. The other members
// are sizes (each row has `length` output pixels) and the strides of these pointers in floats, from sample to sample and
// from row to row.
struct Product {
  Tile tile{};
  Index samples = 1, rows = 1, length = 0, channels = 0;
  Index x_sample = 0, x_row = 0;
  Index w_sample = 0;                // 0 if all samples share the weights
  Index z_sample = 0, z_row = 0;
  Index range_sample = 0, range_row = 0;
  Index scale_sample = 0, bias_sample = 0, sums_sample = 0;
  Index add_sample = 0, add_row = 0;
  Index out_sample = 0, out_row = 0;
  Prefetch prefetch;                 // memory that is read after this product
  bool to_panels = false;            // `add` and `out` are panels: 8 floats per pixel in a half panel
  Windows windows{};                 // the inputs that each panel reads, if the convolution is grouped
  Index first_panel = 0;             // among those of the windows
};

void multiply(const Product& product, const Team& team);

// Whether a product is one of bytes. Distances in `x` and `w` are then in words, and `depth` counts words.
inline bool is_int8(const Product& product) { return product.tile.range != nullptr; }

// Number of register tiles that cover the pixels of one sample.
Index tiles_per_sample(const Product& product);

// The part of a product that computes output channels [first, first + channels) of one sample; `first` is a multiple of
// 16. It writes to `out`, with `out_block` floats from one channel block to the next.
Product columns(const Product& product, Index sample, Index first, Index channels, float* out, Index out_block);

// The part of a one-sample product that computes rows [from, to) of the output, `width` pixels each.
Product rows(const Product& product, Index from, Index to, Index width);

// The product of a matrix with contiguous pixels, 16 floats apart.
Product pointwise(const float* x, Index x_block, Index depth, const float* w, Index pixels, Index channels, float* out,
                  Index out_block);

}  // namespace dynaconv
