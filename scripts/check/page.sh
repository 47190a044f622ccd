# What the checks of docs/integration.md share; to be read by ".".  SPDX-License-Identifier: MIT

# The files of a section, its commands and its output, in the current folder: "```c own.c" is the file own.c, "```sh"
# are commands, "```text" is the output. Folders of files are there before.
unpack() { # PAGE HEADING
    awk -v heading="$2" '
        /^##+ / { inside = $0 == "## " heading || $0 == "### " heading }
        !inside { next }
        /^```/ && file { close(file); file = ""; next }
        /^```[a-z]+ [^ ]+$/ { file = $2; next }
        /^```sh$/ { file = "commands"; next }
        /^```text$/ { file = "output"; next }
        file { print > file }' "$1"
}
