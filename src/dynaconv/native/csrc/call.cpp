#include "call.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>

namespace dynaconv {
namespace {

std::string describe(const Input& input) {
  return "a batch of " + std::to_string(input.batch) + " images of " + std::to_string(input.height) + " x " +
         std::to_string(input.width) + " pixels";
}

// Returns whether no offset can overflow. An expanded tensor may have more pixels than fit into any memory. The images
// of a step are at most as large as the input with the padding of all steps; their channels are rounded up to 16.
bool fits_index(const Program& program, const Input& input) {
  double height = double(input.height), width = double(input.width), channels = double(input.channels);
  for (int i = 0; i < program.num_steps; ++i) {
    const Step& s = program.steps[i];
    height += double(s.pad_top) + double(s.pad_bottom);
    width += double(s.pad_left) + double(s.pad_right);
    channels = std::max({channels, double(s.out_channels), double(s.latent)});
  }
  return double(input.batch) * height * width * (channels + kPanel) < 0x1p48;
}

}  // namespace

Input contiguous(const float* data, Index batch, Index channels, Index height, Index width) {
  const std::size_t pixels = std::size_t(height) * std::size_t(width);
  return {data, batch, channels, height, width, Index(std::size_t(channels) * pixels), Index(pixels), width, 1};
}

Call::Call(const Program& program, const Input& input, Index out_channels) : program_(program), input_(input) {
  if (!fits_index(program, input))
    throw std::runtime_error(describe(input) + " is too large for the native program; give fewer or smaller ones.");
  size_ = check(program, input);
  if (program.steps[program.num_steps - 1].out_channels != out_channels)
    throw std::runtime_error("the native program is damaged: its output does not have " +
                             std::to_string(out_channels) + " channels.");
}

void Call::run(float* out) const {
  try {
    if (input_.batch) dynaconv::run(program_, input_, out);
  } catch (const std::bad_alloc&) {
    throw std::runtime_error("there is not enough memory for " + describe(input_) + "; give fewer or smaller ones.");
  }
}

}  // namespace dynaconv
