// Depthwise convolution. A task is one channel block of one sample; rows are cut into runs of at most kMaxRow pixels.
#include <algorithm>

#include "layers.h"

namespace dynaconv {

DepthwiseBlock::DepthwiseBlock(const Step& s, const DepthwiseWeights& weights, const Images& x, const Images& out)
    : s_(s), weights_(weights), x_(x), out_(out) {
  fast_ = s.kernel_h == s.kernel_w && (s.kernel_w == 3 || s.kernel_w == 5 || s.kernel_w == 7) && s.dilation_w == 1 &&
          (s.stride_w == 1 || s.stride_w == 2);
}

DepthwiseBlock::DepthwiseBlock(const Step& s, const float* constants, const Images& x, const Images& out)
    : DepthwiseBlock(s, DepthwiseWeights{constants + s.weight, 0, constant_at(constants, s.bias), 0}, x, out) {}

DepthwiseBlock::Span DepthwiseBlock::input_rows(Index from, Index to) const {
  const Index first = from * s_.stride_h - s_.pad_top;
  const Index stop = (to - 1) * s_.stride_h - s_.pad_top + (s_.kernel_h - 1) * s_.dilation_h + 1;
  return {std::clamp<Index>(first, 0, x_.height), std::clamp<Index>(stop, 0, x_.height)};
}

void DepthwiseBlock::run(const float* x, Index x_from, Index block, Index sample, Index from, Index to,
                         float* sums) const {
  const float* w = weights_.w + sample * weights_.w_sample + block * s_.kernel_h * s_.kernel_w * kPanel;
  const float* bias = weights_.bias ? weights_.bias + sample * weights_.bias_sample + block * kPanel : nullptr;
  float* out = out_.data + block * out_.block() + sample * out_.pixels() * kPanel;
  const Index num_runs = (out_.width + kMaxRow - 1) / kMaxRow, small = out_.width / num_runs;
  const Index longer = out_.width - num_runs * small;
  const auto act = Activation(s_.activation);
  const bool later = is_applied_later(act);
  for (Index oy = from; oy < to; ++oy) {
    const Index y = oy * s_.stride_h - s_.pad_top;
    const TapRange rows = taps_inside(y, s_.kernel_h, s_.dilation_h, x_.height);
    const float* row = x + (y + rows.first * s_.dilation_h - x_from) * x_.width * kPanel;
    float* row_sum = sums ? sums + oy * kPanel : nullptr;
    float* sum = later ? nullptr : row_sum;
    if (sum) std::fill_n(sum, kPanel, 0.0f);
    // Runs have two lengths; the longer ones come first.
    run_part(row, rows, 0, longer, small + 1, w, bias, out + oy * out_.width * kPanel, sum);
    run_part(row, rows, longer * (small + 1), num_runs - longer, small, w, bias,
             out + (oy * out_.width + longer * (small + 1)) * kPanel, sum);
    if (later) kernels().apply(function_of(act), out + oy * out_.width * kPanel, out_.width, row_sum);
  }
}

void DepthwiseBlock::run_part(const float* row, TapRange rows, Index begin, Index count, Index length, const float* w,
                              const float* bias, float* out, float* sum) const {
  if (!count) return;
  const Kernels& k = kernels();
  const Index end = begin + count * length;
  const Index x0 = begin * s_.stride_w - s_.pad_left;
  const Index stop = (end - 1) * s_.stride_w - s_.pad_left + (s_.kernel_w - 1) * s_.dilation_w + 1;
  const Index left = std::max<Index>(0, -x0), right = std::max<Index>(0, stop - x_.width);
  const float* first = w + rows.first * s_.kernel_w * kPanel;
  const Index x_row = x_.width * s_.dilation_h * kPanel;
  const auto act = is_applied_later(Activation(s_.activation)) ? Activation::kNone : Activation(s_.activation);
  const Index edge = (s_.kernel_w - 1) / 2;
  if (fast_ && left <= edge && right <= edge) {
    const Row r{count, row + x0 * kPanel, x_row, int(rows.count), first, int(left), int(right), bias, out, act};
    k.row[(s_.kernel_w - 3) / 2][s_.stride_w - 1][length - 1](r, sum);
    return;
  }
  for (Index ox = begin; ox < end; ++ox, out += kPanel) {
    const Index from = ox * s_.stride_w - s_.pad_left;
    const TapRange columns = taps_inside(from, s_.kernel_w, s_.dilation_w, x_.width);
    k.point(row + (from + columns.first * s_.dilation_w) * kPanel, x_row, s_.dilation_w * kPanel, int(rows.count),
            int(columns.count), first + columns.first * kPanel, int(s_.kernel_w), bias, act, out, sum);
  }
}

namespace {

// Lambda W0.
void scale_taps(const float* weight, const float* scale, Index blocks, Index taps, float* w) {
  for (Index b = 0; b < blocks; ++b, scale += kPanel)
    for (Index tap = 0; tap < taps; ++tap, weight += kPanel, w += kPanel)
      for (int lane = 0; lane < kPanel; ++lane) w[lane] = scale[lane] * weight[lane];
}

// W(x) and the bias of every sample.
DepthwiseWeights dynamic_weights(const Step& s, const float* constants, const Images& x, const Team& team) {
  const Coefficients c = coefficients(s, constants, x, team);
  const Index taps = s.kernel_h * s.kernel_w, size = round_up(s.out_channels, kPanel) * taps;
  float* w = Workspace::this_thread().scratch[kFormed].get(x.samples * size);
  if (s.latent || is_mixture(s) || is_assembled(s)) {
    Formation(s, constants, c, x.samples, team).run(w, team);
  } else {
    for (Index n = 0; n < x.samples; ++n)
      scale_taps(constants + s.weight, c.scale + n * c.sample, x.blocks(), taps, w + n * size);
  }
  if (c.bias) return {w, size, c.bias, c.bias_sample};
  return {w, size, constant_at(constants, s.bias), 0};
}

}  // namespace

void depthwise(const Step& s, const float* constants, const Images& x, Images& out, const Team& team) {
  const DepthwiseBlock block = s.dynamic ? DepthwiseBlock(s, dynamic_weights(s, constants, x, team), x, out)
                                         : DepthwiseBlock(s, constants, x, out);
  const double work = double(out.samples) * double(out.pixels()) * double(out.channels * s.kernel_h * s.kernel_w);
  team.parallel_for(out.blocks() * out.samples, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index b = i / out.samples, n = i - b * out.samples;
      float* sums = out.sums ? Workspace::this_thread().scratch[kSums].get(out.height * kPanel) : nullptr;
      block.run(x.data + b * x.block() + n * x.pixels() * kPanel, 0, b, n, 0, out.height, sums);
      if (sums) sum_parts(sums, out.height, kPanel, out.sums + i * kPanel);
    }
  });
}

}  // namespace dynaconv
