# What `cmake --install` gives a C or C++ project: headers, the library, and find_package(minference) with the target
# minference::minference. The Python wheel takes component `python` only.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/minference)
target_compile_features(minference INTERFACE cxx_std_20)
install(TARGETS minference EXPORT minference-targets COMPONENT development)
install(FILES ${PROJECT_SOURCE_DIR}/include/minference/minference.h ${PROJECT_SOURCE_DIR}/include/minference/minference.hpp
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/minference COMPONENT development)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/minference/cpp
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/minference COMPONENT development)
install(EXPORT minference-targets NAMESPACE minference:: DESTINATION ${package_dir} COMPONENT development)

# Before 1.0 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/minference-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_SOURCE_DIR}/cmake/minference-config.cmake
              ${PROJECT_BINARY_DIR}/minference-config-version.cmake
        DESTINATION ${package_dir} COMPONENT development)
