#include "program.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "layers.h"

namespace dynaconv {

constinit Threads threads{[](Index n, void (*fn)(Index, Index, void*), void* context) { fn(0, n, context); },
                          [] { return 1; }};

namespace {

[[noreturn]] void throw_damaged(int step, const std::string& what) {
  throw std::runtime_error("the native program is damaged: step " + std::to_string(step) + " has " + what + ".");
}

// Checks the fields of a step: every constant must be inside the vector of constants.
class StepChecker {
 public:
  StepChecker(const Program& p, int step) : constants_(p.num_constants), step_(step) {}

  // The product of `factors` is the number of floats that must be at `offset`.
  void require(std::int64_t offset, std::initializer_list<std::int64_t> factors, const char* name) const {
    std::int64_t floats = 1;
    bool overflows = false;
    for (const std::int64_t factor : factors) overflows |= __builtin_mul_overflow(floats, factor, &floats);
    if (overflows || offset < 0 || offset > constants_ - floats) throw_damaged(step_, std::string("no ") + name);
  }
  void require_if_present(std::int64_t offset, std::int64_t floats, const char* name) const {
    if (offset >= 0) require(offset, {floats}, name);
  }
  void require_range(std::int64_t value, std::int64_t low, std::int64_t high, const char* name) const {
    if (value < low || value > high) throw_damaged(step_, std::string("a wrong ") + name);
  }
  [[noreturn]] void fail(const char* what) const { throw_damaged(step_, what); }

 private:
  Index constants_;
  int step_;
};

constexpr std::int64_t kMaxSize = 1 << 20;

void check_dynamic(const Step& s, const StepChecker& checker) {
  checker.require_range(s.algorithm, kAuto, kFactors, "algorithm");
  checker.require_range(s.latent, 0, kMaxSize, "latent size");
  checker.require_range(s.context_size, 1, 2, "context size");
  checker.require_range(s.hidden, 1, kMaxSize, "hidden size");
  checker.require_range(s.branch_activation, kReluB, kGate, "branch activation");
  checker.require_range(s.scale_activation, kAffine, kTanh, "scale activation");
  const Index channels = round_up(s.out_channels, kPanel), hidden = round_up(s.hidden, kPanel);
  checker.require_range(s.kernels, 1, kMaxSize, "number of kernels");
  checker.require_range(s.static_kernel, 0, s.kernels > 1, "static kernel");
  if (s.squeeze < 0) {
    if (s.hidden != s.in_channels || s.context_size != 1) checker.fail("no squeeze");
  } else {
    checker.require(s.squeeze, {panel_width(s.hidden), s.in_channels, s.context_size, s.context_size}, "squeeze");
    checker.require_if_present(s.squeeze_bias, hidden, "squeeze bias");
    if (s.branch_activation == kGate) checker.require(s.gate, {panel_width(s.hidden), s.hidden}, "gate");
  }
  checker.require(s.heads, {heads_size(s), s.hidden}, "heads");
  checker.require_if_present(s.heads_bias, heads_size(s), "heads' bias");
  checker.require_if_present(s.scaled_bias, channels, "scaled bias");
  if (s.scaled_bias >= 0 && !s.has_scale) checker.fail("a scaled bias without its scale");
  if (s.biases >= 0) checker.require(s.biases, {channels, s.kernels}, "biases");
  if (s.biases >= 0 && s.kernels == 1) checker.fail("biases without kernels");
  if (is_mixture(s) && (s.latent || (s.kind == kDepthwise && s.has_channel)))
    checker.fail("a mixture with parts that it does not allow");
  if (s.kind == kDepthwise && !s.latent && !s.has_scale && !is_mixture(s))
    checker.fail("neither Lambda nor a residual");
  if (!s.latent) return;
  checker.require(s.p, {panel_width(s.out_channels), s.latent}, "P");
  if (s.kind == kDepthwise) {
    checker.require(s.q_rows, {round_up(s.latent, kPanel), s.kernel_h, s.kernel_w}, "R by rows");
    return;
  }
  checker.require(s.q, {panel_width(s.latent), s.in_channels}, "Q");
  checker.require(s.q_rows, {round_up(s.latent, kPanel), s.in_channels}, "Q by rows");
}

void check_step(const Program& p, int index) {
  const Step& s = p.steps[index];
  const StepChecker checker(p, index);
  checker.require_range(s.kind, kDense, kMean, "kind");
  for (auto slot : {s.source, s.target}) checker.require_range(slot, 0, p.num_steps, "slot");
  checker.require_range(s.residual, -1, p.num_steps, "slot");
  for (auto size : {s.in_channels, s.out_channels, s.kernel_h, s.kernel_w, s.stride_h, s.stride_w, s.dilation_h,
                    s.dilation_w})
    checker.require_range(size, 1, kMaxSize, "size");
  for (auto pad : {s.pad_top, s.pad_left, s.pad_bottom, s.pad_right})
    checker.require_range(pad, 0, kMaxSize, "padding");
  checker.require_range(s.activation, 0, 2, "activation");
  if (s.target == s.source || s.target == s.residual || s.target == 0)
    throw_damaged(index, "a target that is also read");
  const Index channels = round_up(s.out_channels, kPanel);
  checker.require_if_present(s.bias, channels, "bias");
  const bool has_no_branch = s.kind != kDense && s.kind != kDepthwise;
  if (s.kind != kDense &&
      (s.in_channels != s.out_channels || s.residual >= 0 || s.fused || (s.dynamic && has_no_branch)))
    throw_damaged(index, "fields that its kind does not allow");
  if (s.kind == kMaxPool || s.kind == kMean) return;
  if (s.fused) {
    const Step* next = index + 1 < p.num_steps ? &s + 1 : nullptr;
    if (!next || next->kind != kDepthwise || next->dynamic || next->source != s.target || s.residual >= 0 ||
        next->target == s.source)
      throw_damaged(index, "no static depthwise step after it, although it is fused");
  }
  const std::int64_t kernels = s.dynamic ? s.kernels : 1;
  if (s.kind == kDepthwise) {
    checker.require(s.weight, {channels, s.kernel_h, s.kernel_w, kernels}, "weight");
    if (s.dynamic) check_dynamic(s, checker);
    return;
  }
  checker.require(s.weight, {panel_width(s.out_channels), s.in_channels, s.kernel_h, s.kernel_w, kernels}, "weight");
  if (s.dynamic) check_dynamic(s, checker);
}

Images shape_after(const Step& s, const Images& x) {
  const Size size = s.kind == kMean ? Size{1, 1} : output_size(s, x.height, x.width);
  Images out;
  out.samples = x.samples;
  out.channels = s.out_channels;
  out.height = size.height;
  out.width = size.width;
  return out;
}

bool needs_sums(const Program& p, int index) {
  const Step& s = p.steps[index];
  if ((s.kind != kDepthwise && s.kind != kDense) || index + 1 == p.num_steps) return false;
  const Step& next = p.steps[index + 1];
  return next.source == s.target && (next.kind == kMean || (next.dynamic && next.context_size == 1));
}

void import_images(const Input& input, Index first, Images& x, const Team& team) {
  const Index rows = x.blocks() * x.samples * x.height;
  team.parallel_for(rows, double(x.blocks()) * double(x.block()), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index image = i / x.height, y = i - image * x.height;
      const Index b = image / x.samples, n = image - b * x.samples;
      const Index channels = std::min<Index>(kPanel, x.channels - b * kPanel);
      const float* from = input.data + (first + n) * input.stride_n + b * kPanel * input.stride_c + y * input.stride_h;
      float* to = x.data + i * x.width * kPanel;
      for (Index px = 0; px < x.width; ++px, from += input.stride_w, to += kPanel) {
        if (channels == kPanel && input.stride_c == 1) {
          __builtin_memcpy(to, from, kPanel * sizeof(float));
        } else {
          for (Index c = 0; c < kPanel; ++c) to[c] = c < channels ? from[c * input.stride_c] : 0.0f;
        }
      }
    }
  });
}

void export_images(const Images& x, float* out, const Team& team) {
  const Index pixels = x.samples * x.pixels();
  team.parallel_for(pixels, double(x.blocks()) * double(x.block()), [&](Index begin, Index end) {
    for (Index b = 0; b < x.blocks(); ++b) {
      const Index channels = std::min<Index>(kPanel, x.channels - b * kPanel);
      const float* from = x.data + b * x.block();
      float* to = out + b * kPanel;
      for (Index i = begin; i < end; ++i) {
        if (channels == kPanel) {
          __builtin_memcpy(to + i * x.channels, from + i * kPanel, kPanel * sizeof(float));
        } else {
          std::copy_n(from + i * kPanel, channels, to + i * x.channels);
        }
      }
    }
  });
}

class Runner {
 public:
  Runner(const Program& p, const Input& input) : p_(p), input_(input) {}

  // Runs samples [first_sample, first_sample + samples) on the threads of `team`.
  void run(Index first_sample, Index samples, float* out, const Team& team) const {
    Workspace& work = Workspace::this_thread();
    const std::size_t slots = std::size_t(p_.num_steps) + 1;
    if (work.slots.size() < slots) {
      work.slots.resize(slots);
      work.sums.resize(slots);
    }
    std::vector<Images> images(slots);
    Images& in = images[0];
    in.samples = samples;
    in.channels = input_.channels;
    in.height = input_.height;
    in.width = input_.width;
    for (int i = 0; i < p_.num_steps; ++i) {
      const Step& s = p_.steps[i];
      Images& x = images[std::size_t(s.source)];
      const bool direct = reads_input(s);
      if (!in.data && ((s.source == 0 && !direct) || s.residual == 0)) {
        in.data = work.slots[0].get(in.blocks() * in.block());
        import_images(input_, first_sample, in, team);
      }
      Images& y = images[std::size_t(s.target)];
      y = shape_after(s, x);
      // The next step computes both.
      if (s.fused) continue;
      const Prefetch prefetch = prefetch_constants(i + 1, team);
      y.data = work.slots[std::size_t(s.target)].get(y.blocks() * y.block());
      if (needs_sums(p_, i)) y.sums = work.sums[std::size_t(s.target)].get(y.blocks() * samples * kPanel);
      if (s.kind == kMaxPool) {
        max_pool(s, x, y, team);
      } else if (s.kind == kMean) {
        mean(x, y, team);
      } else if (s.kind == kDepthwise && i > 0 && (&s - 1)->fused) {
        const Step& first = *(&s - 1);
        const Next next{s, x};
        if (reads_input(first)) {
          dense_from(first, p_.constants, input_, first_sample, y, &next, prefetch, team);
        } else {
          dense(first, p_.constants, images[std::size_t(first.source)], nullptr, y, &next, prefetch, team);
        }
      } else if (s.kind == kDepthwise) {
        depthwise(s, p_.constants, x, y, team);
      } else if (direct) {
        dense_from(s, p_.constants, input_, first_sample, y, nullptr, prefetch, team);
      } else {
        const Images* residual = s.residual < 0 ? nullptr : &images[std::size_t(s.residual)];
        dense(s, p_.constants, x, residual, y, nullptr, prefetch, team);
      }
    }
    const Images& last = images[std::size_t(p_.steps[p_.num_steps - 1].target)];
    export_images(last, out + first_sample * last.pixels() * last.channels, team);
  }

 private:
  // The constants of a step, and those of the next one if the two are fused, in the order in which they are read; at
  // most kMaxFloats per thread, so that they fit into the L2 caches. Benchmark of kMaxFloats: benchmarks/native.py
  // (results on Zen 4: docs/native.md).
  Prefetch prefetch_constants(int step, const Team& team) const {
    constexpr Index kMaxFloats = (512 << 10) / sizeof(float);
    const Index begin = first_constant(step);
    const bool fused = step < p_.num_steps && p_.steps[step].fused;
    const Index end = std::min(first_constant(step + 1 + fused), begin + kMaxFloats * team.size());
    return {reinterpret_cast<const char*>(p_.constants + begin), reinterpret_cast<const char*>(p_.constants + end)};
  }

  // Offset of the first constant of `step`, or of the next step that has constants.
  Index first_constant(int step) const {
    for (; step < p_.num_steps; ++step) {
      const Step& s = p_.steps[step];
      Index first = p_.num_constants;
      for (const std::int64_t offset : {s.weight, s.bias, s.p, s.squeeze})
        if (offset >= 0) first = std::min<Index>(first, offset);
      if (first < p_.num_constants) return first;
    }
    return p_.num_constants;
  }

  const Program& p_;
  const Input& input_;
};

// Number of samples that run through the program together. Several if images are small: reading the weights, once per
// group, takes most of the time then. One if the images of a group would not fit into the cache. Benchmark of both
// numbers: benchmarks/native.py --batch 16 (results on Zen 4: docs/native.md).
Index group_size(const Program& p, const Input& input) {
  Images x;
  x.height = input.height;
  x.width = input.width;
  std::vector<Images> images(std::size_t(p.num_steps) + 1, x);
  constexpr Index kMaxImageBytes = 320 << 10, kGroup = 4;
  Index image_bytes = 0;
  for (int i = 0; i < p.num_steps; ++i) {
    const Step& s = p.steps[i];
    Images& y = images[std::size_t(s.target)] = shape_after(s, images[std::size_t(s.source)]);
    if (!s.fused) image_bytes = std::max(image_bytes, y.blocks() * y.pixels() * kPanel * Index(sizeof(float)));
  }
  return image_bytes <= kMaxImageBytes ? kGroup : 1;
}

}  // namespace

Size output_size(const Step& s, Index height, Index width) {
  const auto along = [](Index size, Index padding, Index reach, Index stride) {
    return size == kUnknown ? kUnknown : (size + padding - reach) / stride + 1;
  };
  return {along(height, s.pad_top + s.pad_bottom, s.dilation_h * (s.kernel_h - 1) + 1, s.stride_h),
          along(width, s.pad_left + s.pad_right, s.dilation_w * (s.kernel_w - 1) + 1, s.stride_w)};
}

Size check(const Program& p, const Input& input) {
  if (p.num_steps < 1) throw std::runtime_error("the native program is damaged: it has no steps.");
  std::vector<Images> images(std::size_t(p.num_steps) + 1);
  images[0].channels = input.channels;
  images[0].height = input.height;
  images[0].width = input.width;
  for (int i = 0; i < p.num_steps; ++i) {
    const Step& s = p.steps[i];
    check_step(p, i);
    const Images& x = images[std::size_t(s.source)];
    if (x.channels != s.in_channels && s.source == 0)
      throw std::runtime_error("the images have " + std::to_string(x.channels) + " channels; this network takes " +
                               std::to_string(s.in_channels) + ".");
    if (x.channels != s.in_channels) throw_damaged(i, "a source with the wrong number of channels");
    const Size reach{s.dilation_h * (s.kernel_h - 1) + 1, s.dilation_w * (s.kernel_w - 1) + 1};
    if ((x.height != kUnknown && x.height + s.pad_top + s.pad_bottom < reach.height) ||
        (x.width != kUnknown && x.width + s.pad_left + s.pad_right < reach.width))
      throw std::runtime_error("an image of " + std::to_string(input.height) + " x " + std::to_string(input.width) +
                               " pixels is too small for this network: it is smaller than a kernel; give larger ones.");
    const Images y = shape_after(s, x);
    if (s.residual >= 0) {
      const Images& r = images[std::size_t(s.residual)];
      if (r.channels != y.channels || r.height != y.height || r.width != y.width)
        throw_damaged(i, "a residual of the wrong shape");
    }
    images[std::size_t(s.target)] = y;
    // The images between the steps of a fused pair never exist as a whole, so no later step may read them.
    if (i > 0 && p.steps[i - 1].fused) images[std::size_t(s.source)] = Images();
  }
  const Images& last = images[std::size_t(p.steps[p.num_steps - 1].target)];
  return {last.height, last.width};
}

void run(const Program& p, const Input& input, float* out) {
  const Runner runner(p, input);
  const Index count = threads.count(), batch = input.batch, max_group = group_size(p, input);
  if (count == 1 || (batch < count && ThreadPool::is_oversubscribed())) {
    for (Index first = 0; first < batch; first += max_group)
      runner.run(first, std::min(max_group, batch - first), out, Team());
    return;
  }
  ThreadPool::run([&](ThreadPool& pool) {
    const Team team(pool);
    // Threads take whole samples, and wait for no other thread, if that keeps all of them busy: if the batch is a
    // multiple of their number, or has at least kMinSamples samples per thread. Otherwise they share the loops of each
    // step. Benchmark of kMinSamples: benchmarks/native.py --batch 7 --threads 2.
    constexpr Index kMinSamples = 4;
    if (batch < count || (batch % count && batch < kMinSamples * count)) {
      for (Index first = 0; first < batch; first += max_group)
        runner.run(first, std::min(max_group, batch - first), out, team);
      return;
    }
    const Index group = std::max<Index>(1, std::min(max_group, batch / count)), groups = (batch + group - 1) / group;
    team.parallel_for(groups, 1e9, [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) runner.run(i * group, std::min(group, batch - i * group), out, Team());
    });
  });
}

}  // namespace dynaconv
