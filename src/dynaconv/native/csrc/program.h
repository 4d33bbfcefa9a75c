// A program: a list of steps, such as convolutions, over numbered image slots. It runs on groups of samples.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace dynaconv {

// One step in the int64 tensor that Python writes; native/steps.py has the same names in the same order.
// Offsets count floats in the constants; -1 means that the part is absent.
struct Step {
  std::int64_t kind, source, target, residual;
  std::int64_t in_channels, out_channels, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
  std::int64_t pad_top, pad_left, pad_bottom, pad_right;
  // `fused`: the next step is a static depthwise convolution, and the only one that reads this one's target. `groups`
  // are those of a dense convolution. `precision` is that of the kernel.
  std::int64_t activation, fused, weight, bias, groups, precision;
  // In int8 `weight` and `q` are bytes (int8.h), and these are their scales: one for each output channel, then the sum of
  // its bytes, both padded to 16 floats. Mixtures and kernels of cells are stored in floats and quantised when formed.
  std::int64_t weight_scale, q_scale;
  // The dynamic part; if `dynamic` is 0, all fields after it are unused. In a depthwise step `latent` is L_k,
  // `q_rows` is R by rows, and `q` is absent.
  std::int64_t dynamic, algorithm, latent, p, q, q_rows, scaled_bias;
  std::int64_t context_size, normalise, hidden, squeeze, squeeze_bias, hidden_norm, branch_activation, gate, unit;
  std::int64_t heads, heads_bias, has_scale, scale_activation, has_shift;
  // A mixture of `kernels` kernels, whose weights are a softmax or sigmoids of logits; with `static_kernel` the first
  // kernel has weight one and no logit. `has_channel`, `has_spatial`: attention over input channels and over taps.
  std::int64_t kernels, softmax, static_kernel, biases, has_channel, has_spatial;
  // A kernel of blocks, each a weighted sum of `num_cells` cells of the shape (cell_out, cell_in, cell_h, cell_w).
  // `blend`: a factor of all weights of cells, padded to 16 floats, then what is added to them. `channel_scale`: a
  // factor of each output channel.
  std::int64_t cells, num_cells, cell_out, cell_in, cell_h, cell_w, blend, channel_scale;
};

constexpr int kFields = sizeof(Step) / sizeof(std::int64_t);

// Format of programs in files. Raise it here and in steps.py with every change of the steps or of the order of the
// constants: a file of another format is refused.
constexpr int kFormat = 4;

// Epsilons added to a variance, to a squared length and to a sum of magnitudes; families/contract and
// families/kernel_warehouse have the same numbers.
constexpr float kNormEpsilon = 1e-5f, kLengthEpsilon = 1e-4f, kSharesEpsilon = 1e-3f;

// kScale multiplies each channel by half of Lambda, which the branch computes from the mean of the same images. kNorm
// normalises the channels of each pixel; its weight is a factor of each channel, then the epsilon, padded to 16 floats.
enum StepKind { kDense = 0, kDepthwise = 1, kMaxPool = 2, kMean = 3, kScale = 4, kNorm = 5 };
enum Algorithm { kAuto = 0, kForm = 1, kFactors = 2 };
enum Precision { kFloat32 = 0, kBf16 = 1, kInt8 = 2 };
enum BranchActivation { kReluB = 0, kRelu6B = 1, kSilu = 2, kGelu = 3, kHardswish = 4, kGate = 5 };
enum ScaleActivation { kAffine = 0, kHardSigmoid = 1, kSigmoid = 2, kTanh = 3 };

struct Size {
  Index height, width;
};

// A height or width that is not known yet.
constexpr Index kUnknown = -1;

struct Program {
  const Step* steps;
  int num_steps;
  const float* constants;
  Index num_constants;
};

struct Input {
  const float* data;
  Index batch, channels, height, width;
  Index stride_n, stride_c, stride_h, stride_w;
};

// Returns the size of the output images; kUnknown if it depends on an unknown size of the input. Throws
// std::runtime_error if the program does not match its constants or the images do not match the program.
Size check(const Program& program, const Input& input);

// Runs the program. `out` is (batch, height, width, channels), contiguous. Call `check` first.
void run(const Program& program, const Input& input, float* out);

// The host's threads. `parallel_for` calls fn on ranges that cover [0, n); `count` returns the number of threads. Set
// once, before the first run.
using ParallelFor = void (*)(Index n, void (*fn)(Index begin, Index end, void* context), void* context);
struct Threads {
  ParallelFor parallel_for;
  int (*count)();
};
extern Threads threads;

}  // namespace dynaconv
