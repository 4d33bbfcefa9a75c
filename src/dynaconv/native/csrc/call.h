// A call of a program by a host: torch, ONNX Runtime or OpenVINO.
#pragma once

#include "program.h"

namespace dynaconv {

// Contiguous images (B, C, H, W). The strides overflow if there are too many pixels to count; a Call refuses such
// images.
Input contiguous(const float* data, Index batch, Index channels, Index height, Index width);

// One call on one batch of images. All input is validated: invalid input raises an error with a message for the user
// and never causes a read or a write out of bounds.
class Call {
 public:
  // Throws std::runtime_error if the program is damaged, or if the images do not match it or are too many.
  Call(const Program& program, const Input& input, Index out_channels);

  // Size of the output images.
  Size size() const { return size_; }

  // `out` is (batch, height, width, channels), contiguous. Throws std::runtime_error if there is not enough memory.
  void run(float* out) const;

 private:
  Program program_;
  Input input_;
  Size size_;
};

}  // namespace dynaconv
