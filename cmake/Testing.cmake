# minference_test(name FILE ...): a GoogleTest program linked with the whole core, run once by ctest.
# minference_isa_test(name FILE ...): the same, run once per instruction set with MINFERENCE_ISA forced; an instruction set
# that this machine lacks is reported as skipped (exit code 77), one that it has must run.
if(MINFERENCE_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
endif()

function(minference_test_program name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE minference_objects GTest::gtest)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
endfunction()

function(minference_test name)
  if(MINFERENCE_TESTS)
    minference_test_program(${name} ${ARGN} ${PROJECT_SOURCE_DIR}/tests/main.cc)
    add_test(NAME ${name} COMMAND ${name})
  endif()
endfunction()

function(minference_isa_test name)
  if(MINFERENCE_TESTS)
    minference_test_program(${name} ${ARGN} ${PROJECT_SOURCE_DIR}/tests/main.cc)
    foreach(isa portable avx2 avx512 avx512bf16 amx)
      add_test(NAME ${name}.${isa} COMMAND ${name})
      set_tests_properties(${name}.${isa} PROPERTIES ENVIRONMENT MINFERENCE_ISA=${isa} SKIP_RETURN_CODE 77)
    endforeach()
  endif()
endfunction()
