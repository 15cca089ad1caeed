#pragma once

#include <cstdint>

namespace minference::base {

// A number that a process keeps and that fork() changes in the child. Never 0. Unlike a pid, which a child in a PID
// namespace of its own may share with its parent, it differs from that of every process that the caller descends from.
// Throws Error(out_of_memory) where fork() could not be watched, and then at every call.
std::uint64_t process_generation();

}  // namespace minference::base
