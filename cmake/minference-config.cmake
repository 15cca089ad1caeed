include(${CMAKE_CURRENT_LIST_DIR}/minference-targets.cmake)
