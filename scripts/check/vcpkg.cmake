# Runs a vcpkg port without vcpkg: the functions that its portfile calls do here, for one release build on this machine,
# what vcpkg documents of them, and refuse arguments that vcpkg does not know. A function that is none of them is an
# error of CMake.
#   cmake -DPORT_DIR=… -DWORK=… -DLINKAGE=static|dynamic [-DFEATURES=…] [-DOPTIONS=…] -P scripts/check/vcpkg.cmake
# The package lies in WORK/package then.
# SPDX-License-Identifier: MIT
cmake_minimum_required(VERSION 3.19) # string(JSON)

# ---------------------------------------------------------------------------------------------------- the manifest

function(fail)
    list(JOIN ARGV "" text)
    message(FATAL_ERROR "vcpkg.json: ${text}")
endfunction()

# Keys of an object, each one of those allowed.
function(check_keys json where allowed)
    string(JSON count LENGTH "${json}")
    math(EXPR last "${count} - 1")
    foreach(i RANGE ${last})
        string(JSON key MEMBER "${json}" ${i})
        if(NOT key IN_LIST allowed)
            fail("${where} has a field '${key}' that vcpkg does not know")
        endif()
    endforeach()
endfunction()

function(need_string json where key pattern)
    string(JSON value ERROR_VARIABLE error GET "${json}" ${key})
    string(JSON type ERROR_VARIABLE error TYPE "${json}" ${key})
    if(NOT type STREQUAL "STRING" OR NOT value MATCHES "${pattern}")
        fail("${where}.${key} is '${value}', not ${pattern}")
    endif()
endfunction()

set(NAME "^[a-z0-9]+(-[a-z0-9]+)*$")
file(READ "${PORT_DIR}/vcpkg.json" manifest)
check_keys("${manifest}" "the port" "$schema;name;version;version-semver;version-date;version-string;port-version;\
description;homepage;documentation;license;maintainers;supports;dependencies;default-features;features")
need_string("${manifest}" "the port" name "${NAME}")
need_string("${manifest}" "the port" version-semver "^(0|[1-9][0-9]*)[.](0|[1-9][0-9]*)[.](0|[1-9][0-9]*)$")
need_string("${manifest}" "the port" description ".")
need_string("${manifest}" "the port" license "^MIT$") # an SPDX expression
need_string("${manifest}" "the port" supports "^[a-z0-9!&|() ]+$")
string(JSON PORT GET "${manifest}" name)
string(JSON VERSION GET "${manifest}" version-semver)
get_filename_component(folder "${PORT_DIR}" NAME)
if(NOT PORT STREQUAL folder)
    fail("name is ${PORT}, its folder ${folder}")
endif()
string(JSON count LENGTH "${manifest}" dependencies)
math(EXPR last "${count} - 1")
foreach(i RANGE ${last})
    string(JSON dependency GET "${manifest}" dependencies ${i})
    check_keys("${dependency}" "dependencies[${i}]" "name;host;features;default-features;platform;version>=")
    need_string("${dependency}" "dependencies[${i}]" name "${NAME}")
    string(JSON name GET "${dependency}" name)
    list(APPEND dependencies "${name}")
endforeach()
string(JSON count LENGTH "${manifest}" features)
math(EXPR last "${count} - 1")
foreach(i RANGE ${last})
    string(JSON name MEMBER "${manifest}" features ${i})
    string(JSON feature GET "${manifest}" features ${name})
    check_keys("${feature}" "features.${name}" "description;dependencies;supports;license")
    need_string("${feature}" "features.${name}" description ".")
    list(APPEND known_features "${name}")
endforeach()

# --------------------------------------------------------------------------------------------------- the functions

macro(parse prefix flags one many) # what a function may be given, and nothing else
    cmake_parse_arguments(PARSE_ARGV 0 ${prefix} "${flags}" "${one}" "${many}")
    if(DEFINED ${prefix}_UNPARSED_ARGUMENTS)
        message(FATAL_ERROR "${CMAKE_CURRENT_FUNCTION}: unknown: ${${prefix}_UNPARSED_ARGUMENTS}")
    endif()
endmacro()

function(needs_port name) # vcpkg-cmake and vcpkg-cmake-config are ports of their own
    if(NOT name IN_LIST dependencies)
        fail("${CMAKE_CURRENT_FUNCTION} is of ${name}, which is not among the dependencies")
    endif()
endfunction()

function(run)
    execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
    if(status)
        message(FATAL_ERROR "${ARGV}: ${status}")
    endif()
endfunction()

function(vcpkg_check_features)
    parse(a "" "OUT_FEATURE_OPTIONS" "FEATURES;INVERTED_FEATURES")
    while(a_FEATURES)
        list(POP_FRONT a_FEATURES feature option)
        if(NOT feature IN_LIST known_features)
            fail("the portfile asks for the feature ${feature}, which is none")
        endif()
        set(on OFF)
        if(feature IN_LIST FEATURES)
            set(on ON)
        endif()
        list(APPEND options "-D${option}=${on}")
    endwhile()
    set(${a_OUT_FEATURE_OPTIONS} "${options}" PARENT_SCOPE)
endfunction()

function(vcpkg_cmake_configure)
    needs_port(vcpkg-cmake)
    parse(a "DISABLE_PARALLEL_CONFIGURE;NO_CHARSET_FLAG;WINDOWS_USE_MSBUILD" "SOURCE_PATH;GENERATOR;LOGFILE_BASE"
        "OPTIONS;OPTIONS_RELEASE;OPTIONS_DEBUG;MAYBE_UNUSED_VARIABLES")
    set(shared OFF)
    if(VCPKG_LIBRARY_LINKAGE STREQUAL "dynamic")
        set(shared ON)
    endif()
    run("${CMAKE_COMMAND}" -S "${a_SOURCE_PATH}" -B "${WORK}/build" -DCMAKE_BUILD_TYPE=Release
        -DBUILD_SHARED_LIBS=${shared} "-DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR}" -DCMAKE_INSTALL_LIBDIR=lib
        ${a_OPTIONS} ${a_OPTIONS_RELEASE} ${OPTIONS})
endfunction()

function(vcpkg_cmake_install)
    needs_port(vcpkg-cmake)
    parse(a "DISABLE_PARALLEL;ADD_BIN_TO_PATH" "" "")
    run("${CMAKE_COMMAND}" --build "${WORK}/build" -j 2 --target install)
endfunction()

function(vcpkg_cmake_config_fixup) # to share/NAME, and one folder less between there and the prefix
    needs_port(vcpkg-cmake-config)
    parse(a "DO_NOT_DELETE_PARENT_CONFIG_PATH;NO_PREFIX_CORRECTION" "PACKAGE_NAME;CONFIG_PATH;TOOLS_PATH" "")
    if(NOT a_PACKAGE_NAME)
        set(a_PACKAGE_NAME "${PORT}")
    endif()
    set(to "${CURRENT_PACKAGES_DIR}/share/${a_PACKAGE_NAME}")
    get_filename_component(parent "${CURRENT_PACKAGES_DIR}/${a_CONFIG_PATH}" DIRECTORY)
    file(GLOB configs "${CURRENT_PACKAGES_DIR}/${a_CONFIG_PATH}/*.cmake")
    if(NOT configs)
        message(FATAL_ERROR "there is nothing in ${a_CONFIG_PATH}")
    endif()
    file(COPY ${configs} DESTINATION "${to}")
    file(REMOVE_RECURSE "${parent}")
    file(GLOB configs "${to}/*.cmake")
    foreach(config ${configs})
        file(READ "${config}" text)
        string(REPLACE "/../../../\" ABSOLUTE" "/../../\" ABSOLUTE" text "${text}")
        string(REGEX REPLACE "(get_filename_component\\(_IMPORT_PREFIX \"\\$\\{_IMPORT_PREFIX\\}\" PATH\\)\n)"
            "" text "${text}")
        string(REPLACE "(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_FILE}\" PATH)\n"
            "(_IMPORT_PREFIX \"\${CMAKE_CURRENT_LIST_DIR}/../..\" ABSOLUTE)\n" text "${text}")
        file(WRITE "${config}" "${text}")
    endforeach()
endfunction()

function(vcpkg_fixup_pkgconfig) # none may hold an absolute path
    parse(a "SKIP_CHECK" "" "")
    file(GLOB_RECURSE modules "${CURRENT_PACKAGES_DIR}/*.pc")
    foreach(module ${modules})
        file(READ "${module}" text)
        if(text MATCHES "${CURRENT_PACKAGES_DIR}" OR NOT text MATCHES "prefix=.{pcfiledir}/")
            message(FATAL_ERROR "${module} can't be moved: ${text}")
        endif()
    endforeach()
endfunction()

function(vcpkg_copy_tools)
    parse(a "AUTO_CLEAN" "SEARCH_DIR;DESTINATION" "TOOL_NAMES")
    foreach(tool ${a_TOOL_NAMES})
        file(INSTALL "${CURRENT_PACKAGES_DIR}/bin/${tool}" DESTINATION "${CURRENT_PACKAGES_DIR}/tools/${PORT}"
            USE_SOURCE_PERMISSIONS)
        file(REMOVE "${CURRENT_PACKAGES_DIR}/bin/${tool}")
    endforeach()
    file(GLOB rest "${CURRENT_PACKAGES_DIR}/bin/*")
    if(NOT rest)
        file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/bin")
    endif()
endfunction()

function(vcpkg_install_copyright)
    parse(a "" "COMMENT" "FILE_LIST")
    file(READ "${a_FILE_LIST}" text)
    file(WRITE "${CURRENT_PACKAGES_DIR}/share/${PORT}/copyright" "${text}")
endfunction()

# --------------------------------------------------------------------------------------------------------- the port

file(REMOVE_RECURSE "${WORK}")
set(CURRENT_PORT_DIR "${PORT_DIR}")
set(CURRENT_PACKAGES_DIR "${WORK}/package")
set(CURRENT_BUILDTREES_DIR "${WORK}")
set(VCPKG_LIBRARY_LINKAGE "${LINKAGE}")
set(TARGET_TRIPLET "here")
# In a folder of its own CMAKE_CURRENT_LIST_DIR is the port's, as under vcpkg.
include("${PORT_DIR}/portfile.cmake")

# What vcpkg looks at after a build.
foreach(file copyright usage ${PORT}-config.cmake)
    if(NOT EXISTS "${CURRENT_PACKAGES_DIR}/share/${PORT}/${file}")
        message(FATAL_ERROR "share/${PORT}/${file} is missing")
    endif()
endforeach()
if(EXISTS "${CURRENT_PACKAGES_DIR}/bin" AND LINKAGE STREQUAL "static")
    message(FATAL_ERROR "there is a folder bin in a static build")
endif()
if(EXISTS "${CURRENT_PACKAGES_DIR}/lib/cmake")
    message(FATAL_ERROR "lib/cmake is still there")
endif()
file(STRINGS "${SOURCE_PATH}/include/qkv.h" numbers REGEX "^#define QKV_VERSION_(MAJOR|MINOR|PATCH) ")
string(REGEX REPLACE "[^0-9;]" "" numbers "${numbers}")
string(REPLACE ";" "." numbers "${numbers}")
if(NOT VERSION STREQUAL numbers)
    fail("version-semver is ${VERSION}, qkv.h's ${numbers}")
endif()
