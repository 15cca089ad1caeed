# libminference_cuda.so: a library of its own beside libminference.so, ahead-of-time code for Hopper, with the
# CUDA runtime in it.
enable_language(CUDA)
find_package(CUDAToolkit 12.4 REQUIRED)
get_filename_component(root ${CMAKE_CURRENT_LIST_DIR}/.. ABSOLUTE)

add_library(minference_cuda SHARED)
target_include_directories(minference_cuda PRIVATE ${root}/src ${root}/include ${CUDAToolkit_INCLUDE_DIRS})
set_target_properties(minference_cuda PROPERTIES
  CUDA_ARCHITECTURES 90a-real
  CUDA_RUNTIME_LIBRARY Static
  CUDA_STANDARD 20
  CUDA_VISIBILITY_PRESET hidden
  CUDA_COMPILER_LAUNCHER ${CMAKE_CURRENT_LIST_DIR}/nvcc_checked.sh)
target_compile_options(minference_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Xcompiler=-Wall,-Wextra,-Wshadow>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                -Wno-missing-field-initializers>)

set(attention ${root}/src/kernels/attention/cuda)
target_sources(minference_cuda PRIVATE
  ${root}/src/capi/cuda/attention.cc
  ${root}/src/capi/cuda/prefill.cc
  ${root}/src/capi/heads.cc
  ${root}/src/capi/sequences.cc
  ${root}/src/capi/status.cc
  ${root}/src/capi/tensors.cc
  ${root}/src/cuda/tensor_map.cu
  ${root}/src/kernels/estimate/cuda/estimate.cu
  ${root}/src/kernels/index/cuda/index.cu
  ${root}/src/kernels/select/cuda/select.cu
  ${root}/src/prefill/cuda/layer.cc
  ${root}/src/prefill/gate.cc
  ${root}/src/sparse/count.cc
  ${root}/src/sparse/sparse_index.cc
  ${attention}/attention.cu
  ${attention}/clear_rows.cu
  ${attention}/prepare.cu
  ${attention}/sm90/launch.cu
  ${attention}/sm90/instantiations/bf16_d64.cu
  ${attention}/sm90/instantiations/bf16_d96.cu
  ${attention}/sm90/instantiations/bf16_d128.cu
  ${attention}/sm90/instantiations/f16_d64.cu
  ${attention}/sm90/instantiations/f16_d96.cu
  ${attention}/sm90/instantiations/f16_d128.cu)
install(TARGETS minference_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${root}/include/minference/minference_cuda.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/minference)

# The wheel's copy, beside the Python package.
if(SKBUILD)
  add_dependencies(python_package minference_cuda)
  install(FILES $<TARGET_FILE:minference_cuda> DESTINATION minference RENAME libminference_cuda.so COMPONENT python)
endif()
