// Products of 8-bit integers: bytes of pixels times signed bytes of weights, added up in 32-bit integers.
//
// Layout: four adjacent input channels are one word of 32 bits, which takes the place of a float in images and panels of
// kernels.h. A block of images therefore has 64 channels; a panel has the words of 16 output channels side by side.
// Distances are in words. Channels behind the last one have weight 0.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dynaconv {

constexpr int kWord = 4;
inline Index words_of(Index channels) { return (channels + kWord - 1) / kWord; }

// Pixels of blocks of 16 channels that become bytes: x = scale * byte - offset.
struct Quantise {
  const float* x;
  Index x_pixel, x_block;   // in floats
  Index channels, pixels;
  std::uint8_t* out;        // 64 bytes per pixel in each block of 64 channels
  Index out_block;          // in bytes
  float* range;             // scale and offset of each pixel
};

// How numbers become bytes: round(x * inverse) + zero.
struct Level {
  float inverse;
  std::int32_t zero;
};

// One panel of weights in floats, in words, and the scale and the sum of the bytes of each output channel.
struct PanelWords {
  Index taps, depth;        // `depth` input channels per tap
  float* floats;            // (tap, input, channel)
  float* words;             // (tap, word, channel)
  float* scale;
  float* sums;
};

struct Int8Kernels {
  const char* name;
  bool is_fast;    // faster than the float32 kernels of the same processor
  int pixels;      // maximum of a tile
  int panels;      // maximum of a tile
  TileFn tile[3][3][kMaxPixels];   // as in Kernels; `Tile::range` is set
  // Gives each pixel its own range, from its smallest to its largest number, and writes it.
  void (*quantise)(const Quantise&);
  // Gives all pixels the same range, that of `level`.
  void (*quantise_at)(const Quantise&, const Level& level);
  // The level of numbers from `low` <= 0 to `high` >= 0, and its range. If one of the two is infinite or NaN, so is the
  // scale, and no result is finite.
  Level (*level)(float low, float high, float* range);
  // The smallest and the largest number of `lanes` channels of a block, or 0; the largest is NaN if one is not finite.
  void (*limits)(const float* x, Index pixels, int lanes, float* low, float* high);
  // Of a half panel, of a panel: floats to words, scale and sums; words and scale to floats.
  void (*pack[2])(const PanelWords&);
  void (*unpack[2])(const PanelWords&);
};

// Null if this build has no code for the instruction set.
const Int8Kernels* int8_kernels_avx512();
const Int8Kernels* int8_kernels_avx2();
const Int8Kernels* int8_kernels_portable();

// Returns the table that belongs to `kernels()`: the portable one if the processor has no instruction for such products.
const Int8Kernels& int8_kernels();

}  // namespace dynaconv
