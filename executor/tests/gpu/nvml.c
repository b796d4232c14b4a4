/* A stand-in for NVIDIA's management library: three GPUs, of which the second does not answer. */
#include <stdio.h>
#include <string.h>

typedef int result;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;

static int gpus[3] = {0, 1, 2};

result nvmlInit_v2(void) { return 0; }
result nvmlShutdown(void) { return 0; }

result nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 3;
    return 0;
}

result nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = &gpus[index];
    return 0;
}

result nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    int index = *(int *)device;
    if (index == 1)
        return 15; /* the GPU is lost */
    snprintf(uuid, length, "GPU-0000000%d", 9 - index);
    return 0;
}

result nvmlDeviceGetName(void *device, char *name, unsigned length) {
    snprintf(name, length, "Stand-in %d", *(int *)device);
    return 0;
}

result nvmlDeviceGetMemoryInfo_v2(void *device, memory *info) {
    memset(&info->total, 0, sizeof *info - sizeof info->total);
    info->total = (unsigned long long)(*(int *)device + 1) << 30;
    return 0;
}
