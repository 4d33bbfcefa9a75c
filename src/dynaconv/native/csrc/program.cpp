#include "program.h"

#include <algorithm>
#include <vector>

#include "layers.h"

namespace dynaconv {

constinit Threads threads{[](Index n, void (*fn)(Index, Index, void*), void* context) { fn(0, n, context); },
                          [] { return 1; }};

namespace {

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
  // Steps from `split` on run on groups of samples.
  Runner(const Program& p, const Input& input, int split) : p_(p), input_(input), split_(split) {}

  // Runs samples [first_sample, first_sample + samples) on the threads of `team`.
  void run(Index first_sample, Index samples, float* out, const Team& team) const {
    Workspace& work = Workspace::this_thread();
    const std::size_t slots = std::size_t(p_.num_steps) + 1;
    if (work.slots.size() < slots) {
      work.slots.resize(slots);
      work.sums.resize(slots);
    }
    std::vector<Images> images(slots);
    if (samples == 1 || split_ == 0) {
      run_steps(0, p_.num_steps, images, first_sample, samples, team);
    } else {
      const auto slot = std::size_t(p_.steps[split_ - 1].target);
      Images group;
      for (Index n = 0; n < samples; ++n) {
        run_steps(0, split_, images, first_sample + n, 1, team);
        join(images[slot], n, samples, group);
        images.assign(slots, Images());
      }
      images[slot] = group;
      run_steps(split_, p_.num_steps, images, first_sample, samples, team);
    }
    const Images& last = images[std::size_t(p_.steps[p_.num_steps - 1].target)];
    export_images(last, out + first_sample * last.pixels() * last.channels, team);
  }

 private:
  // Copies the images of one sample into those of a group, which are allocated for the first sample.
  static void join(const Images& one, Index sample, Index samples, Images& group) {
    Workspace& work = Workspace::this_thread();
    if (sample == 0) {
      group = one;
      group.samples = samples;
      group.data = work.group.get(group.blocks() * group.block());
      if (one.sums) group.sums = work.group_sums.get(group.blocks() * samples * kPanel);
    }
    for (Index b = 0; b < one.blocks(); ++b) {
      std::copy_n(one.data + b * one.block(), one.block(), group.data + b * group.block() + sample * one.block());
      if (one.sums) std::copy_n(one.sums + b * kPanel, kPanel, group.sums + (b * samples + sample) * kPanel);
    }
  }

  void run_steps(int begin, int end, std::vector<Images>& images, Index first_sample, Index samples,
                 const Team& team) const {
    Workspace& work = Workspace::this_thread();
    Images& in = images[0];
    in.samples = samples;
    in.channels = input_.channels;
    in.height = input_.height;
    in.width = input_.width;
    for (int i = begin; i < end; ++i) {
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
      } else if (s.kind == kNorm) {
        norm(s, p_.constants, x, y, team);
      } else if (s.kind == kScale) {
        scale(s, p_.constants, x, s.residual < 0 ? nullptr : &images[std::size_t(s.residual)], y, team);
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
  }

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
      for (const std::int64_t offset : {s.weight, s.weight_scale, s.bias, s.p, s.squeeze})
        if (offset >= 0) first = std::min<Index>(first, offset);
      if (first < p_.num_constants) return first;
    }
    return p_.num_constants;
  }

  const Program& p_;
  const Input& input_;
  int split_;
};

// Number of samples that run together through the last steps of a program.
constexpr Index kGroup = 4;

// The first step from which on groups of samples run together; the number of steps if none do. From there on images
// are small, so that reading the weights, once per group, takes most of the time, and the images of a group fit into the
// cache; and steps read no image of an earlier one but the last. Benchmark of kGroup and kMaxImageBytes:
// benchmarks/native.py --batch 16 (results on Zen 4: docs/native.md).
int first_grouped_step(const Program& p, const Input& input) {
  constexpr Index kMaxImageBytes = 320 << 10;
  Images x;
  x.channels = input.channels;
  x.height = input.height;
  x.width = input.width;
  std::vector<Images> images(std::size_t(p.num_steps) + 1, x);
  std::vector<Index> bytes;
  for (int i = 0; i < p.num_steps; ++i) {
    const Step& s = p.steps[i];
    const Images y = images[std::size_t(s.target)] = shape_after(s, images[std::size_t(s.source)]);
    bytes.push_back(s.fused ? 0 : y.blocks() * y.pixels() * kPanel * Index(sizeof(float)));
  }
  std::vector<char> is_read(images.size());
  Index num_read = 0;
  const auto set = [&](std::int64_t slot, char value) {
    if (slot < 0 || is_read[std::size_t(slot)] == value) return;
    is_read[std::size_t(slot)] = value;
    num_read += value ? 1 : -1;
  };
  int first = p.num_steps;
  for (int i = p.num_steps - 1; i >= 0 && bytes[std::size_t(i)] <= kMaxImageBytes; --i) {
    const Step& s = p.steps[i];
    set(s.target, 0);
    set(s.source, 1);
    set(s.residual, 1);
    const Step* before = i > 0 ? &s - 1 : nullptr;
    if (num_read == 1 && (!before || (is_read[std::size_t(before->target)] && !before->fused &&
                                      bytes[std::size_t(i - 1)] <= kMaxImageBytes)))
      first = i;
  }
  return first;
}

}  // namespace

void run(const Program& p, const Input& input, float* out) {
  const int split = first_grouped_step(p, input);
  const Runner runner(p, input, split);
  const Index count = threads.count(), batch = input.batch, max_group = split < p.num_steps ? kGroup : 1;
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
