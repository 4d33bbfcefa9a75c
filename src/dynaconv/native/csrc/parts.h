// Loops of the training operators, on the host's threads.
#pragma once

#include <algorithm>

#include "workspace.h"

namespace dynaconv {

// Calls f(first channel, width) for each panel.
template <class F>
void for_each_panel(Index channels, const F& f) {
  for (Index channel = 0; channel < channels; channel += kPanel)
    f(channel, channels - channel <= kHalf ? kHalf : kPanel);
}

// Calls f(i) for each i in [0, n), in parallel.
template <class F>
void parallel_for_each(Index n, const F& f) {
  threads.parallel_for(
      n,
      [](Index begin, Index end, void* context) {
        for (Index i = begin; i < end; ++i) (*static_cast<const F*>(context))(i);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// Calls f(part, first, last) on a fixed division of the samples into parts, so that sums over the parts do not depend on
// the order in which threads end.
template <class F>
void for_each_part(Index batch, Index parts, const F& f) {
  parallel_for_each(parts, [&](Index part) { f(part, batch * part / parts, batch * (part + 1) / parts); });
}

inline Index num_parts(Index batch) { return std::clamp<Index>(threads.count(), 1, std::max<Index>(batch, 1)); }

// A sum over parts, each of which adds to memory of its own, the first one to the result.
class PartSums {
 public:
  PartSums(float* result, Index size, Index parts, Buffer& others)
      : result_(result), size_(size), parts_(parts), others_(others.get((parts - 1) * size)) {
    std::fill_n(result_, size, 0.0f);
    std::fill_n(others_, (parts - 1) * size, 0.0f);
  }

  float* of(Index part) const { return part ? others_ + (part - 1) * size_ : result_; }

  void add_up() const {
    for (Index part = 1; part < parts_; ++part)
      for (Index i = 0; i < size_; ++i) result_[i] += of(part)[i];
  }

 private:
  float* result_;
  Index size_, parts_;
  float* others_;
};

}  // namespace dynaconv
