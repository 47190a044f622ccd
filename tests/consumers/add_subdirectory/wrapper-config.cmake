# find_package(wrapper): defines wrapper::wrapper.  SPDX-License-Identifier: MIT
include(CMakeFindDependencyMacro)
find_dependency(qkv)
include("${CMAKE_CURRENT_LIST_DIR}/wrapper-targets.cmake")
