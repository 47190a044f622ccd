# For builds with sanitizers (CMakePresets.json): kernels that this CPU can't run are compiled without, as vector code
# takes minutes to instrument; where it runs them, GCC before 12.4 and 13.3 does not align vectors of 64 bytes on the
# stack that it makes to see uses after a return (its bug 110027), so it does not make one for them.
# SPDX-License-Identifier: MIT
if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo _qkv_avx512 REGEX "avx512dq" LIMIT_COUNT 1)
    if(NOT _qkv_avx512)
        set(_qkv_avx512_options -fno-sanitize=all)
    elseif(CMAKE_C_COMPILER_ID STREQUAL GNU)
        set(_qkv_avx512_options --param=asan-use-after-return=0)
    endif()
    set_source_files_properties("${CMAKE_CURRENT_SOURCE_DIR}/src/kernels/avx512/kernels_avx512.c" PROPERTIES
        COMPILE_OPTIONS "${_qkv_avx512_options}")
endif()
