"""qkv as a package of Conan 2, from the tree that this file lies in.

    conan create packaging/conan [-o "qkv/*:shared=True"]

SPDX-License-Identifier: MIT
"""

import re
from pathlib import Path

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

required_conan_version = ">=2.0"


class QkvConan(ConanFile):
    name = "qkv"
    description = "Transformer self-attention on CPUs: the same bits from every SIMD kernel set, forward and backward"
    license = "MIT"
    topics = ("attention", "transformer", "simd", "inference", "deterministic")
    package_type = "library"
    languages = "C"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False]}
    default_options = {"shared": False, "fPIC": True}
    implements = ["auto_shared_fpic"]

    @property
    def _tree(self):
        return Path(self.recipe_folder).parent.parent

    def set_version(self):
        header = load(self, self._tree / "include" / "qkv.h")
        numbers = re.findall(r"#define QKV_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
        self.version = ".".join(numbers)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "src/*", "adapters/*/qkv/*"):
            copy(self, pattern, self._tree, self.export_sources_folder)

    def validate(self):
        if self.settings.compiler not in ("gcc", "clang", "apple-clang"):
            raise ConanInvalidConfiguration("qkv needs GCC or clang")

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "EXAMPLES", "BENCH", "TOOLS"):
            toolchain.cache_variables[f"QKV_BUILD_{part}"] = False
        toolchain.cache_variables["QKV_INSTALL"] = True
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, Path(self.package_folder) / "licenses")
        CMake(self).install()
        # Conan writes both for whoever uses the package.
        rmdir(self, Path(self.package_folder) / "lib" / "cmake")
        rmdir(self, Path(self.package_folder) / "lib" / "pkgconfig")

    def package_info(self):
        self.cpp_info.libs = ["qkv"]
        self.cpp_info.set_property("cmake_file_name", "qkv")
        self.cpp_info.set_property("cmake_target_name", "qkv::qkv")
        self.cpp_info.set_property("pkg_config_name", "qkv")
