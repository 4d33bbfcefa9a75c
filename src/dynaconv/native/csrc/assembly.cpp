// Assembles W(x) of cells: a product gives the blocks of every sample, which are then put in the order of the weights.
#include <algorithm>

#include "layers.h"

namespace dynaconv {
namespace {

// Writes one panel of one W(x). Its lanes are cut into runs of output channels of one block and one group.
class Panel {
 public:
  Panel(const Step& s, const Windows& windows, const float* scale, Index stride)
      : s_(s), windows_(windows), scale_(scale), stride_(stride), inputs_(kernel_inputs(s)),
        outputs_(s.kind == kDepthwise ? s.out_channels : s.out_channels / s.groups) {}

  void write(const float* blocks, Index panel, float* out) const {
    const Index first = panel * kPanel, end = std::min<Index>(first + kPanel, s_.out_channels);
    const Index width = s_.kind == kDepthwise || end - first > kHalf ? kPanel : kHalf;
    const auto window = windows_.at(panel);
    if (windows_.is_grouped() || end - first < width)
      std::fill_n(out, s_.kernel_h * s_.kernel_w * window.count * width, 0.0f);
    for (Index o = first, count; o < end; o += count) {
      count = std::min({end - o, s_.cell_out - o % s_.cell_out, outputs_ - o % outputs_});
      // The first input channel of the group, counted from the first one that the panel reads.
      const Index inputs = windows_.is_grouped() ? o / outputs_ * inputs_ - window.first : 0;
      for (Index tap = 0; tap < s_.kernel_h * s_.kernel_w; ++tap)
        write_run(blocks, tap, o, count, out + (tap * window.count + inputs) * width + o - first, width);
    }
  }

 private:
  // Writes one tap of the output channels [o, o + count).
  void write_run(const float* blocks, Index tap, Index o, Index count, float* out, Index width) const {
    const Index y = tap / s_.kernel_w, x = tap % s_.kernel_w;
    const Index place = y / s_.cell_h * (s_.kernel_w / s_.cell_w) + x / s_.cell_w;
    const Index cell_tap = y % s_.cell_h * s_.cell_w + x % s_.cell_w;
    const Index in_blocks = inputs_ / s_.cell_in;
    const float* block = blocks + (place * (s_.out_channels / s_.cell_out) + o / s_.cell_out) * in_blocks * stride_;
    const Index element = cell_tap * s_.cell_in * s_.cell_out + o % s_.cell_out;
    for (Index i = 0; i < in_blocks; ++i, block += stride_) {
      const float* from = block + element;
      for (Index channel = 0; channel < s_.cell_in; ++channel, from += s_.cell_out, out += width)
        for (Index lane = 0; lane < count; ++lane) out[lane] = scale_ ? scale_[o + lane] * from[lane] : from[lane];
    }
  }

  const Step& s_;
  const Windows& windows_;
  const float* scale_;
  Index stride_, inputs_, outputs_;
};

// Multiplies the cells in bfloat16, which are widened one panel at a time. `panel_size` is the number of words of a panel.
void multiply_widened(const Product& p, Index panel_size, const Team& team) {
  const Index panels = (p.channels + kPanel - 1) / kPanel, rows = p.tile.depth;
  const double work = double(p.samples) * double(p.length) * double(p.channels) * double(rows);
  team.parallel_for(panels, work, [&](Index begin, Index end) {
    static const float kOne = 1.0f;
    float* w = Workspace::this_thread().scratch[kWidened].get(rows * kPanel);
    for (Index i = begin; i < end; ++i) {
      Product part = columns(p, 0, i * kPanel, kPanel, p.tile.out + i * p.tile.out_block, p.tile.out_block);
      kernels().mix_bf16[part.channels > kHalf]({rows, p.tile.w + i * panel_size, 1, &kOne, nullptr, nullptr, w});
      part.samples = p.samples;
      part.tile.w = w;
      multiply(part, Team());
    }
  });
}

}  // namespace

Index num_blocks(const Step& s) {
  return s.kernel_h / s.cell_h * (s.kernel_w / s.cell_w) * (s.out_channels / s.cell_out) *
         (kernel_inputs(s) / s.cell_in);
}

void assemble(const Step& s, const float* constants, const Coefficients& c, const Windows& windows, Index samples,
              Index size, float* out, const Team& team) {
  const Index cell = s.cell_out * s.cell_in * s.cell_h * s.cell_w, count = num_blocks(s);
  // The distance is no power of two, so that the blocks of one cell element are in different sets of the cache.
  const Index stride = round_up(cell, kPanel) + kPanel;
  float* blocks = Workspace::this_thread().scratch[kBlocks].get(samples * count * stride);
  Product p = pointwise(c.cells, kPanel, s.num_cells, constants + s.cells, count, cell, blocks, kPanel);
  p.tile.x_pixel = s.num_cells + 1;
  p.tile.out_pixel = stride;
  p.samples = samples;
  p.x_sample = c.sample;
  p.out_sample = count * stride;
  if (s.precision == kBf16) {
    multiply_widened(p, stored_rows(s, s.num_cells) * kPanel, team);
  } else {
    multiply(p, team);
  }

  const Panel panel(s, windows, constant_at(constants, s.channel_scale), stride);
  const Index panels = (s.out_channels + kPanel - 1) / kPanel;
  const Index distance = s.kernel_h * s.kernel_w * windows.size() * kPanel;
  team.parallel_for(samples * panels, double(samples) * double(size), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index n = i / panels, each = i - n * panels;
      panel.write(blocks + n * count * stride, each, out + n * size + each * distance);
    }
  });
}

}  // namespace dynaconv
