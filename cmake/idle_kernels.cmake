# For builds with sanitizers (CMakePresets.json): kernels that this CPU can't run are compiled without, as vector code
# takes minutes to instrument.  SPDX-License-Identifier: MIT
if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo _qkv_avx512 REGEX "avx512dq" LIMIT_COUNT 1)
    if(NOT _qkv_avx512)
        set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/src/kernels/avx512/kernels_avx512.c" PROPERTIES
            COMPILE_OPTIONS -fno-sanitize=all)
    endif()
endif()
