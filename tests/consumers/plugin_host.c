/* Loads plugins, each a wrapper.c with a qkv of another version, into one process and one name space.
 *   plugin_host PLUGIN VERSION PLUGIN VERSION …
 * SPDX-License-Identifier: MIT */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        void *plugin = dlopen(argv[i], RTLD_NOW | RTLD_GLOBAL);
        const char *(*version)(void);
        void *symbol = plugin ? dlsym(plugin, "wrapper_version") : NULL;
        if (!symbol) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        memcpy(&version, &symbol, sizeof version);
        if (strcmp(version(), argv[i + 1]) != 0) {
            fprintf(stderr, "%s runs qkv %s, expected is %s\n", argv[i], version(), argv[i + 1]);
            failed = 1;
        }
    }
    if (!failed)
        puts("each plugin runs its own version");
    return failed;
}
