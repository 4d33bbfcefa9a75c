// Memory in large pages, where the system has them.
#pragma once

#include <cstddef>

namespace dynaconv {

// Asks for large pages behind what lies inside [data, data + bytes). A network's weights are read once a call, more of
// them than the processor knows small pages, so that a small page costs a walk through the page table each time. The
// contents stay; where the system does not oblige, nothing happens.
void use_large_pages(const void* data, std::size_t bytes);

}  // namespace dynaconv
