/* Turns Debian's static libxsmm into a shared library.
 *
 * The Python side calls libxsmm's own dispatch functions; this file only names them, so that the
 * linker takes them (and what they need) out of the archive and exports them. Built once into the
 * user's cache by nkdsl.bench.peers.libxsmm:
 *
 *     cc -O2 -fPIC -shared libxsmm_shim.c -l:libxsmm.a -l:libxsmmnoblas.a -lpthread -ldl -lm
 */
#include <libxsmm.h>

#define ADDRESS(FUNCTION) ((void (*)(void))(FUNCTION))

void (*const nkdsl_libxsmm_entries[])(void) = {
    ADDRESS(libxsmm_init),
    ADDRESS(libxsmm_get_target_arch),
    ADDRESS(libxsmm_smmdispatch),
    ADDRESS(libxsmm_dmmdispatch),
    ADDRESS(libxsmm_bsmmdispatch),
    ADDRESS(libxsmm_subimmdispatch),
    ADDRESS(libxsmm_ssbimmdispatch),
    ADDRESS(libxsmm_smmdispatch_reducebatch_addr),
    ADDRESS(libxsmm_dmmdispatch_reducebatch_addr),
    ADDRESS(libxsmm_bsmmdispatch_reducebatch_addr),
    ADDRESS(libxsmm_subimmdispatch_reducebatch_addr),
    ADDRESS(libxsmm_ssbimmdispatch_reducebatch_addr),
    ADDRESS(libxsmm_smmdispatch_reducebatch_strd),
    ADDRESS(libxsmm_dmmdispatch_reducebatch_strd),
    ADDRESS(libxsmm_bsmmdispatch_reducebatch_strd),
    ADDRESS(libxsmm_subimmdispatch_reducebatch_strd),
    ADDRESS(libxsmm_ssbimmdispatch_reducebatch_strd),
    ADDRESS(libxsmm_smmdispatch_reducebatch_strd_unroll),
    ADDRESS(libxsmm_dmmdispatch_reducebatch_strd_unroll),
    ADDRESS(libxsmm_bsmmdispatch_reducebatch_strd_unroll),
    ADDRESS(libxsmm_subimmdispatch_reducebatch_strd_unroll),
    ADDRESS(libxsmm_ssbimmdispatch_reducebatch_strd_unroll),
};

const char* nkdsl_libxsmm_version(void) { return LIBXSMM_CONFIG_VERSION; }
