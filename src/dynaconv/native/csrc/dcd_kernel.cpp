#include "dcd_step.h"
#include "parts.h"

namespace dynaconv {
namespace {

struct Buffers {
  Buffer q, mix, weights, to_q, others;

  static Buffers& this_thread() {
    thread_local Buffers buffers;
    return buffers;
  }
};

const float* transposed_q(const DCDKernel& k) {
  float* out = Buffers::this_thread().q.get(k.inputs * k.latent);
  for (Index i = 0; i < k.inputs; ++i)
    for (Index l = 0; l < k.latent; ++l) out[l * k.inputs + i] = k.q[i * k.latent + l];
  return out;
}

// Calls f(panel width, first, rows) for a row of numbers as rows of a whole and of a half panel.
template <class F>
void for_each_width(Index size, const F& f) {
  const Index rest = size % kPanel;
  f(kPanel, 0, size / kPanel);
  if (rest) f(kHalf, size - rest, 1);
}

}  // namespace

void dcd_kernel(const DCDKernel& k, float* out) {
  const float* q = transposed_q(k);
  parallel_for_each(k.batch, [&](Index n) {
    float* kernel = out + n * k.size();
    const float* scale = k.scale + n * k.outputs;
    for (Index o = 0; o < k.outputs; ++o)
      for_each_width(k.inputs, [&](Index width, Index first, Index rows) {
        const Index at = o * k.inputs + first;
        kernels().mix[width == kPanel]({rows, k.weight + at, 1, scale + o, nullptr, nullptr, kernel + at});
      });
    for_each_panel(k.outputs, [&](Index channel, Index width) {
      kernels().gemm({width, k.inputs, k.latent, k.mix + (n * k.outputs + channel) * k.latent, 1, width, q, k.inputs,
                      kernel + channel * k.inputs, k.inputs});
    });
  });
}

void dcd_kernel_gradients(const DCDKernel& k, const float* gradient, const DCDKernelGradients& to) {
  Buffers& buffers = Buffers::this_thread();
  const Index parts = num_parts(k.batch), q_size = k.inputs * k.latent;
  const PartSums weights(to.weight, k.size(), parts, buffers.weights);
  float* to_q = buffers.to_q.get(q_size);
  const PartSums latent(to_q, q_size, parts, buffers.others);
  std::fill_n(to.scale, k.batch * k.outputs, 0.0f);
  for_each_part(k.batch, parts, [&](Index part, Index first, Index last) {
    float* rows_of_mix = Buffers::this_thread().mix.get(k.outputs * k.latent);
    for (Index n = first; n < last; ++n) {
      const float* own = gradient + n * k.size();
      const Index lane = n * k.outputs;
      for (Index o = 0; o < k.outputs; ++o)
        for_each_width(k.inputs, [&](Index width, Index from, Index rows) {
          const Index at = o * k.inputs + from;
          kernels().unmix[width == kPanel]({{rows, k.weight + at, 1, k.scale + lane + o, nullptr, nullptr, nullptr},
                                            own + at, weights.of(part) + at, to.scale + lane + o, nullptr, nullptr});
        });
      kernels().gemm({k.outputs, k.latent, k.inputs, own, k.inputs, 1, k.q, k.latent, rows_of_mix, k.latent, true});
      for_each_panel(k.outputs, [&](Index channel, Index width) {
        const Index panel = (lane + channel) * k.latent;
        for (Index l = 0; l < k.latent; ++l)
          for (Index i = 0; i < width; ++i)
            to.mix[panel + l * width + i] = rows_of_mix[(channel + i) * k.latent + l];
        kernels().gemm({k.latent, k.inputs, width, k.mix + panel, width, 1, own + channel * k.inputs, k.inputs,
                        latent.of(part), k.inputs});
      });
    }
  });
  for (Index i = 0; i < k.batch * k.outputs; ++i) to.scale[i] *= k.scale[i];
  weights.add_up();
  latent.add_up();
  for (Index i = 0; i < k.inputs; ++i)
    for (Index l = 0; l < k.latent; ++l) to.q[i * k.latent + l] = to_q[l * k.inputs + i];
}

}  // namespace dynaconv
