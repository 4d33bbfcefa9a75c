// Depthwise convolution: one channel block of one sample is a task; its rows are cut into runs of at most 7 pixels.
#include <algorithm>

#include "layers.h"

namespace dynaconv {
namespace {

// The taps of one axis that lie inside the image, for an output whose first tap reads position `from`.
struct Inside {
  Index first, count;
};

Inside inside(Index from, Index taps, Index dilation, Index size) {
  const Index first = from >= 0 ? 0 : (-from + dilation - 1) / dilation;
  const Index last = from >= size ? 0 : std::min(taps, (size - 1 - from) / dilation + 1);
  return {std::min(first, taps), std::max<Index>(0, last - std::min(first, taps))};
}

class Block {
 public:
  Block(const Step& s, const Images& x, const Images& out) : s_(s), x_(x), out_(out) {
    const Kernels& k = kernels();
    fast_ = s.kernel_h == s.kernel_w && (s.kernel_w == 3 || s.kernel_w == 5) && s.dilation_w == 1 &&
            (s.stride_w == 1 || s.stride_w == 2);
    if (fast_) rows_ = k.row[s.kernel_w == 5][s.stride_w - 1];
    point_ = k.point;
  }

  void run(const float* x, const float* w, const float* bias, float* out, float* sum) const {
    const Index parts = (out_.width + kMaxRow - 1) / kMaxRow;
    for (Index oy = 0; oy < out_.height; ++oy) {
      const Index y = oy * s_.stride_h - s_.pad_top;
      const Inside rows = inside(y, s_.kernel_h, s_.dilation_h, x_.height);
      const float* row = x + (y + rows.first * s_.dilation_h) * x_.width * kPanel;
      for (Index part = 0; part < parts; ++part) {
        const Index begin = part * out_.width / parts, end = (part + 1) * out_.width / parts;
        this->part(row, rows, begin, end, w, bias, out + (oy * out_.width + begin) * kPanel, sum);
      }
    }
  }

 private:
  void part(const float* row, Inside rows, Index begin, Index end, const float* w, const float* bias, float* out,
            float* sum) const {
    const Index x0 = begin * s_.stride_w - s_.pad_left;
    const Index stop = (end - 1) * s_.stride_w - s_.pad_left + (s_.kernel_w - 1) * s_.dilation_w + 1;
    const Index left = std::max<Index>(0, -x0), right = std::max<Index>(0, stop - x_.width);
    const float* first = w + rows.first * s_.kernel_w * kPanel;
    const Index x_row = x_.width * s_.dilation_h * kPanel;
    const auto act = Activation(s_.activation);
    const Index edge = (s_.kernel_w - 1) / 2;
    if (fast_ && left <= edge && right <= edge) {
      const Row r{row + x0 * kPanel, x_row, int(rows.count), first, int(left), int(right), bias, out, act};
      rows_[end - begin - 1](r, sum);
      return;
    }
    for (Index ox = begin; ox < end; ++ox, out += kPanel) {
      const Index from = ox * s_.stride_w - s_.pad_left;
      const Inside columns = inside(from, s_.kernel_w, s_.dilation_w, x_.width);
      point_(row + (from + columns.first * s_.dilation_w) * kPanel, x_row, s_.dilation_w * kPanel, int(rows.count),
             int(columns.count), first + columns.first * kPanel, int(s_.kernel_w), bias, act, out, sum);
    }
  }

  const Step& s_;
  const Images& x_;
  const Images& out_;
  bool fast_;
  const RowFn* rows_ = nullptr;
  void (*point_)(const float*, Index, Index, int, int, const float*, int, const float*, Activation, float*, float*);
};

}  // namespace

void depthwise(const Step& s, const float* constants, const Images& x, Images& out, const Team& team) {
  const Block block(s, x, out);
  const Index taps = s.kernel_h * s.kernel_w;
  const Index blocks = out.blocks();
  const double work = double(out.samples) * double(out.pixels()) * double(out.channels) * double(taps);
  team.each(blocks * out.samples, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index b = i / out.samples, n = i - b * out.samples;
      float* sum = out.sums ? out.sums + i * kPanel : nullptr;
      if (sum) std::fill_n(sum, kPanel, 0.0f);
      const float* bias = s.bias < 0 ? nullptr : constants + s.bias + b * kPanel;
      block.run(x.data + b * x.block() + n * x.pixels() * kPanel, constants + s.weight + b * taps * kPanel, bias,
                out.data + b * out.block() + n * out.pixels() * kPanel, sum);
    }
  });
}

}  // namespace dynaconv
