#include "mixture_patches.h"

#include <algorithm>

#include "parts.h"

namespace dynaconv {
namespace {

struct Buffers {
  Buffer channel, to_channel, to_factors;

  static Buffers& this_thread() {
    thread_local Buffers buffers;
    return buffers;
  }
};

// Calls f(number of the tap among all patches, tap, offset of the pixel that it reads, or -1 outside the image).
template <class F>
void for_each_tap(const MixtureConv& c, const F& f) {
  for (Index y = 0, number = 0; y < c.y.height; ++y)
    for (Index x = 0; x < c.y.width; ++x)
      for (Index ky = 0, tap = 0; ky < c.kernel_h; ++ky)
        for (Index kx = 0; kx < c.kernel_w; ++kx, ++tap, ++number) {
          const Index row = y * c.stride_h + ky * c.dilation_h - c.pad_h;
          const Index column = x * c.stride_w + kx * c.dilation_w - c.pad_w;
          const bool is_inside = row >= 0 && row < c.x.height && column >= 0 && column < c.x.width;
          f(number, tap, is_inside ? row * c.x.stride_h + column * c.x.stride_w : -1);
        }
}

// One sample's coefficients.
struct Sample {
  const MixtureConv& c;
  Index n;
  const float* channel;

  Sample(const MixtureConv& conv, Index sample) : c(conv), n(sample) {
    if (c.channel) {
      channel = c.channel + n * c.input_lanes();
    } else {
      float* ones = Buffers::this_thread().channel.get(c.x.channels);
      std::fill_n(ones, c.x.channels, 1.0f);
      channel = ones;
    }
  }
  float spatial(Index tap) const { return c.spatial ? c.spatial[n * c.taps() + tap] : 1.0f; }
  float attention(Index k) const { return c.attention[n * c.kernels + k]; }
  const float* input() const { return c.input + n * c.x.stride_n; }
};

// The first column of a patch's part for kernel k and a tap, whose number counts the taps of all patches.
Index column_of(const MixtureConv& c, Index number, Index tap, Index k) {
  return ((number - tap) * c.kernels + k * c.taps() + tap) * c.x.channels;
}

Index size_of(const MixtureConv& c) { return c.y.pixels() * c.kernels * c.rows(); }

}  // namespace

void mixture_patches(const MixtureConv& c, float* out) {
  parallel_for_each(c.batch, [&](Index n) {
    const Sample s(c, n);
    float* rows = out + n * size_of(c);
    for_each_tap(c, [&](Index number, Index tap, Index offset) {
      for (Index k = 0; k < c.kernels; ++k) {
        float* row = rows + column_of(c, number, tap, k);
        if (offset < 0)
          std::fill_n(row, c.x.channels, 0.0f);
        else
          kernels().scale_row({c.x.channels, s.input() + offset, s.attention(k) * s.spatial(tap), s.channel}, row);
      }
    });
  });
}

void mixture_patches_gradients(const MixtureConv& c, const float* gradient, const MixtureGradients& to) {
  parallel_for_each(c.batch, [&](Index n) {
    const Sample s(c, n);
    const float* rows = gradient + n * size_of(c);
    float* to_x = to.input ? to.input + n * c.x.stride_n : nullptr;
    const Index lanes = c.input_lanes();
    float* to_channel = Buffers::this_thread().to_channel.get(2 * lanes);
    float* unused = to_channel + lanes;
    std::fill_n(to_channel, lanes, 0.0f);
    float* to_factors = Buffers::this_thread().to_factors.get(c.kernels * c.taps());
    std::fill_n(to_factors, c.kernels * c.taps(), 0.0f);
    for (Index y = 0; to_x && y < c.x.height; ++y)
      for (Index x = 0; x < c.x.width; ++x)
        std::fill_n(to_x + y * c.x.stride_h + x * c.x.stride_w, c.x.channels, 0.0f);
    for_each_tap(c, [&](Index number, Index tap, Index offset) {
      for (Index k = 0; offset >= 0 && k < c.kernels; ++k)
        kernels().scale_row_gradients({c.x.channels, s.input() + offset, s.attention(k) * s.spatial(tap), s.channel},
                                      rows + column_of(c, number, tap, k), to_x ? to_x + offset : unused,
                                      to_factors + k * c.taps() + tap, to_channel);
    });
    float* to_attention = to.attention + n * c.kernels;
    std::fill_n(to_attention, c.kernels, 0.0f);
    float* to_spatial = to.spatial ? to.spatial + n * c.taps() : nullptr;
    if (to_spatial) std::fill_n(to_spatial, c.taps(), 0.0f);
    for (Index k = 0; k < c.kernels; ++k)
      for (Index tap = 0; tap < c.taps(); ++tap) {
        to_attention[k] += s.spatial(tap) * to_factors[k * c.taps() + tap];
        if (to_spatial) to_spatial[tap] += s.attention(k) * to_factors[k * c.taps() + tap];
      }
    if (to.channel) std::copy_n(to_channel, lanes, to.channel + n * lanes);
  });
}

}  // namespace dynaconv
