# Refuses options that would change the library's arithmetic, where a project gives them to all its targets. It is
# src/config.h that refuses, in every build; this says it once, at the start, and what to do. Options in generator
# expressions, which may be for C++ alone, are left to the compiler.  SPDX-License-Identifier: MIT
function(qkv_refuse_other_arithmetic)
    get_directory_property(add_compile_options COMPILE_OPTIONS)
    string(TOUPPER "${CMAKE_BUILD_TYPE};${CMAKE_CONFIGURATION_TYPES}" configurations)
    foreach(configuration IN LISTS configurations)
        set(options)
        set(refused)
        set(places)
        foreach(place CMAKE_C_FLAGS "CMAKE_C_FLAGS_${configuration}" add_compile_options)
            string(GENEX_STRIP "${${place}}" words)
            string(REGEX MATCHALL "-[fO][a-z0-9=-]*" words "${words}")
            list(APPEND options ${words})
            list(FILTER words INCLUDE REGEX
                "^-(Ofast|f(fast|unsafe|finite|associative|reciprocal|no-signed|single-precision)-[a-z-]+)$")
            if(words)
                list(APPEND refused ${words})
                list(APPEND places "${place}")
            endif()
        endforeach()
        if(NOT refused)
            continue()
        endif()
        execute_process(COMMAND "${CMAKE_C_COMPILER}" ${options} -E -x c "${CMAKE_CURRENT_SOURCE_DIR}/src/config.h"
            OUTPUT_QUIET ERROR_VARIABLE refusal)
        if(refusal MATCHES "qkv promises")
            list(REMOVE_DUPLICATES refused)
            string(REPLACE ";" " " refused "${refused}")
            string(REPLACE ";" ", " places "${places}")
            message(FATAL_ERROR "qkv promises the same bits everywhere, so it can't be built with ${refused}, which "
                "all targets get from ${places}. Give such options to targets of your own: "
                "target_compile_options(your_target PRIVATE ${refused})")
        endif()
    endforeach()
endfunction()
