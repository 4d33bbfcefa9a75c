#include "mixture_conv.h"

#include <algorithm>
#include <vector>

#include "parts.h"
#include "product.h"

namespace dynaconv {
namespace {

struct Buffers {
  Buffer image, result, gradient, kernel, kernel_gradient, factors, to_factors, sums;

  static Buffers& this_thread() {
    thread_local Buffers buffers;
    return buffers;
  }
};

// Calls f(first, last) on ranges of output rows, `width` pixels each, so that the pixels of both maps that belong to one
// range stay in the L1 cache.
template <class F>
void for_each_strip(const MixtureConv& c, Index width, const F& f) {
  constexpr Index kStripBytes = 32 << 10;
  const Index channels = c.stride_h * round_up(c.x.channels, kPanel) + c.output_lanes();
  const Index step = std::clamp<Index>(kStripBytes / (channels * width * Index(sizeof(float))), 1, c.y.height);
  for (Index first = 0; first < c.y.height; first += step) f(first, std::min(first + step, c.y.height));
}

// Copies the channels of one pixel, at most 16 of them.
void copy_pixel(const float* from, Index stride, Index lanes, float* to) {
  if (stride == 1 && lanes == kPanel)
    std::copy_n(from, kPanel, to);
  else if (stride == 1 && lanes == kHalf)
    std::copy_n(from, kHalf, to);
  else
    for (Index i = 0; i < lanes; ++i) to[i] = from[i * stride];
}

// Rows [first, last) of a map as panels of 16 channels, a last one of at most 8 channels 8 wide; `width` pixels a row,
// those beyond the map zero, and none behind the last one of the map.
void pack(const Map& m, const float* data, Index first, Index last, Index width, float* out) {
  for (Index channel = 0; channel < m.channels; channel += kPanel) {
    const Index lanes = std::min<Index>(kPanel, m.channels - channel), step = lanes <= kHalf ? kHalf : kPanel;
    for (Index y = first; y < last; ++y) {
      const float* from = data + channel * m.stride_c + y * m.stride_h;
      for (Index x = 0; x < m.width; ++x, from += m.stride_w, out += step) {
        if (lanes < step) std::fill_n(out, step, 0.0f);
        copy_pixel(from, m.stride_c, lanes, out);
      }
      if (y + 1 == last) break;
      std::fill_n(out, (width - m.width) * step, 0.0f);
      out += (width - m.width) * step;
    }
  }
}

// A map in blocks of 16 channels, moved by `top` and `left`, with zeros around it.
const float* fill_blocks(const Map& m, const float* data, Index top, Index left, Index height, Index width) {
  const Index block = height * width * kPanel, size = round_up(m.channels, kPanel) / kPanel * block;
  float* out = Buffers::this_thread().image.get(size);
  const Index rows = std::clamp<Index>(height - top, 0, m.height), columns = std::clamp<Index>(width - left, 0, m.width);
  if (rows < height || columns < width) std::fill_n(out, size, 0.0f);
  for (Index channel = 0; channel < m.channels; channel += kPanel) {
    const Index lanes = std::min<Index>(kPanel, m.channels - channel);
    for (Index y = 0; y < rows; ++y) {
      float* to = out + channel / kPanel * block + ((top + y) * width + left) * kPanel;
      const float* from = data + channel * m.stride_c + y * m.stride_h;
      for (Index x = 0; x < columns; ++x, to += kPanel, from += m.stride_w) copy_pixel(from, m.stride_c, lanes, to);
    }
  }
  return out;
}

// Rows and columns that the taps read.
struct Padded {
  Index height, width;

  explicit Padded(const MixtureConv& c)
      : height((c.y.height - 1) * c.stride_h + (c.kernel_h - 1) * c.dilation_h + 1),
        width((c.y.width - 1) * c.stride_w + (c.kernel_w - 1) * c.dilation_w + 1) {}
};

// The taps that read pixels of one phase, and the rows and columns of the phase: pixel (q, r) is (row + q * stride_h,
// column + r * stride_w) of the image.
struct Phase {
  std::vector<Index> taps;
  Index row, column, first_q, first_r, rows, columns;
};

// One axis of a phase: its first pixel inside the image, this pixel's number in the phase, and how many there are.
struct Run {
  Index pixel, first, count;
};

Run run_of(Index phase, Index stride, Index pad, Index size) {
  const Index first = phase < pad ? (pad - phase + stride - 1) / stride : 0, pixel = first * stride + phase - pad;
  return {pixel, first, pixel < size ? (size - 1 - pixel) / stride + 1 : 0};
}

std::vector<Phase> phases_of(const MixtureConv& c) {
  std::vector<Phase> phases;
  for (Index py = 0; py < c.stride_h; ++py)
    for (Index px = 0; px < c.stride_w; ++px) {
      const Run y = run_of(py, c.stride_h, c.pad_h, c.x.height), x = run_of(px, c.stride_w, c.pad_w, c.x.width);
      Phase phase{{}, y.pixel, x.pixel, y.first, x.first, y.count, x.count};
      for (Index tap = 0; tap < c.taps(); ++tap)
        if (tap / c.kernel_w * c.dilation_h % c.stride_h == py && tap % c.kernel_w * c.dilation_w % c.stride_w == px)
          phase.taps.push_back(tap);
      phases.push_back(phase);
    }
  return phases;
}

// Copies blocks of 16 channels, the pixels of a row adjacent, to pixels `step_h` and `step_w` floats apart.
void unpack(const float* from, Index block, Index channels, Index rows, Index columns, float* to, Index step_c,
            Index step_h, Index step_w) {
  for (Index channel = 0; channel < channels; channel += kPanel) {
    const Index lanes = std::min<Index>(kPanel, channels - channel);
    const float* pixel = from + channel / kPanel * block;
    for (Index y = 0; y < rows; ++y)
      for (Index x = 0; x < columns; ++x, pixel += kPanel) {
        float* out = to + channel * step_c + y * step_h + x * step_w;
        for (Index i = 0; i < lanes; ++i) out[i * step_c] = pixel[i];
      }
  }
}

// Runs a product whose result is `channels` channels of rows of pixels, wherever they are.
void multiply_to(Product& p, float* out, Index channels, Index step_c, Index step_h, Index step_w) {
  if (!p.rows || !p.length) return;
  // A last panel of 8 channels writes 8 of them.
  const bool direct = step_c == 1 && channels % kHalf == 0;
  const Index block = p.rows * p.length * kPanel;
  p.tile.out = direct ? out : Buffers::this_thread().result.get(round_up(channels, kPanel) / kPanel * block);
  p.tile.out_pixel = direct ? step_w : kPanel;
  p.tile.out_block = direct ? kPanel : block;
  p.out_row = direct ? step_h : p.length * kPanel;
  multiply(p, Team());
  if (!direct) unpack(p.tile.out, block, channels, p.rows, p.length, out, step_c, step_h, step_w);
}

void convolve(const MixtureConv& c, const std::vector<Index>& taps, const float* x, const float* kernel, float* y) {
  const Padded padded(c);
  const float* image = fill_blocks(c.x, x, c.pad_h, c.pad_w, padded.height, padded.width);
  Product p = pointwise(image, padded.height * padded.width * kPanel, c.x.channels, kernel, c.y.width, c.y.channels,
                        nullptr, 0);
  p.tile.taps = taps.data();
  p.tile.num_taps = int(taps.size());
  p.tile.x_pixel = c.stride_w * kPanel;
  p.rows = c.y.height;
  p.x_row = c.stride_h * padded.width * kPanel;
  multiply_to(p, y, c.y.channels, c.y.stride_c, c.y.stride_h, c.y.stride_w);
}

// Each phase of the image's gradient is a convolution of the output's gradient with the phase's taps.
void gradient_of_x(const MixtureConv& c, const std::vector<Phase>& phases, const float* gradient, const float* kernel,
                   float* x_gradient) {
  const Index top = (c.kernel_h - 1) * c.dilation_h / c.stride_h, left = (c.kernel_w - 1) * c.dilation_w / c.stride_w;
  const Index height = top + std::max(c.y.height, (c.x.height - 1 + c.pad_h) / c.stride_h + 1);
  const Index width = left + std::max(c.y.width, (c.x.width - 1 + c.pad_w) / c.stride_w + 1);
  const float* image = fill_blocks(c.y, gradient, top, left, height, width);
  for (const Phase& phase : phases) {
    float* out = x_gradient + phase.row * c.x.stride_h + phase.column * c.x.stride_w;
    const Index step_h = c.stride_h * c.x.stride_h, step_w = c.stride_w * c.x.stride_w;
    if (phase.taps.empty()) {
      for (Index i = 0; i < c.x.channels; ++i)
        for (Index y = 0; y < phase.rows; ++y)
          for (Index x = 0; x < phase.columns; ++x) out[i * c.x.stride_c + y * step_h + x * step_w] = 0.0f;
      continue;
    }
    std::vector<Index> offsets;
    for (Index tap : phase.taps) {
      const Index y = top - tap / c.kernel_w * c.dilation_h / c.stride_h;
      const Index x = left - tap % c.kernel_w * c.dilation_w / c.stride_w;
      offsets.push_back((y * width + x) * kPanel);
    }
    Product p = pointwise(image + (phase.first_q * width + phase.first_r) * kPanel, height * width * kPanel,
                          c.y.channels, kernel, phase.columns, c.x.channels, nullptr, 0);
    p.tile.taps = offsets.data();
    p.tile.num_taps = int(offsets.size());
    p.rows = phase.rows;
    p.x_row = width * kPanel;
    multiply_to(p, out, c.x.channels, c.x.stride_c, step_h, step_w);
    kernel += c.input_lanes() * c.y.channels * Index(phase.taps.size());
  }
}

void gradient_of_kernel(const MixtureConv& c, const float* gradient, const float* x, float* kernel_gradient) {
  const Padded padded(c);
  const float* image = fill_blocks(c.x, x, c.pad_h, c.pad_w, padded.height, padded.width);
  const Index block = padded.height * padded.width * kPanel;
  // Without strides a range of rows is one row of the width of the padded image; the columns between are zero.
  const bool is_merged = c.stride_h == 1 && c.stride_w == 1;
  const Index width = is_merged ? padded.width : c.y.width;
  for_each_strip(c, padded.width, [&](Index first, Index last) {
    const Index rows = is_merged ? 1 : last - first, length = is_merged ? (last - first - 1) * width + c.y.width : width;
    const Index pixels = (last - first - 1) * width + c.y.width;
    float* panels = Buffers::this_thread().gradient.get(pixels * c.output_lanes());
    pack(c.y, gradient, first, last, width, panels);
    for (Index ky = 0, tap = 0; ky < c.kernel_h; ++ky)
      for (Index kx = 0; kx < c.kernel_w; ++kx, ++tap) {
        const Index top = first * c.stride_h + ky * c.dilation_h;
        const float* read = image + (top * padded.width + kx * c.dilation_w) * kPanel;
        for_each_panel(c.y.channels, [&](Index channel, Index lanes) {
          float* out = kernel_gradient + channel * c.rows() + tap * c.x.channels * lanes;
          for (Index i = 0; i < c.x.channels; i += kPanel)
            for (Index row = 0; row < rows; ++row)
              kernels().gemm({std::min<Index>(kPanel, c.x.channels - i), lanes, length,
                              read + i / kPanel * block + row * c.stride_h * padded.width * kPanel, 1,
                              c.stride_w * kPanel, panels + channel * pixels + row * width * lanes, lanes,
                              out + i * lanes, lanes, first + row == 0});
        });
      }
  });
}

// Samples [first, last), whose kernels are formed together: a few rows of all kernels at a time, which stay in the L1 cache
// for all of these samples.
struct Group {
  Index first, last;

  Index size() const { return last - first; }
};

template <class F>
void for_each_group(const MixtureConv& c, Index first, Index last, const F& f) {
  constexpr Index kGroupBytes = 512 << 10, kMaxSamples = 8;
  const Index bytes = std::max(c.output_lanes() * c.rows(), c.input_lanes() * c.taps() * c.y.channels) * Index(sizeof(float));
  const Index step = std::clamp<Index>(kGroupBytes / bytes, 1, kMaxSamples);
  for (; first < last; first += step) f(Group{first, std::min(first + step, last)});
}

// Calls f(first channel, width, first row, rows) for parts of panels of `channels` channels and `rows` rows.
template <class F>
void for_each_part_of_panels(const MixtureConv& c, Index channels, Index rows, const F& f) {
  constexpr Index kPartBytes = 16 << 10;
  const Index step = std::max<Index>(1, kPartBytes / (c.kernels * kPanel * Index(sizeof(float))));
  for_each_panel(channels, [&](Index channel, Index width) {
    for (Index row = 0; row < rows; row += step) f(channel, width, row, std::min(step, rows - row));
  });
}

// Writes the products of the factors of taps and channels, (tap, channel); leaves `out` alone if there are none.
void row_factors(const float* spatial, const std::vector<Index>& taps, const float* channels, Index count, float* out) {
  if (!spatial && !channels) return;
  for (Index tap : taps)
    for (Index i = 0; i < count; ++i) *out++ = (spatial ? spatial[tap] : 1.0f) * (channels ? channels[i] : 1.0f);
}

template <class T>
T* at_sample(T* data, Index n, Index size) { return data ? data + n * size : nullptr; }

// Forms the kernels of a group in panels of `channels` channels; those of a sample are `size` floats, from `done` on, behind
// those of the sample before. `lanes` and `others` are the factors of the panels' channels and of the other ones.
void mix_group(const MixtureConv& c, const Group& g, const float* weights, const std::vector<Index>& taps, Index channels,
               const float* lanes, Index lanes_size, Index others_count, const float* others, Index others_size,
               float* out, Index size) {
  const Index rows = Index(taps.size()) * others_count;
  float* factors = c.spatial || others ? Buffers::this_thread().factors.get(g.size() * rows) : nullptr;
  for (Index n = g.first; factors && n < g.last; ++n)
    row_factors(at_sample(c.spatial, n, c.taps()), taps, at_sample(others, n, others_size), others_count,
                factors + (n - g.first) * rows);
  for_each_part_of_panels(c, channels, rows, [&](Index channel, Index width, Index row, Index count) {
    const float* w = weights + channel * rows * c.kernels + row * c.kernels * width;
    for (Index n = g.first; n < g.last; ++n)
      kernels().mix[width == kPanel]({count, w, int(c.kernels), c.attention + n * c.kernels,
                                      factors ? factors + (n - g.first) * rows + row : nullptr,
                                      lanes ? lanes + n * lanes_size + channel : nullptr,
                                      out + (n - g.first) * size + channel * rows + row * width});
  });
}

// W(x) of each sample of a group, in panels of output channels.
const float* form(const MixtureConv& c, const std::vector<Index>& taps, const Group& g) {
  const Index size = c.output_lanes() * c.rows();
  float* out = Buffers::this_thread().kernel.get(g.size() * size);
  mix_group(c, g, c.weights, taps, c.y.channels, c.filter, c.output_lanes(), c.x.channels, c.channel, c.input_lanes(), out,
            size);
  return out;
}

// W(x) of each sample of a group in panels of input channels, phase by phase.
const float* form_transposed(const MixtureConv& c, const std::vector<Phase>& phases, const Group& g) {
  const Index size = c.input_lanes() * c.y.channels * c.taps();
  float* out = Buffers::this_thread().kernel.get(g.size() * size);
  Index done = 0;
  for (const Phase& phase : phases) {
    mix_group(c, g, c.transposed + done * c.kernels, phase.taps, c.x.channels, c.channel, c.input_lanes(), c.y.channels,
              c.filter, c.output_lanes(), out + done, size);
    done += Index(phase.taps.size()) * c.y.channels * c.input_lanes();
  }
  return out;
}

// The gradients of what the kernels of a group are formed from. Those of the kernels are added to `weights`.
void unmix(const MixtureConv& c, const std::vector<Index>& taps, const Group& g, const float* gradient,
           const MixtureGradients& to, float* weights) {
  Buffers& buffers = Buffers::this_thread();
  const Index rows = c.rows(), size = c.output_lanes() * rows;
  const bool scaled = c.spatial || c.channel;
  float* factors = scaled ? buffers.factors.get(g.size() * rows) : nullptr;
  float* to_factors = scaled ? buffers.to_factors.get(g.size() * rows) : nullptr;
  if (scaled) std::fill_n(to_factors, g.size() * rows, 0.0f);
  std::fill_n(to.attention + g.first * c.kernels, g.size() * c.kernels, 0.0f);
  if (to.filter) std::fill_n(to.filter + g.first * c.output_lanes(), g.size() * c.output_lanes(), 0.0f);
  for (Index n = g.first; scaled && n < g.last; ++n)
    row_factors(at_sample(c.spatial, n, c.taps()), taps, at_sample(c.channel, n, c.input_lanes()), c.x.channels,
                factors + (n - g.first) * rows);
  for_each_part_of_panels(c, c.y.channels, rows, [&](Index channel, Index width, Index row, Index count) {
    const Index at = channel * rows * c.kernels + row * c.kernels * width;
    for (Index n = g.first; n < g.last; ++n) {
      const Index sample = n - g.first, lane = n * c.output_lanes() + channel;
      const Mix m{count, c.weights + at, int(c.kernels), c.attention + n * c.kernels,
                  scaled ? factors + sample * rows + row : nullptr, c.filter ? c.filter + lane : nullptr, nullptr};
      kernels().unmix[width == kPanel]({m, gradient + sample * size + channel * rows + row * width, weights + at,
                                        to.attention + n * c.kernels,
                                        scaled ? to_factors + sample * rows + row : nullptr,
                                        to.filter ? to.filter + lane : nullptr});
    }
  });
  for (Index n = g.first; n < g.last; ++n) {
    const float *spatial = at_sample(c.spatial, n, c.taps()), *channel = at_sample(c.channel, n, c.input_lanes());
    float *to_channel = at_sample(to.channel, n, c.input_lanes()), *to_spatial = at_sample(to.spatial, n, c.taps());
    if (to_channel) std::fill_n(to_channel, c.input_lanes(), 0.0f);
    if (to_spatial) std::fill_n(to_spatial, c.taps(), 0.0f);
    for (Index tap = 0; scaled && tap < c.taps(); ++tap)
      for (Index i = 0; i < c.x.channels; ++i) {
        const float value = to_factors[(n - g.first) * rows + tap * c.x.channels + i];
        if (to_channel) to_channel[i] += value * (spatial ? spatial[tap] : 1.0f);
        if (to_spatial) to_spatial[tap] += value * (channel ? channel[i] : 1.0f);
      }
  }
}

std::vector<Index> all_taps(const MixtureConv& c) {
  std::vector<Index> taps;
  for (Index tap = 0; tap < c.taps(); ++tap) taps.push_back(tap);
  return taps;
}

}  // namespace

Index MixtureConv::input_lanes() const { return panel_width(x.channels); }
Index MixtureConv::output_lanes() const { return panel_width(y.channels); }
Index MixtureConv::weights_size() const { return output_lanes() * rows() * kernels; }
Index MixtureConv::transposed_size() const { return input_lanes() * taps() * y.channels * kernels; }

void mixture_conv(const MixtureConv& c, float* out) {
  const std::vector<Index> taps = all_taps(c);
  std::vector<Index> offsets;
  for (Index tap : taps)
    offsets.push_back((tap / c.kernel_w * c.dilation_h * Padded(c).width + tap % c.kernel_w * c.dilation_w) * kPanel);
  for_each_part(c.batch, num_parts(c.batch), [&](Index, Index first, Index last) {
    for_each_group(c, first, last, [&](const Group& g) {
      const float* kernel = form(c, taps, g);
      for (Index n = g.first; n < g.last; ++n, kernel += c.output_lanes() * c.rows())
        convolve(c, offsets, c.input + n * c.x.stride_n, kernel, out + n * c.y.stride_n);
    });
  });
}

void mixture_conv_gradients(const MixtureConv& c, const float* gradient, const MixtureGradients& to) {
  const std::vector<Index> taps = all_taps(c);
  const std::vector<Phase> phases = phases_of(c);
  const Index parts = num_parts(c.batch);
  const PartSums sums(to.weights, c.weights_size(), parts, Buffers::this_thread().sums);
  for_each_part(c.batch, parts, [&](Index part, Index first, Index last) {
    for_each_group(c, first, last, [&](const Group& g) {
      const float* kernel = to.input ? form_transposed(c, phases, g) : nullptr;
      for (Index n = g.first; kernel && n < g.last; ++n, kernel += c.input_lanes() * c.y.channels * c.taps())
        gradient_of_x(c, phases, gradient + n * c.y.stride_n, kernel, to.input + n * c.x.stride_n);
      const Index size = c.output_lanes() * c.rows();
      float* to_kernels = Buffers::this_thread().kernel_gradient.get(g.size() * size);
      for (Index n = g.first; n < g.last; ++n)
        gradient_of_kernel(c, gradient + n * c.y.stride_n, c.input + n * c.x.stride_n, to_kernels + (n - g.first) * size);
      unmix(c, taps, g, to_kernels, to, sums.of(part));
    });
  });
  sums.add_up();
}

}  // namespace dynaconv
