#include "kernel_mix.h"

#include "parts.h"

namespace dynaconv {
namespace {

struct Buffers {
  Buffer mixed, gradient, attention, channel;

  static Buffers& this_thread() {
    thread_local Buffers buffers;
    return buffers;
  }
};

// Row `o` of the kernels of all samples, without the factors, `distance` floats from sample to sample.
void mix_row(const KernelMix& m, Index o, float* out, Index distance) {
  kernels().gemm({m.batch, m.inputs, m.kernels, m.attention, m.kernels, 1, m.weights + o * m.inputs, m.size(), out,
                  distance, true});
}

ScaledRow scaled(const KernelMix& m, Index n, Index o, const float* row) {
  return {m.inputs, row, m.filter[n * m.outputs + o], m.channel + n * m.inputs};
}

}  // namespace

void kernel_mix(const KernelMix& m, float* out) {
  parallel_for_each(m.outputs, [&](Index o) {
    float* row = out + o * m.inputs;
    mix_row(m, o, row, m.size());
    for (Index n = 0; m.filter && n < m.batch; ++n, row += m.size()) kernels().scale_row(scaled(m, n, o, row), row);
  });
}

void kernel_mix_gradients(const KernelMix& m, const float* gradient, const KernelMixGradients& to) {
  Buffers& buffers = Buffers::this_thread();
  const Index parts = num_parts(m.outputs);
  const PartSums attention(to.attention, m.batch * m.kernels, parts, buffers.attention);
  const PartSums channel(to.channel, m.filter ? m.batch * m.inputs : 0, parts, buffers.channel);
  if (m.filter) std::fill_n(to.filter, m.batch * m.outputs, 0.0f);
  for_each_part(m.outputs, parts, [&](Index part, Index first, Index last) {
    Buffers& own = Buffers::this_thread();
    float* mixed = own.mixed.get(m.batch * m.inputs);
    float* to_mixed = own.gradient.get(m.batch * m.inputs);
    for (Index o = first; o < last; ++o) {
      const float* rows = gradient + o * m.inputs;
      Index distance = m.size();
      if (m.filter) {
        mix_row(m, o, mixed, m.inputs);
        std::fill_n(to_mixed, m.batch * m.inputs, 0.0f);
        for (Index n = 0; n < m.batch; ++n)
          kernels().scale_row_gradients(scaled(m, n, o, mixed + n * m.inputs), rows + n * m.size(),
                                        to_mixed + n * m.inputs, to.filter + n * m.outputs + o,
                                        channel.of(part) + n * m.inputs);
        rows = to_mixed, distance = m.inputs;
      }
      const float* weights = m.weights + o * m.inputs;
      kernels().gemm({m.kernels, m.inputs, m.batch, m.attention, 1, m.kernels, rows, distance,
                      to.weights + o * m.inputs, m.size(), true});
      kernels().dots({m.batch, m.kernels, m.inputs, rows, distance, weights, m.size(), attention.of(part), m.kernels});
    }
  });
  attention.add_up();
  channel.add_up();
}

}  // namespace dynaconv
