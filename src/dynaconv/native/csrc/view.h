// The images that the taps of a convolution read.
#pragma once

#include <vector>

#include "layers.h"

namespace dynaconv {

// The images themselves, or a padded copy of them, with its strides in floats. A copy in bytes (int8.h) has its strides
// in words, and the range of its pixels, whose strides are in floats.
struct View {
  const float* data = nullptr;
  Index width = 0, sample = 0, block = 0, row = 0, pixel = 0;
  std::vector<Index> taps;
  Index centre = 0;   // offset of the centre tap, which the DCD residual reads
  const float* range = nullptr;
  Index range_sample = 0, range_row = 0, range_pixel = 0;
};

// Sets the offsets of the taps in a view whose other sizes are set.
inline void set_taps(const Step& s, View& v) {
  for (Index ky = 0; ky < s.kernel_h; ++ky)
    for (Index kx = 0; kx < s.kernel_w; ++kx)
      v.taps.push_back((ky * s.dilation_h * v.width + kx * s.dilation_w) * kPanel);
  v.row = s.stride_h * v.width * kPanel;
  v.pixel = s.stride_w * kPanel;
  v.centre = v.taps[std::size_t((s.kernel_h / 2) * s.kernel_w + s.kernel_w / 2)];
}

}  // namespace dynaconv
