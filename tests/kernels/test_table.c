/* A table is complete, says what it needs, and keeps its tile within what softmax and fold take at once.
 *
 * SPDX-License-Identifier: MIT */
#include "harness.h"

#include <string.h>

static void test_table(const qt_set *set) {
    const qkv_kernels *k = set->kernels;
    QT_EXPECT(strcmp(k->name, set->name) == 0, "called %s in the list, %s in its table", set->name, k->name);
    QT_EXPECT(strcmp(set->ctx.isa, set->name) == 0, "the context says %s", set->ctx.isa);
    QT_EXPECT((k->needs & ~set->ctx.features) == 0, "available without a feature it needs");
    const bool any_cpu = strcmp(k->name, "ref") == 0 || strcmp(k->name, "portable") == 0;
    QT_EXPECT((k->needs == 0) == any_cpu, "needs %llx", (unsigned long long)k->needs);
    QT_EXPECT(k->tile_rows >= 1 && k->tile_rows <= QKV_MAX_ROWS, "tile_rows is %d", (int)k->tile_rows);

    /* Every function pointer of the struct lies behind tile_rows, the last one before what may be padding. */
    enum { LAST = offsetof(qkv_kernels, add) };
    _Static_assert(sizeof *k - LAST < 2 * sizeof k->add || sizeof k->add < 8, "add is the last entry");
    const unsigned char *bytes = (const unsigned char *)k;
    for (size_t at = offsetof(qkv_kernels, pack); at <= LAST; at += sizeof(void (*)(void))) {
        void (*entry)(void);
        memcpy(&entry, bytes + at, sizeof entry);
        QT_EXPECT(entry != NULL, "the entry at byte %zu is NULL", at);
    }
}

int main(int argc, char **argv) {
    qt_init(argc, argv);
    qt_each_set("table", test_table);
    return qt_run();
}
