#include "product_int8.h"

#include <algorithm>
#include <cstring>

namespace dynaconv {
namespace {

constexpr Index kBlock = kWord * kPanel;   // channels, and bytes per pixel, of a block

std::uint8_t* bytes_of(const View& v) { return reinterpret_cast<std::uint8_t*>(const_cast<float*>(v.data)); }

// Quantises the pixels that a kernel of one tap reads, without those that its stride skips. Each has its own range, so
// that no result depends on other pixels or samples.
void quantise_pixels(const Step& s, const Images& x, const Images& out, View& v, const Team& team) {
  float* range = Workspace::this_thread().scratch[kRanges].get(2 * out.samples * out.pixels());
  v.range = range;
  v.range_pixel = 2;
  v.range_row = 2 * out.width;
  v.range_sample = 2 * out.pixels();
  v.row = out.width * kPanel;
  v.pixel = kPanel;
  v.taps = {0};
  const auto run = [&](const float* from, Index first, Index count) {
    int8_kernels().quantise({from, s.stride_w * kPanel, x.block(), x.channels, count, bytes_of(v) + first * kBlock,
                             v.block * kWord, range + 2 * first});
  };
  const double work = double(x.blocks()) * double(out.block());
  if (s.stride_h == 1 && s.stride_w == 1) {
    constexpr Index kRun = 8;
    const Index pixels = out.samples * out.pixels();
    team.parallel_for((pixels + kRun - 1) / kRun, work, [&](Index begin, Index end) {
      const Index first = begin * kRun;
      run(x.data + first * kPanel, first, std::min(end * kRun, pixels) - first);
    });
    return;
  }
  team.parallel_for(out.samples * out.height, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index n = i / out.height, y = (i - n * out.height) * s.stride_h;
      run(x.data + (n * x.pixels() + y * x.width) * kPanel, i * out.width, out.width);
    }
  });
}

// The levels of all samples, each from its smallest to its largest number; writes their ranges.
std::vector<Level> levels_of(const Images& x, float* range, const Team& team) {
  const Index blocks = x.blocks();
  float* limits = Workspace::this_thread().scratch[kLimits].get(2 * x.samples * blocks);
  team.parallel_for(x.samples * blocks, double(blocks) * double(x.block()), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index n = i / blocks, b = i - n * blocks;
      const int lanes = int(std::min<Index>(kPanel, x.channels - b * kPanel));
      int8_kernels().limits(x.data + b * x.block() + n * x.pixels() * kPanel, x.pixels(), lanes, limits + 2 * i,
                            limits + 2 * i + 1);
    }
  });
  std::vector<Level> levels;
  for (Index n = 0; n < x.samples; ++n) {
    float low = 0, high = 0;
    for (Index i = n * blocks; i < (n + 1) * blocks; ++i) {
      low = std::min(low, limits[2 * i]);
      // A NaN stays.
      high = limits[2 * i + 1] <= high ? high : limits[2 * i + 1];
      if (high != high) break;
    }
    levels.push_back(int8_kernels().level(low, high, range + 2 * n));
  }
  return levels;
}

// Quantises a row of one sample, between its padding. `copied` pixels are inside the image.
void quantise_row(const float* from, Index x_block, Index channels, Index left, Index copied, Index width,
                  const Level& at, std::uint8_t* out, Index out_block) {
  for (Index b = 0; b * kBlock < channels; ++b) {
    std::uint8_t* row = out + b * out_block;
    std::memset(row, at.zero, std::size_t(left * kBlock));
    std::memset(row + (left + copied) * kBlock, at.zero, std::size_t((width - left - copied) * kBlock));
  }
  if (copied)
    int8_kernels().quantise_at({from, kPanel, x_block, channels, copied, out + left * kBlock, out_block, nullptr}, at);
}

// Quantises whole images, with their padding: a kernel adds up taps of different pixels.
void quantise_images(const Step& s, const Images& x, Index height, View& v, const Team& team) {
  float* range = Workspace::this_thread().scratch[kRanges].get(2 * x.samples);
  v.range = range;
  v.range_sample = 2;
  set_taps(s, v);
  const std::vector<Level> levels = levels_of(x, range, team);
  const double work = double(x.blocks()) * double(v.sample) * double(x.samples);
  team.parallel_for(x.samples * height, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index n = i / height, y = i - n * height - s.pad_top;
      const Index left = std::min<Index>(s.pad_left, v.width);
      const Index copied = y < 0 || y >= x.height ? 0 : std::clamp<Index>(v.width - left, 0, x.width);
      quantise_row(x.data + (n * x.pixels() + y * x.width) * kPanel, x.block(), x.channels, copied ? left : 0, copied,
                   v.width, levels[std::size_t(n)], bytes_of(v) + i * v.width * kBlock, v.block * kWord);
    }
  });
}

}  // namespace

View quantised_view(const Step& s, const Images& x, const Images& out, const Team& team) {
  const bool is_single = s.kernel_h == 1 && s.kernel_w == 1;
  const Index height = is_single ? out.height : (out.height - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  View v;
  v.width = is_single ? out.width : (out.width - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
  v.sample = height * v.width * kPanel;
  v.block = x.samples * v.sample;
  v.data = Workspace::this_thread().scratch[kBytes].get((x.channels + kBlock - 1) / kBlock * v.block);
  if (is_single) {
    quantise_pixels(s, x, out, v, team);
  } else {
    quantise_images(s, x, height, v, team);
  }
  return v;
}

void set_scale(Product& p, const float* constants, std::int64_t offset, const float* factor, Index factor_sample) {
  const Index size = round_up(p.channels, kPanel);
  p.tile.scale = constants + offset;
  p.tile.sums = p.tile.scale + size;
  p.scale_sample = 0;
  if (!factor) return;
  float* scale = Workspace::this_thread().scratch[kScales].get(p.samples * size);
  for (Index n = 0; n < p.samples; ++n)
    for (Index i = 0; i < size; ++i) scale[n * size + i] = p.tile.scale[i] * factor[n * factor_sample + i];
  p.tile.scale = scale;
  p.scale_sample = size;
}

void set_formed(Product& p, const Step& s, const float* w, Index w_sample, const Team& team) {
  const Index taps = s.kernel_h * s.kernel_w, panel = taps * s.in_channels * kPanel;
  const Index panel_words = taps * words_of(s.in_channels) * kPanel;
  const Index panels = (p.channels + kPanel - 1) / kPanel, channels = panels * kPanel, size = panels * panel_words;
  float* words = Workspace::this_thread().scratch[kWords].get(p.samples * (size + 2 * channels));
  float* scale = words + p.samples * size;
  const double work = double(p.samples) * double(panels) * double(panel);
  team.parallel_for(p.samples * panels, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index n = i / panels, b = i - n * panels;
      float* to = scale + n * 2 * channels + b * kPanel;
      int8_kernels().pack[p.channels - b * kPanel > kHalf]({taps, s.in_channels,
                                                            const_cast<float*>(w) + n * w_sample + b * panel,
                                                            words + n * size + b * panel_words, to, to + channels});
    }
  });
  p.tile.w = words;
  p.tile.scale = scale;
  p.tile.sums = scale + channels;
  if (p.samples == 1) return;
  p.w_sample = size;
  p.scale_sample = p.sums_sample = 2 * channels;
}

const float* unpacked_weight(const Step& s, const float* constants, const Team& team) {
  const Index taps = s.kernel_h * s.kernel_w, panel = taps * s.in_channels * kPanel;
  const Index panel_words = taps * words_of(s.in_channels) * kPanel, panels = (s.out_channels + kPanel - 1) / kPanel;
  float* w = Workspace::this_thread().scratch[kUnpacked].get(panels * panel);
  team.parallel_for(panels, double(panels) * double(panel), [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b)
      int8_kernels().unpack[s.out_channels - b * kPanel > kHalf](
          {taps, s.in_channels, w + b * panel, const_cast<float*>(constants) + s.weight + b * panel_words,
           const_cast<float*>(constants) + s.weight_scale + b * kPanel, nullptr});
  });
  return w;
}

}  // namespace dynaconv
