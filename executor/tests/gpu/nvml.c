/* A stand-in for NVIDIA's management library: three GPUs, of which the second does not answer, and
 * the third is too old to count its energy. No such GPUs exist: the numbers only tell them apart.
 * Each question about energy finds 1,000 mJ more. */
#include <stdio.h>
#include <string.h>

typedef int result;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory;

typedef struct { unsigned gpu, memory; } utilization;

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
    info->used = (unsigned long long)(*(int *)device + 1) << 20;
    return 0;
}

result nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
    rates->gpu = 40 + *(int *)device;
    rates->memory = 7;
    return 0;
}

result nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
    *degrees = sensor == 0 ? 60 + *(int *)device : 0;
    return 0;
}

result nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    *milliwatts = 150000 + *(int *)device;
    return 0;
}

result nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    static unsigned long long asked;
    if (*(int *)device == 2)
        return 3; /* not supported */
    *millijoules = 1000 * ++asked;
    return 0;
}
