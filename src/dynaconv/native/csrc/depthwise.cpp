// Depthwise convolution: one channel block of one sample is a task; its rows are cut into runs of at most 7 pixels.
#include <algorithm>

#include "layers.h"

namespace dynaconv {

// The taps of one axis that lie inside the image, for an output whose first tap reads position `from`.
DepthwiseBlock::Inside DepthwiseBlock::inside(Index from, Index taps, Index dilation, Index size) {
  const Index first = std::min(taps, from >= 0 ? 0 : (-from + dilation - 1) / dilation);
  const Index last = from >= size ? 0 : std::min(taps, (size - 1 - from) / dilation + 1);
  return {first, std::max<Index>(0, last - first)};
}

DepthwiseBlock::DepthwiseBlock(const Step& s, const float* constants, const Images& x, const Images& out)
    : s_(s), constants_(constants), x_(x), out_(out) {
  fast_ = s.kernel_h == s.kernel_w && (s.kernel_w == 3 || s.kernel_w == 5) && s.dilation_w == 1 &&
          (s.stride_w == 1 || s.stride_w == 2);
}

void DepthwiseBlock::run(const float* x, Index block, Index sample) const {
  const float* w = constants_ + s_.weight + block * s_.kernel_h * s_.kernel_w * kPanel;
  const float* bias = s_.bias < 0 ? nullptr : constants_ + s_.bias + block * kPanel;
  float* out = out_.data + block * out_.block() + sample * out_.pixels() * kPanel;
  float* sum = out_.sums ? out_.sums + (block * out_.samples + sample) * kPanel : nullptr;
  if (sum) std::fill_n(sum, kPanel, 0.0f);
  const Index parts = (out_.width + kMaxRow - 1) / kMaxRow;
  for (Index oy = 0; oy < out_.height; ++oy) {
    const Index y = oy * s_.stride_h - s_.pad_top;
    const Inside rows = inside(y, s_.kernel_h, s_.dilation_h, x_.height);
    const float* row = x + (y + rows.first * s_.dilation_h) * x_.width * kPanel;
    for (Index i = 0; i < parts; ++i) {
      const Index begin = i * out_.width / parts, end = (i + 1) * out_.width / parts;
      part(row, rows, begin, end, w, bias, out + (oy * out_.width + begin) * kPanel, sum);
    }
  }
}

void DepthwiseBlock::part(const float* row, Inside rows, Index begin, Index end, const float* w, const float* bias,
                          float* out, float* sum) const {
  const Kernels& k = kernels();
  const Index x0 = begin * s_.stride_w - s_.pad_left;
  const Index stop = (end - 1) * s_.stride_w - s_.pad_left + (s_.kernel_w - 1) * s_.dilation_w + 1;
  const Index left = std::max<Index>(0, -x0), right = std::max<Index>(0, stop - x_.width);
  const float* first = w + rows.first * s_.kernel_w * kPanel;
  const Index x_row = x_.width * s_.dilation_h * kPanel;
  const auto act = Activation(s_.activation);
  const Index edge = (s_.kernel_w - 1) / 2;
  if (fast_ && left <= edge && right <= edge) {
    const Row r{row + x0 * kPanel, x_row, int(rows.count), first, int(left), int(right), bias, out, act};
    k.row[s_.kernel_w == 5][s_.stride_w - 1][end - begin - 1](r, sum);
    return;
  }
  for (Index ox = begin; ox < end; ++ox, out += kPanel) {
    const Index from = ox * s_.stride_w - s_.pad_left;
    const Inside columns = inside(from, s_.kernel_w, s_.dilation_w, x_.width);
    k.point(row + (from + columns.first * s_.dilation_w) * kPanel, x_row, s_.dilation_w * kPanel, int(rows.count),
            int(columns.count), first + columns.first * kPanel, int(s_.kernel_w), bias, act, out, sum);
  }
}

void depthwise(const Step& s, const float* constants, const Images& x, Images& out, const Team& team) {
  const DepthwiseBlock block(s, constants, x, out);
  const double work = double(out.samples) * double(out.pixels()) * double(out.channels * s.kernel_h * s.kernel_w);
  team.each(out.blocks() * out.samples, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index b = i / out.samples, n = i - b * out.samples;
      block.run(x.data + b * x.block() + n * x.pixels() * kPanel, b, n);
    }
  });
}

}  // namespace dynaconv
