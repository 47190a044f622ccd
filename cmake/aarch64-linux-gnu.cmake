# Cross build for AArch64 Linux with Debian's gcc-aarch64-linux-gnu; tests run under qemu-user.
# scripts/packages.sh puts the arm64 packages the tests need into build/aarch64-deps.  SPDX-License-Identifier: MIT
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

set(CMAKE_FIND_ROOT_PATH "${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-deps" /usr/aarch64-linux-gnu)
set(ENV{PKG_CONFIG_LIBDIR} "${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-deps/usr/lib/aarch64-linux-gnu/pkgconfig")
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

find_program(QKV_QEMU_AARCH64 NAMES qemu-aarch64 qemu-aarch64-static)
if(QKV_QEMU_AARCH64)
    set(CMAKE_CROSSCOMPILING_EMULATOR "${QKV_QEMU_AARCH64};-L;/usr/aarch64-linux-gnu")
endif()
