#include "call.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>

namespace dynaconv {
namespace {

std::string described(const Input& input) {
  return "a batch of " + std::to_string(input.batch) + " images of " + std::to_string(input.height) + " x " +
         std::to_string(input.width) + " pixels";
}

// Whether no offset can overflow: an expanded image may have more pixels than any memory, and only a mean of it be
// wanted. No step's images are larger than the input with all padding, a block of 16 channels for each.
bool countable(const Program& program, const Input& input) {
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
  if (!countable(program, input))
    throw std::runtime_error(described(input) + " is more than the native program can count.");
  size_ = check(program, input);
  if (program.steps[program.num_steps - 1].out_channels != out_channels)
    throw std::runtime_error("the native program is damaged: its output has other channels.");
}

void Call::run(float* out) const {
  try {
    if (input_.batch) dynaconv::run(program_, input_, out);
  } catch (const std::bad_alloc&) {
    throw std::runtime_error("there is no memory for " + described(input_) + "; give fewer or smaller ones.");
  }
}

}  // namespace dynaconv
