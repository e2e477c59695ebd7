#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "api.h"

void kameleon_keep_memory() {
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
#endif
}
