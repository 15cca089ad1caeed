# Compiles a file for one instruction set: minference_isa(avx512bf16 cpu/avx512bf16.cc). Names are those of base/isa.h.
# Only code that dispatch reaches after asking the CPU may live in such a file (tools/check_isa_symbols.py proves it).
set(MINFERENCE_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(MINFERENCE_FLAGS_avx512 ${MINFERENCE_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
                            -mprefer-vector-width=512)
# GCC bug 105593: <immintrin.h>'s own undefined registers are reported as uninitialised. Until GCC 12.3.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12.3)
  list(APPEND MINFERENCE_FLAGS_avx512 -Wno-uninitialized -Wno-maybe-uninitialized)
endif()
set(MINFERENCE_FLAGS_avx512bf16 ${MINFERENCE_FLAGS_avx512} -mavx512bf16 -mavx512vbmi)
set(MINFERENCE_FLAGS_amx ${MINFERENCE_FLAGS_avx512bf16} -mamx-tile -mamx-bf16)

function(minference_isa isa file)
  set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/${file} TARGET_DIRECTORY minference_objects
                              PROPERTIES COMPILE_OPTIONS "${MINFERENCE_FLAGS_${isa}}")
endfunction()
