"""Builds and runs a program against the package.  SPDX-License-Identifier: MIT"""

from pathlib import Path

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, cmake_layout


class QkvTestConan(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    languages = "C"
    generators = "CMakeDeps", "CMakeToolchain"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def test(self):
        if can_run(self):
            for program in ("consumer", "threads"):
                self.run(str(Path(self.build_folder) / self.cpp.build.bindir / program), env="conanrun")
