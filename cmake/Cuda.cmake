# libminference_cuda.so: a library of its own beside libminference.so, with the CUDA runtime in it. Ahead-of-time code
# for Ampere, Ada and Hopper, and PTX for what came later.
enable_language(CUDA)
find_package(CUDAToolkit 12.4 REQUIRED)
get_filename_component(root ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)
set(attention ${root}/src/kernels/attention/cuda)

# Adds a library of the given type from sources for some architectures.
function(minference_cuda_library name type architectures)
  add_library(${name} ${type} ${ARGN})
  target_include_directories(${name} PRIVATE ${root}/src ${root}/include ${CUDAToolkit_INCLUDE_DIRS})
  set_target_properties(${name} PROPERTIES
    CUDA_ARCHITECTURES "${architectures}"
    CUDA_RUNTIME_LIBRARY Static
    CUDA_STANDARD 20
    CUDA_VISIBILITY_PRESET hidden
    CUDA_COMPILER_LAUNCHER ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/nvcc_checked.sh)
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Xcompiler=-Wall,-Wextra,-Wshadow>
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                  -Wno-missing-field-initializers>)
endfunction()

# One file an instantiation, so that they compile side by side.
set(sm80_instantiations)
foreach(element __nv_bfloat16 __half)
  foreach(head_dim 64 80 96 128 192 256)
    set(file ${CMAKE_CURRENT_BINARY_DIR}/attention_sm80/${element}_d${head_dim}.cu)
    file(CONFIGURE OUTPUT ${file} CONTENT [[#include "kernels/attention/cuda/sm80/launch.cuh"

template void minference::kernels::cuda::sm80::launch_attention_kernels<@element@, @head_dim@>(
    const DeviceAttentionCall&, Arguments&, Stream);
]] @ONLY)
    list(APPEND sm80_instantiations ${file})
  endforeach()
endforeach()

minference_cuda_library(minference_cuda_sm90 OBJECT 90a-real
  ${attention}/sm90/blocks.cu
  ${attention}/sm90/launch.cu
  ${attention}/sm90/prepare.cu
  ${attention}/sm90/squares.cu
  ${attention}/sm90/instantiations/bf16_d64.cu
  ${attention}/sm90/instantiations/bf16_d96.cu
  ${attention}/sm90/instantiations/bf16_d128.cu
  ${attention}/sm90/instantiations/bf16_d256.cu
  ${attention}/sm90/instantiations/f16_d64.cu
  ${attention}/sm90/instantiations/f16_d96.cu
  ${attention}/sm90/instantiations/f16_d128.cu
  ${attention}/sm90/instantiations/f16_d256.cu)

minference_cuda_library(minference_cuda SHARED "80;90-real"
  $<TARGET_OBJECTS:minference_cuda_sm90>
  ${root}/src/capi/cuda/attention.cc
  ${root}/src/capi/cuda/prefill.cc
  ${root}/src/capi/heads.cc
  ${root}/src/capi/sequences.cc
  ${root}/src/capi/status.cc
  ${root}/src/capi/tensors.cc
  ${root}/src/cuda/tensor_map.cu
  ${root}/src/kernels/estimate/cuda/estimate.cu
  ${root}/src/kernels/gather/cuda/gather_pages.cu
  ${root}/src/kernels/index/cuda/blocks.cu
  ${root}/src/kernels/index/cuda/index.cu
  ${root}/src/kernels/pool/cuda/pool.cu
  ${root}/src/kernels/select/cuda/select.cu
  ${root}/src/kernels/share/cuda/add_followers.cu
  ${root}/src/prefill/cuda/layer.cc
  ${root}/src/prefill/gate.cc
  ${root}/src/sparse/count.cc
  ${root}/src/sparse/shared_heads.cc
  ${root}/src/sparse/sparse_index.cc
  ${attention}/attention.cu
  ${attention}/clear_rows.cu
  ${attention}/schedule.cu
  ${attention}/sm80/launch.cu
  ${sm80_instantiations})
install(TARGETS minference_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${root}/include/minference/minference_cuda.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/minference)

# The wheel's copy, beside the Python package.
if(SKBUILD)
  add_dependencies(python_package minference_cuda)
  install(FILES $<TARGET_FILE:minference_cuda> DESTINATION minference RENAME libminference_cuda.so COMPONENT python)
endif()
