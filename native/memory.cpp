#include <cstdlib>
#include <cstring>
#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif
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

void kameleon_clear(void* at, int64_t bytes) {
    if (!bytes) return;  // an empty tensor has no address
    char *begin = static_cast<char*>(at), *end = begin + bytes;
#ifdef __linux__
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    char* first = begin + (page - uintptr_t(begin) % page) % page;  // of the pages that lie wholly inside
    char* last = end - uintptr_t(end) % page;
    if (first < last && madvise(first, last - first, MADV_DONTNEED) == 0) {
        memset(begin, 0, first - begin);
        begin = last;
    }
#endif
    memset(begin, 0, end - begin);
}

void kameleon_give_back_memory() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}
