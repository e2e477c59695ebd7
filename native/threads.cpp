#include <omp.h>

#include "api.h"

void kameleon_use_threads(int64_t count) { omp_set_num_threads(int(count)); }
