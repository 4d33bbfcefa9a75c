// A program called from outside: by torch, ONNX Runtime or OpenVINO.
#pragma once

#include "program.h"

namespace dynaconv {

// Images (B, C, H, W) without gaps. Strides may wrap around where there are too many pixels to count; a call refuses
// those.
Input contiguous(const float* data, Index batch, Index channels, Index height, Index width);

// One call on one batch of images. Nothing that comes from outside is believed: whatever does not fit is an error with a
// message for the user, never a read or a write in the wrong place.
class Call {
 public:
  // Throws std::runtime_error where the program is damaged, the images do not fit, or there are too many of them.
  Call(const Program& program, const Input& input, Index out_channels);

  // Of the output's images.
  Size size() const { return size_; }

  // `out` is (batch, height, width, channels), contiguous. Throws std::runtime_error where memory does not suffice.
  void run(float* out) const;

 private:
  Program program_;
  Input input_;
  Size size_;
};

}  // namespace dynaconv
