// Dense convolution, static or DCD: one matrix product per tap, which reads the image itself, without im2col.
#include <algorithm>
#include <optional>
#include <vector>

#include "layers.h"
#include "product_int8.h"

namespace dynaconv {
namespace {

bool is_pointwise(const Step& s) {
  return s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 &&
         s.pad_top == 0 && s.pad_left == 0 && s.pad_bottom == 0 && s.pad_right == 0;
}

View view_of(const Step& s, const Images& x, const Images& out, const Team& team) {
  View v;
  const Index need_h = (out.height - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  const Index need_w = (out.width - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
  const bool pads = s.pad_top || s.pad_left || need_h > x.height || need_w > x.width;
  v.data = x.data;
  v.width = x.width;
  v.sample = x.pixels() * kPanel;
  v.block = x.block();
  if (pads) {
    v.width = need_w;
    v.sample = need_h * need_w * kPanel;
    v.block = x.samples * v.sample;
    float* padded = Workspace::this_thread().scratch[kPadded].get(x.blocks() * v.block);
    v.data = padded;
    const double work = double(x.blocks()) * double(v.block);
    team.parallel_for(x.blocks() * x.samples * need_h, work, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index image = i / need_h, y = i - image * need_h - s.pad_top;
        float* row = padded + i * need_w * kPanel;
        const Index left = std::min<Index>(s.pad_left, need_w);
        const Index copied = y < 0 || y >= x.height ? 0 : std::clamp<Index>(need_w - left, 0, x.width);
        std::fill_n(row, (copied ? left : need_w) * kPanel, 0.0f);
        if (!copied) continue;
        std::copy_n(x.data + image * x.pixels() * kPanel + y * x.width * kPanel, copied * kPanel, row + left * kPanel);
        std::fill_n(row + (left + copied) * kPanel, (need_w - left - copied) * kPanel, 0.0f);
      }
    });
  }
  set_taps(s, v);
  return v;
}

Product product_of(const View& v, Index inputs, const Images& out, Index channels, const float* w, float* data,
                   Index block) {
  Product p = pointwise(v.data, v.block, inputs, w, out.width, channels, data, block);
  p.tile.taps = v.taps.data();
  p.tile.num_taps = int(v.taps.size());
  p.tile.x_pixel = v.pixel;
  p.tile.range = v.range;
  p.tile.range_pixel = v.range_pixel;
  p.range_row = v.range_row;
  p.range_sample = v.range_sample;
  p.samples = out.samples;
  p.rows = out.height;
  p.x_sample = v.sample;
  p.x_row = v.row;
  p.out_row = p.add_row = out.width * kPanel;
  p.out_sample = p.add_sample = out.pixels() * kPanel;
  return p;
}

// Merges contiguous rows into one row and, if the samples share all operands, contiguous samples into one sample.
void merge_rows(Product& p, bool shared) {
  if (p.x_row != p.length * kPanel || p.tile.x_pixel != kPanel) return;
  p.length *= p.rows;
  p.rows = 1;
  if (!shared || p.x_sample != p.length * kPanel || (p.tile.range && !p.tile.range_pixel)) return;
  p.length *= p.samples;
  p.samples = 1;
}

void set_output(const Step& s, const float* constants, const Images* add, Product& p) {
  p.tile.bias = constant_at(constants, s.bias);
  p.tile.act = Activation(s.activation);
  if (add) {
    p.tile.add = add->data;
    p.tile.add_block = add->block();
  }
}

// Returns whether to form W(x): as the step's algorithm says or, if that is kAuto, if it takes fewer multiply-adds than
// the latent product at every pixel.
bool forms_kernel(const Step& s, const Images& out) {
  // Multiply-adds that take as long as the passes over W(x), each element. In int8 it is quantised, and W0 unpacked.
  constexpr double kPasses = 2, kInt8Passes = 6;
  if (is_mixture(s) || is_assembled(s)) return true;
  if (!s.latent || !is_pointwise(s)) return false;
  if (s.algorithm != kAuto) return s.algorithm == kForm;
  const double pair = double(s.in_channels) * double(s.out_channels);
  const bool int8 = s.precision == kInt8;
  const double passes = int8 ? kInt8Passes : kPasses, inputs = double(s.in_channels) / (int8 ? kWord : 1);
  const double form = double(s.latent) * (pair + double(s.latent) * double(s.in_channels)) + passes * pair;
  const double pixel = double(s.latent) * (inputs + double(s.out_channels + s.latent));
  return form < double(out.pixels()) * pixel;
}

// z = Phi (Q^T x) at every output pixel.
const float* latent_features(const Step& s, const float* constants, const View& v, const Coefficients& c,
                             const Images& x, const Images& out, const Team& team) {
  Workspace& work = Workspace::this_thread();
  const Index block = out.block(), size = (s.latent + kPanel - 1) / kPanel * block;
  float* z = work.scratch[kLatent].get(size);
  Product first = product_of(v, depth_of(s, x.channels), out, s.latent, constants + s.q, z, block);
  first.tile.taps = &v.centre;
  first.tile.num_taps = 1;
  if (v.range) set_scale(first, constants, s.q_scale, nullptr, 0);
  merge_rows(first, true);
  multiply(first, team);

  float* mixed = work.scratch[kMixed].get(size);
  Product second = pointwise(z, block, s.latent, c.phi, out.pixels(), s.latent, mixed, block);
  second.samples = out.samples;
  second.x_sample = second.out_sample = out.pixels() * kPanel;
  second.w_sample = c.sample;
  multiply(second, team);
  return mixed;
}

// Forms W(x) of all samples as the weights of a product.
void form_whole(Product& p, const Formation& formed, Index samples, const Team& team) {
  float* w = Workspace::this_thread().scratch[kFormed].get((formed.is_shared() ? 1 : samples) * formed.size());
  formed.run(w, team);
  formed.set_weights(p, w, formed.is_shared() ? 0 : formed.size(), team);
}

// Runs a product with W(x), which is formed one or two panels at a time by the thread that multiplies them: each thread
// reads its own part of the kernels, and W(x) stays in its cache. If there are too few panels for all threads, W(x) is
// formed as a whole, and so is a kernel that serves all samples and is small. Benchmark of these numbers:
// benchmarks/native.py --threads 2 (results: docs/native.md).
void multiply_formed(Product& p, const Formation& formed, const Images& out, const Team& team) {
  constexpr Index kMinPanels = 2, kMinPairs = 4;   // per thread
  constexpr Index kSmallBytes = 256 << 10;
  const Index panels = out.blocks(), threads = team.size();
  const bool small = formed.is_shared() && formed.size() * Index(sizeof(float)) <= kSmallBytes;
  if (small || (team.is_parallel() && panels < kMinPanels * threads)) {
    form_whole(p, formed, out.samples, team);
    return multiply(p, team);
  }
  const Index width = team.is_parallel() && panels < 2 * kMinPairs * threads ? 1 : kernels().panels;
  const Index groups = (panels + width - 1) / width, panel = Index(p.tile.num_taps) * p.tile.depth * kPanel;
  const Index tiles = tiles_per_sample(p), samples = formed.is_shared() ? 1 : out.samples;
  const double work = double(out.samples) * double(out.pixels()) * double(p.channels) * double(panel);
  team.parallel_for(groups, work, [&](Index begin, Index end) {
    for (Index i = begin * samples; i < end * samples; ++i) {
      const Index group = i / samples, n = i - group * samples, first = group * width;
      const Index count = std::min(width, panels - first);
      Product part = columns(p, n, first * kPanel, count * kPanel,
                             p.tile.out + n * p.out_sample + first * p.tile.out_block, p.tile.out_block);
      formed.run(n, first, count, part);
      if (formed.is_shared()) part.samples = p.samples;
      if (p.tile.sum) part.tile.sum += n * tiles * p.tile.sum_tile + first * kPanel;
      // While this group is multiplied, the kernels of the next one are fetched; after the last, the next step's.
      part.prefetch = group + 1 < end ? formed.kernels(first + width, std::min(width, panels - first - width))
                                            .part(n, n + 1, samples, 1)
                                      : p.prefetch.part(n, n + 1, samples, 1);
      multiply(part, Team());
    }
  });
}

// Runs the product and, if `out.sums` is not null, computes the sums over the pixels of each image. Each tile writes
// its own partial sum, so that threads do not synchronise.
void multiply_with_sums(Product& p, const Formation* formed, Images& out, const Team& team) {
  const auto run = [&] { formed ? multiply_formed(p, *formed, out, team) : multiply(p, team); };
  if (!out.sums) return run();
  const Index size = out.blocks() * kPanel, tiles = tiles_per_sample(p);
  float* sum = p.tile.sum = Workspace::this_thread().scratch[kSums].get(out.samples * tiles * size);
  p.tile.sum_tile = size;
  run();
  for (Index n = 0; n < out.samples; ++n)
    for (Index b = 0; b < out.blocks(); ++b)
      sum_parts(sum + n * tiles * size + b * kPanel, tiles, size, out.sums + (b * out.samples + n) * kPanel);
}

void dense_steps(const Step& s, const float* constants, const Images& x, const Images* add, Images& out,
                 const Next* next, Images& result, const Prefetch& prefetch, const Team& team) {
  const bool int8 = s.precision == kInt8;
  const View v = int8 ? quantised_view(s, x, out, team) : view_of(s, x, out, team);
  const Windows windows(s);
  Product p = product_of(v, depth_of(s, windows.size()), out, s.out_channels, constant_at(constants, s.weight), out.data, out.block());
  p.windows = windows;
  set_output(s, constants, add, p);
  p.prefetch = prefetch;
  if (int8 && !s.dynamic) set_scale(p, constants, s.weight_scale, nullptr, 0);
  std::optional<Formation> formed;
  if (s.dynamic) {
    const Coefficients c = coefficients(s, constants, x, team);
    if (c.bias) {
      p.tile.bias = c.bias;
      p.bias_sample = c.bias_sample;
    }
    if (forms_kernel(s, out)) {
      formed.emplace(s, constants, c, out.samples, team);
      if (formed->is_whole()) {
        form_whole(p, *formed, out.samples, team);
        formed.reset();
      }
    } else {
      if (int8) {
        set_scale(p, constants, s.weight_scale, c.scale, c.sample);
      } else {
        p.tile.scale = c.scale;
        p.scale_sample = c.sample;
      }
      if (s.latent) {
        p.tile.z = latent_features(s, constants, v, c, x, out, team);
        p.tile.z_block = out.block();
        p.tile.p = constants + s.p;
        p.tile.latent = int(s.latent);
        p.z_sample = out.pixels() * kPanel;
        p.z_row = out.width * kPanel;
      }
    }
  }
  if (!formed && s.precision == kBf16 && !is_assembled(s)) formed.emplace(s, constants);
  merge_rows(p, !s.dynamic && !next && !out.sums);
  if (next) {
    run_fused(p, formed ? &*formed : nullptr, constants, out, *next, result, team);
  } else {
    multiply_with_sums(p, formed ? &*formed : nullptr, out, team);
  }
}

}  // namespace

void dense(const Step& s, const float* constants, const Images& x, const Images* add, Images& out, const Next* next,
           const Prefetch& prefetch, const Team& team) {
  if (!next) return dense_steps(s, constants, x, add, out, nullptr, out, prefetch, team);
  Images intermediate = next->intermediate;
  dense_steps(s, constants, x, add, intermediate, next, out, prefetch, team);
}

// Benchmark of the number of channels: benchmarks/native.py (results on Zen 4: docs/native.md).
bool reads_input(const Step& s) {
  constexpr Index kMaxChannels = 4;
  return s.kind == kDense && !s.dynamic && s.groups == 1 && s.source == 0 && s.dilation_w == 1 && s.in_channels <= kMaxChannels;
}

// With few input channels most of a block of 16 would be empty. This function makes a padded copy instead, with the
// order (row, column, channel). It holds the inputs of a kernel row contiguously, so the product has k_h taps of
// k_w * C_in inputs.
void dense_from(const Step& s, const float* constants, const Input& input, Index first, Images& result,
                const Next* next, const Prefetch& prefetch, const Team& team) {
  const Images& out = next ? next->intermediate : result;
  const Index channels = s.in_channels, run = s.kernel_w * channels;
  const Index need_h = (out.height - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  const Index need_w = (out.width - 1) * s.stride_w + s.kernel_w;
  const Index row_size = need_w * channels;
  float* padded = Workspace::this_thread().scratch[kPadded].get(out.samples * need_h * row_size);
  const double copied = double(out.samples) * double(need_h) * double(row_size);
  team.parallel_for(out.samples * need_h, copied, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index n = i / need_h, y = i - n * need_h - s.pad_top;
      float* row = padded + i * row_size;
      std::fill_n(row, row_size, 0.0f);
      if (y < 0 || y >= input.height) continue;
      const Index stop = std::min(need_w, input.width + Index(s.pad_left));
      const float* from = input.data + (first + n) * input.stride_n + y * input.stride_h;
      float* to = row + s.pad_left * channels;
      if (input.stride_c == 1 && input.stride_w == channels) {
        std::copy_n(from, std::max<Index>(0, stop - s.pad_left) * channels, to);
        continue;
      }
      for (Index px = s.pad_left; px < stop; ++px, from += input.stride_w)
        for (Index c = 0; c < channels; ++c) *to++ = from[c * input.stride_c];
    }
  });

  std::vector<Index> taps;
  for (Index ky = 0; ky < s.kernel_h; ++ky) taps.push_back(ky * s.dilation_h * row_size);
  Product p = pointwise(padded, kPanel, run, constants + s.weight, out.width, s.out_channels, out.data, out.block());
  p.tile.taps = taps.data();
  p.tile.num_taps = int(taps.size());
  p.tile.x_pixel = s.stride_w * channels;
  p.samples = out.samples;
  p.rows = out.height;
  p.x_sample = need_h * row_size;
  p.x_row = s.stride_h * row_size;
  p.out_row = out.width * kPanel;
  p.out_sample = out.pixels() * kPanel;
  set_output(s, constants, nullptr, p);
  p.prefetch = prefetch;
  if (s.precision == kBf16) form_whole(p, Formation(s, constants), 1, team);
  if (next) {
    run_fused(p, nullptr, constants, out, *next, result, team);
  } else {
    multiply_with_sums(p, nullptr, result, team);
  }
}

}  // namespace dynaconv
