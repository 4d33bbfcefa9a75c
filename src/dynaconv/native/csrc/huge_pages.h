// Huge pages for memory that is already allocated.
#pragma once

#include <cstddef>

namespace dynaconv {

// Asks the system to put the pages inside [data, data + bytes) on huge pages. A call reads all weights of a network
// once; with small pages they are more than the TLB covers, and each page costs a TLB miss. The contents stay; nothing
// happens if the system refuses.
void use_huge_pages(const void* data, std::size_t bytes);

}  // namespace dynaconv
