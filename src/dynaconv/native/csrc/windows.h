// The input channels that each panel of a convolution reads.
#pragma once

#include <algorithm>

#include "program.h"

namespace dynaconv {

// The panels of a grouped convolution read whole blocks of channels, those of the groups of their output channels. All
// of them read as many blocks as the one that needs most, but no channels behind the last one. The weights of channels
// of other groups are zero. `ops/packing.py` has the same rule.
class Windows {
 public:
  struct Window {
    Index first, count;
  };

  // Of a convolution of one group.
  explicit Windows(Index channels = 0) : channels_(channels) {}
  explicit Windows(const Step& s) : channels_(s.in_channels), groups_(s.groups) {
    if (!is_grouped()) return;
    inputs_ = s.in_channels / groups_;
    outputs_ = s.out_channels / groups_;
    for (Index panel = 0; panel * kPanel < s.out_channels; ++panel) {
      const Index last = std::min<Index>(panel * kPanel + kPanel, s.out_channels) - 1;
      const Index end = (last / outputs_ + 1) * inputs_;
      blocks_ = std::max(blocks_, (end + kPanel - 1) / kPanel - first_block(panel));
    }
  }

  bool is_grouped() const { return groups_ > 1; }
  // The most channels that a panel reads.
  Index size() const { return is_grouped() ? std::min(blocks_ * kPanel, channels_) : channels_; }
  Window at(Index panel) const {
    if (!is_grouped()) return {0, channels_};
    const Index blocks = (channels_ + kPanel - 1) / kPanel;
    const Index first = std::min(first_block(panel), blocks - blocks_) * kPanel;
    return {first, std::min(blocks_ * kPanel, channels_ - first)};
  }

 private:
  Index first_block(Index panel) const { return panel * kPanel / outputs_ * inputs_ / kPanel; }

  Index channels_, groups_ = 1, inputs_ = 0, outputs_ = 0, blocks_ = 0;
};

}  // namespace dynaconv
