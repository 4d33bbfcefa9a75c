// Two convolutions in one pass: a dense one and the depthwise one that reads it.
#include <algorithm>
#include <cstring>

#include "layers.h"

namespace dynaconv {
namespace {

// A dense convolution fused with the depthwise convolution after it, one or two panels at a time. Both run on strips of
// rows. If `formed` is not null, it forms the panels of W(x) when they are needed.
class Fusion {
 public:
  Fusion(const Product& product, const Formation* formed, const float* constants, const Images& intermediate,
         const Next& next, Images& out)
      : product_(product), formed_(formed), s_(next.step), intermediate_(intermediate), out_(out),
        depthwise_(next.step, constants, intermediate, out), reach_((s_.kernel_h - 1) * s_.dilation_h + 1) {}

  void run(const Team& team) const {
    const Index samples = out_.samples, blocks = out_.blocks();
    const double pixels = double(samples) * double(intermediate_.pixels());
    const double work = pixels * double(product_.channels) * product_.tile.depth;
    // Pairs of panels read the pixels half as often. If there are few panels, single ones balance the load better.
    // Groups that remain after an equal number per thread, or all groups if there are few, are split by rows; rows at
    // the borders are computed twice. Benchmark of the four constants: benchmarks/native.py --threads 2
    // (results on Zen 4: docs/native.md).
    constexpr Index kMinPanels = 8, kMinGroups = 2, kMinRows = 7, kMaxParts = 4;   // the first two per thread
    const Index threads = team.size();
    const Index width = team.is_parallel() && blocks < kMinPanels * threads ? 1 : kernels().panels;
    const Index groups = (blocks + width - 1) / width;
    Index unsplit = groups;
    if (team.is_parallel()) unsplit = groups < kMinGroups * threads ? 0 : groups - groups % threads;
    const Index wanted = unsplit ? threads : (kMinGroups * threads + groups - 1) / groups;
    const Index max_parts = std::clamp<Index>(out_.height / kMinRows, 1, kMaxParts);
    const Index parts = unsplit == groups ? 1 : std::clamp<Index>(wanted, 1, max_parts);
    const Index tasks = unsplit + (groups - unsplit) * parts;
    const Index size = blocks * samples * out_.height * kPanel;
    float* sums = out_.sums ? Workspace::this_thread().scratch[kSums].get(size) : nullptr;
    const auto task = [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const bool is_unsplit = i < unsplit;
        const Index group = is_unsplit ? i : unsplit + (i - unsplit) / parts;
        const Index part = is_unsplit ? 0 : (i - unsplit) % parts, num_parts = is_unsplit ? 1 : parts;
        // While this group is multiplied, the kernels of the next one are fetched; after the last, the next step's.
        const Index next = i + 1 < end && part + 1 == num_parts ? group + 1 : groups;
        for (Index sample = 0; sample < samples; ++sample)
          run(sample, group * width, std::min(width, blocks - group * width), part * out_.height / num_parts,
              (part + 1) * out_.height / num_parts, sums,
              formed_ && next < groups
                  ? formed_->kernels(next * width, std::min(width, blocks - next * width))
                        .part(sample, sample + 1, samples, 1)
                  : product_.prefetch.part(i * samples + sample, i * samples + sample + 1, tasks * samples, 1));
      }
    };
    team.parallel_for(tasks, work, task);
    for (Index i = 0; sums && i < blocks * samples; ++i)
      sum_parts(sums + i * out_.height * kPanel, out_.height, kPanel, out_.sums + i * kPanel);
  }

 private:
  // Benchmark of both sizes: benchmarks/native.py (results on Zen 4: docs/native.md).
  static constexpr Index kStripBytes = 48 << 10, kBufferBytes = 160 << 10;

  // Number of output rows per strip, so that the rows that they read fit into the L1 cache. `row_bytes` is the size of
  // one row of all panels of the group.
  Index strip_height(Index row_bytes) const {
    return std::clamp<Index>((kStripBytes / row_bytes - reach_) / s_.stride_h + 1, 1, out_.height);
  }

  // Computes output rows [top, bottom) of `panels` panels from panel `first` on. Strips are written one after another
  // to a buffer for the L2 cache. If the buffer is full, the rows that the next strip reads again move to its front.
  void run(Index sample, Index first, Index panels, Index top, Index bottom, float* sums,
           const Prefetch& prefetch) const {
    Workspace& work = Workspace::this_thread();
    const Team serial;
    const Index row = intermediate_.width * kPanel, bytes = row * panels * Index(sizeof(float));
    const Index height = strip_height(bytes);
    const Index capacity = std::max(kBufferBytes / bytes, (height - 1) * s_.stride_h + reach_), block = capacity * row;
    float* buffer = work.scratch[kFused].get(panels * block);
    Product p = columns(product_, sample, first * kPanel, panels * kPanel, buffer, block);
    if (formed_) formed_->run(sample, first, panels, p);
    const Index start = depthwise_.input_rows(top, top + 1).from, stop = depthwise_.input_rows(bottom - 1, bottom).to;
    Index base = start, done = start;
    for (Index from = top; from < bottom; from += height) {
      const Index to = std::min(from + height, bottom);
      const auto needed = depthwise_.input_rows(from, to);
      // If the stride is larger than the kernel, the rows between two kernels are skipped.
      done = std::max(done, needed.from);
      if (needed.to - base > capacity) {
        const Index overlap = done - needed.from;
        for (Index b = 0; overlap && b < panels; ++b) {
          float* front = buffer + b * block;
          std::memmove(front, front + (needed.from - base) * row, std::size_t(overlap * row) * sizeof(float));
        }
        base = needed.from;
      }
      if (needed.to > done) {
        Product strip = rows(p, done, needed.to, intermediate_.width);
        strip.tile.out += (done - base) * row;
        strip.prefetch = prefetch.part(done - start, needed.to - start, stop - start, 1);
        multiply(strip, serial);
        done = needed.to;
      }
      for (Index b = 0; b < panels; ++b)
        depthwise_.run(buffer + b * block, base, first + b, sample, from, to,
                       sums ? sums + ((first + b) * out_.samples + sample) * out_.height * kPanel : nullptr);
    }
  }

  const Product& product_;
  const Formation* formed_;
  const Step& s_;
  const Images& intermediate_;
  Images& out_;
  DepthwiseBlock depthwise_;
  Index reach_;
};

}  // namespace

void run_fused(const Product& product, const Formation* formed, const float* constants, const Images& intermediate,
               const Next& next, Images& out, const Team& team) {
  Fusion(product, formed, constants, intermediate, next, out).run(team);
}

}  // namespace dynaconv
