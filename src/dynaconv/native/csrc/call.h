// A program called from outside: by torch, or by OpenVINO.
#pragma once

#include "program.h"

namespace dynaconv {

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
