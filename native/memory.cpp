#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "api.h"

void kameleon_keep_memory(int64_t up_to_bytes) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, int(up_to_bytes));
    mallopt(M_TRIM_THRESHOLD, -1);
#endif
}

void kameleon_give_back_memory() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
