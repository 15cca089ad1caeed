#pragma once

struct CUstream_st;

namespace minference::cuda {

using Stream = CUstream_st*;  // cudaStream_t without CUDA's headers

}  // namespace minference::cuda
