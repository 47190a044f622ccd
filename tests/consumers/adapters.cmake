# Programs that include the headers beside qkv.h, from whoever provides qkv::qkv.  SPDX-License-Identifier: MIT
find_package(Threads REQUIRED)
find_package(OpenMP COMPONENTS C)
add_executable(pthreads_alone ../../headers/pthreads_alone.c)
target_link_libraries(pthreads_alone PRIVATE qkv::qkv Threads::Threads)
if(OpenMP_C_FOUND)
    add_executable(openmp_alone ../../headers/openmp_alone.c)
    target_link_libraries(openmp_alone PRIVATE qkv::qkv OpenMP::OpenMP_C)
endif()
