/* SPDX-License-Identifier: MIT */
/* The emulated runtime API: limits, memory, errors, capture, graphs, events, several host
 * threads. */
#include "test_emulation.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace
{

__global__ void plain_kernel()
{
}

START_TEST(test_launch_limits)
{
    const dim3 one(1);

    ck_assert_int_eq(launch(plain_kernel, one, 1024, 48 << 10, nullptr), cudaSuccess);
    ck_assert_int_eq(launch(plain_kernel, one, 1025, 16, nullptr), cudaErrorInvalidConfiguration);
    ck_assert_int_eq(launch(plain_kernel, dim3(0), 1, 16, nullptr), cudaErrorInvalidConfiguration);
    ck_assert_int_eq(launch(plain_kernel, dim3(1, 65536), 1, 16, nullptr),
                     cudaErrorInvalidConfiguration);
    ck_assert_int_eq(launch(plain_kernel, one, 1, (48 << 10) + 1, nullptr), cudaErrorInvalidValue);
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    ck_assert_int_eq(cudaFuncSetAttribute(plain_kernel, attribute, (227 << 10) + 1),
                     cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFuncSetAttribute(plain_kernel, attribute, 227 << 10), cudaSuccess);
    ck_assert_int_eq(launch(plain_kernel, one, 1, 227 << 10, nullptr), cudaSuccess);
    emulator_device(1, 13000, 8, 6, "small", 0);
    ck_assert_int_eq(launch(plain_kernel, one, 1, 227 << 10, nullptr), cudaErrorInvalidValue);
    ck_assert_int_eq(launch(plain_kernel, one, 1, 99 << 10, nullptr), cudaSuccess);
    emulator_device(1, 13000, 7, 5, "old", 0);
    ck_assert_int_eq(launch(plain_kernel, one, 1, 16, nullptr), cudaErrorNoKernelImageForDevice);
    ck_assert_uint_eq(emulator_launches(), 3);
}
END_TEST

START_TEST(test_devices)
{
    cudaDeviceProp properties;
    int value = 0;

    ck_assert_int_eq(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
    ck_assert_str_eq(properties.name, "Emulated GPU");
    ck_assert_int_eq(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
                     cudaSuccess);
    ck_assert_int_eq(value, 227 << 10);
    ck_assert_int_eq(cudaSetDevice(1), cudaErrorInvalidDevice);
    emulator_device(0, 13000, 9, 0, NULL, 0);
    ck_assert_int_eq(cudaGetDeviceCount(&value), cudaErrorNoDevice);
    ck_assert_int_eq(value, 0);
    emulator_device(2, 12080, 9, 0, NULL, 0);
    ck_assert_int_eq(cudaGetDeviceCount(&value), cudaErrorInsufficientDriver);
    ck_assert_int_eq(cudaDriverGetVersion(&value), cudaSuccess);
    ck_assert_int_eq(value, 12080);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInsufficientDriver);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_assert_str_eq(cudaGetErrorName(cudaErrorIllegalAddress), "cudaErrorIllegalAddress");
}
END_TEST

START_TEST(test_memory)
{
    const size_t before = emulator_live();
    char *first, *second, local[16];
    size_t available, total;

    emulator_memory_limit(1000);
    ck_assert_int_eq(cudaMalloc(&first, 600), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&second, 600), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMemGetInfo(&available, &total), cudaSuccess);
    ck_assert_uint_eq(available, 400);
    ck_assert_int_eq(cudaMallocHost(&second, 600), cudaSuccess);
    ck_assert_uint_eq(emulator_live(), before + 2);
    ck_assert_int_eq(cudaMemcpy(first + 590, local, 16, cudaMemcpyHostToDevice),
                     cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemcpy(local, first, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemcpy(first, local, 16, cudaMemcpyDeviceToDevice), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaMemset(first, 0, 601), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree(first + 1), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree(second), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaFree(first), cudaSuccess);
    ck_assert_int_eq(cudaFreeHost(second), cudaSuccess);
    ck_assert_int_eq(cudaFree(NULL), cudaSuccess);
    ck_assert_uint_eq(emulator_live(), before);
    ck_assert_uint_eq(emulator_memory_peak(), 600);
}
END_TEST

START_TEST(test_injected_errors)
{
    const size_t before = emulator_live();
    void *first, *second;

    emulator_fail("cudaMalloc", 2, cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMalloc(&first, 10), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&second, 10), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMalloc(&second, 10), cudaSuccess);
    emulator_fail("cudaLaunchKernelEx", 1, cudaErrorIllegalAddress);
    ck_assert_int_eq(launch(plain_kernel, 1, 32, 0, nullptr), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaStreamSynchronize(nullptr), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaFree(first), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaFree(second), cudaErrorIllegalAddress);
    ck_assert_uint_eq(emulator_live(), before);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    emulator_reset();
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(nullptr), cudaSuccess);
}
END_TEST

__global__ void add_kernel(float *x, float value)
{
    x[threadIdx.x] += value;
}

START_TEST(test_graph)
{
    const size_t before = emulator_live();
    float *pinned, local[4];
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;

    {
        buffer<float> x(4);
        ck_assert_int_eq(cudaMallocHost(&pinned, 4 * sizeof(float)), cudaSuccess);
        ck_assert_int_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
        ck_assert_int_eq(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                         cudaSuccess);
        cudaMemsetAsync(x.device, 0, 16, stream);
        for (int i = 0; i < 3; i++) {
            float value = static_cast<float>(i + 1);
            ck_assert_int_eq(launch(add_kernel, 1, 4, 0, stream, x.device, value), cudaSuccess);
            value = 100;
        }
        cudaMemcpyAsync(pinned, x.device, 16, cudaMemcpyDeviceToHost, stream);
        ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
        ck_assert_uint_eq(emulator_launches(), 0);
        ck_assert(std::isnan(pinned[0]));
        ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
        ck_assert_int_eq(cudaGraphDestroy(graph), cudaSuccess);
        for (int i = 0; i < 2; i++) {
            pinned[3] = 0;
            ck_assert_int_eq(cudaGraphLaunch(exec, stream), cudaSuccess);
            ck_assert(pinned[0] == 6.0f && pinned[3] == 6.0f);
        }
        ck_assert_uint_eq(emulator_launches(), 6);
        ck_assert_int_eq(cudaMemcpy(local, x.device, 16, cudaMemcpyDeviceToHost), cudaSuccess);
    }
    /* its memory is gone */
    ck_assert_int_eq(cudaGraphLaunch(exec, stream), cudaErrorIllegalAddress);
    emulator_reset();
    ck_assert_int_eq(cudaGraphExecDestroy(exec), cudaSuccess);
    ck_assert_int_eq(cudaStreamDestroy(stream), cudaSuccess);
    ck_assert_int_eq(cudaFreeHost(pinned), cudaSuccess);
    ck_assert_uint_eq(emulator_live(), before);
}
END_TEST

/* Everything submitted has its line, where it is recorded as well; a graph has one more. */
START_TEST(test_log)
{
    char path[] = "/tmp/ser-emulation-log-XXXXXX";
    char line[1024];
    const struct {
        const char *start, *part;
    } expected[] = {
        {"launch kernel", ", grid 2 3 1, block 32 1 1, shared 48\n"},
        {"fill 12 bytes\n", ""},
        {"copy 8 bytes, device to host\n", ""},
        {"a product\n", ""},
        {"recorded launch kernel", ", grid 1 1 1, block 4 1 1, shared 0\n"},
        {"graph of 1 nodes\n", ""},
    };
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    buffer<float> x(4);

    const int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(setenv("SER_EMULATION_LOG", path, 1), 0);
    ck_assert_int_eq(launch(plain_kernel, dim3(2, 3), 32, 48, nullptr), cudaSuccess);
    cudaMemset(x.device, 0, 12);
    cudaMemcpy(x.host, x.device, 8, cudaMemcpyDeviceToHost);
    emulator_log("%s\n", "a product");
    ck_assert_int_eq(launch(plain_kernel, dim3(0), 32, 0, nullptr), cudaErrorInvalidConfiguration);
    cudaStreamCreate(&stream);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    ck_assert_int_eq(launch(add_kernel, 1, 4, 0, stream, x.device, 1.0f), cudaSuccess);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ck_assert_int_eq(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    ck_assert_int_eq(cudaGraphLaunch(exec, stream), cudaSuccess);
    FILE *log = fdopen(file, "r");
    ck_assert_ptr_nonnull(log);
    for (const auto &e : expected) {
        ck_assert_ptr_nonnull(fgets(line, sizeof line, log));
        ck_assert_msg(strncmp(line, e.start, strlen(e.start)) == 0, "%s", line);
        ck_assert_msg(strstr(line, e.part) != nullptr, "%s", line);
    }
    ck_assert_ptr_null(fgets(line, sizeof line, log));
    fclose(log);
    unlink(path);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
}
END_TEST

enum forbidden { ALLOCATE, FREE, WAIT, PAGEABLE, LEGACY, FORBIDDEN_COUNT };

cudaError_t do_forbidden(int what, buffer<float> *x, cudaStream_t stream)
{
    float local[4] = {};
    void *memory;

    switch (what) {
    case ALLOCATE: return cudaMalloc(&memory, 16);
    case FREE: return cudaFree(x->device);
    case WAIT: return cudaStreamSynchronize(stream);
    case PAGEABLE: return cudaMemcpyAsync(x->device, local, 16, cudaMemcpyHostToDevice, stream);
    default: return launch(add_kernel, 1, 1, 0, nullptr, x->device, 1.0f);
    }
}

START_TEST(test_capture_forbids)
{
    buffer<float> x(4);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaStreamCaptureStatus status;

    ck_assert_int_eq(cudaStreamCreate(&stream), cudaSuccess);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
    ck_assert_int_eq(do_forbidden(_i, &x, stream), _i == LEGACY
                                                       ? cudaErrorStreamCaptureImplicit
                                                       : cudaErrorStreamCaptureUnsupported);
    cudaStreamIsCapturing(stream, &status);
    ck_assert_int_eq(status, cudaStreamCaptureStatusInvalidated);
    ck_assert_int_eq(launch(add_kernel, 1, 1, 0, stream, x.device, 1.0f),
                     cudaErrorStreamCaptureInvalidated);
    ck_assert_int_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    ck_assert_ptr_null(graph);
    ck_assert_int_eq(cudaStreamSynchronize(stream), cudaSuccess);
    ck_assert_int_eq(cudaStreamDestroy(stream), cudaSuccess);
}
END_TEST

/* A second stream joins the capture through events; the end waits for it, or is an error. */
START_TEST(test_fork_and_join)
{
    buffer<float> x(4);
    cudaStream_t first, second;
    cudaEvent_t forked, done;
    cudaGraph_t graph;

    cudaStreamCreate(&first);
    cudaStreamCreate(&second);
    cudaEventCreateWithFlags(&forked, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
    for (int join = 0; join < 2; join++) {
        cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal);
        cudaEventRecord(forked, first);
        ck_assert_int_eq(cudaStreamWaitEvent(second, forked), cudaSuccess);
        ck_assert_int_eq(launch(add_kernel, 1, 4, 0, second, x.device, 1.0f), cudaSuccess);
        cudaEventRecord(done, second);
        if (join) {
            ck_assert_int_eq(cudaStreamWaitEvent(first, done), cudaSuccess);
        }
        ck_assert_int_eq(cudaStreamEndCapture(first, &graph),
                         join ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
    }
    ck_assert_uint_eq(emulator_launches(), 0);
    cudaGraphDestroy(graph);
    cudaEventDestroy(forked);
    cudaEventDestroy(done);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}
END_TEST

/* What a second stream was given runs when somebody waits for it, not before. */
START_TEST(test_late_branch)
{
    buffer<float> x(4);
    cudaStream_t first, second;
    cudaEvent_t forked, done;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    float seen[4];

    cudaStreamCreate(&first);
    cudaStreamCreate(&second);
    cudaEventCreateWithFlags(&forked, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&done, cudaEventDisableTiming);
    for (int recorded = 0; recorded < 2; recorded++) {
        if (recorded) {
            cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal);
        }
        cudaMemsetAsync(x.device, 0, sizeof seen, first);
        cudaEventRecord(forked, first);
        cudaStreamWaitEvent(second, forked);
        launch(add_kernel, 1, 4, 0, second, x.device, 1.0f);
        cudaMemsetAsync(x.device, 0, sizeof seen, first); /* the branch adds to this */
        cudaEventRecord(done, second);
        cudaStreamWaitEvent(first, done);
        launch(add_kernel, 1, 4, 0, first, x.device, 2.0f);
        if (recorded) {
            ck_assert_int_eq(cudaStreamEndCapture(first, &graph), cudaSuccess);
            ck_assert_int_eq(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
            cudaMemsetAsync(x.device, 255, sizeof seen, first);
            ck_assert_int_eq(cudaGraphLaunch(executable, first), cudaSuccess);
            cudaGraphExecDestroy(executable);
            cudaGraphDestroy(graph);
        }
        cudaStreamSynchronize(first);
        cudaMemcpy(seen, x.device, sizeof seen, cudaMemcpyDeviceToHost);
        ck_assert_float_eq(seen[3], 3.0f);
    }
    launch(add_kernel, 1, 4, 0, second, x.device, 4.0f); /* waited for: at once again */
    cudaMemcpy(seen, x.device, sizeof seen, cudaMemcpyDeviceToHost);
    ck_assert_float_eq(seen[0], 7.0f);
    cudaEventDestroy(forked);
    cudaEventDestroy(done);
    cudaStreamDestroy(first);
    cudaStreamDestroy(second);
}
END_TEST

void *worker(void *)
{
    float *x, host[32];
    cudaStream_t stream;
    bool good = cudaStreamCreate(&stream) == cudaSuccess && cudaMalloc(&x, 128) == cudaSuccess;

    for (int i = 0; good && i < 50; i++) {
        cudaMemsetAsync(x, 0, 128, stream);
        for (int k = 0; k < 4; k++) {
            launch(add_kernel, 1, 32, 0, stream, x, static_cast<float>(k));
        }
        cudaMemcpyAsync(host, x, 128, cudaMemcpyDeviceToHost, stream);
        cudaStreamSynchronize(stream);
        for (int k = 0; k < 32; k++) {
            good = good && host[k] == 6.0f;
        }
    }
    cudaFree(x);
    cudaStreamDestroy(stream);
    return good ? nullptr : stream;
}

START_TEST(test_host_threads)
{
    pthread_t threads[4];

    for (pthread_t &thread : threads) {
        ck_assert_int_eq(pthread_create(&thread, nullptr, worker, nullptr), 0);
    }
    for (pthread_t &thread : threads) {
        void *result;
        pthread_join(thread, &result);
        ck_assert_ptr_null(result);
    }
    ck_assert_uint_eq(emulator_launches(), 4 * 50 * 4);
}
END_TEST

} // namespace

int main()
{
    /* the log is opened by the first submission of a process, and tests may share one */
    const TTest *const plain[] = {
        test_log,   test_launch_limits, test_devices,     test_memory,       test_injected_errors,
        test_graph, test_fork_and_join, test_late_branch, test_host_threads, nullptr};
    const TTest *const aborting[] = {nullptr};
    return run_suite("emulated runtime", plain, aborting, test_capture_forbids, FORBIDDEN_COUNT);
}
