/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Who a guest is: no two are the same, however they were made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "sim/run/scenario.h"

#define RANDOM_SIZE 16
#define CLOCK_ERROR_S_MAX 5 /* of a clock that was set a moment ago */
#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})

/* What a command of the guest said; false: nothing that counts. */
static bool ask(struct kelpie_vm *vm, const char *const *argv, struct kelpie_output *output) {
    struct kelpie_error err = {0};
    const struct kelpie_command command = {.argv = argv, .timeout_ms = SCENARIO_TIMEOUT_MS};
    ASSERT(vm && argv[0]);
    ASSERT(!output->stdout_data);
    ASSERT(!output->stderr_data);
    enum kelpie_status status = kelpie_vm_exec(vm, &command, output, &err);
    return status == KELPIE_OK && output->exit.code == 0 && !output->exit.timed_out;
}

/* Nobody has said this before. */
static void expect_new(struct scenario *scenario, const char *what, const char *text) {
    ASSERT(what);
    ASSERT(text);
    ASSERT(scenario->identity_count <= SCENARIO_IDENTITY_COUNT_MAX);
    for (uint32_t i = 0; i < scenario->identity_count; i++) {
        if (strcmp(scenario->identities[i], text) == 0) {
            actions_fail_bytes(scenario, "two guests have the same %s: %s", what, text);
        }
    }
    if (scenario->identity_count < SCENARIO_IDENTITY_COUNT_MAX) {
        snprintf(scenario->identities[scenario->identity_count++], SCENARIO_IDENTITY_SIZE, "%s",
                 text);
    }
}

static void check_random(struct scenario *scenario, struct kelpie_vm *vm) {
    struct kelpie_output output = {0};
    char text[2 * RANDOM_SIZE + 1] = "";
    ASSERT(vm);
    if (ask(vm, ARGV("head", "-c", "16", "/dev/urandom"), &output) &&
        output.stdout_size == RANDOM_SIZE) {
        for (size_t i = 0; i < RANDOM_SIZE; i++) {
            snprintf(text + 2 * i, 3, "%02x", (uint8_t)output.stdout_data[i]);
        }
        expect_new(scenario, "random numbers", text);
    }
    kelpie_output_free(&output);
    ASSERT(strlen(text) <= 2 * RANDOM_SIZE);
    ASSERT(!output.stdout_data);
}

static void check_names(struct scenario *scenario, struct kelpie_vm *vm) {
    struct kelpie_output id = {0};
    struct kelpie_output name = {0};
    const char *hostname = kelpie_vm_config(vm)->hostname;
    ASSERT(hostname);
    ASSERT(hostname[0] != '\0');
    if (ask(vm, ARGV("cat", "/etc/machine-id"), &id)) {
        expect_new(scenario, "machine id", id.stdout_data);
    }
    if (ask(vm, ARGV("cat", "/etc/hostname"), &name) &&
        (strncmp(name.stdout_data, hostname, strlen(hostname)) != 0 ||
         name.stdout_size != strlen(hostname) + 1)) {
        actions_fail_bytes(scenario, "a guest has the name %.40s and not %.40s", name.stdout_data,
                           hostname);
    }
    kelpie_output_free(&name);
    kelpie_output_free(&id);
}

/* Nothing made clocks differ, or go on while a guest did not. */
static bool clocks_are_right(const struct scenario *scenario) {
    const uint32_t *fired = scenario->world->faults.fired;
    ASSERT(scenario->world);
    ASSERT(SIM_FAULT_COUNT > 0);
    return fired[SIM_FAULT_CLOCK_JUMPS_AHEAD] == 0 && fired[SIM_FAULT_CLOCK_JUMPS_BACK] == 0 &&
           fired[SIM_FAULT_CLOCK_SKEWED] == 0 && fired[SIM_FAULT_GUEST_SLOW] == 0;
}

static void check_clock(struct scenario *scenario, struct kelpie_vm *vm) {
    struct kelpie_output output = {0};
    uint64_t now_s = host_realtime_ns(scenario->host) / HOST_NS_PER_S;
    ASSERT(vm);
    ASSERT(now_s > 0);
    bool said = ask(vm, ARGV("date", "+%s"), &output);
    uint64_t guest_s = said ? strtoull(output.stdout_data, NULL, 10) : 0;
    uint64_t later_s = host_realtime_ns(scenario->host) / HOST_NS_PER_S;
    if (said && clocks_are_right(scenario) &&
        (guest_s + CLOCK_ERROR_S_MAX < now_s || guest_s > later_s + CLOCK_ERROR_S_MAX)) {
        actions_fail_bytes(scenario, "a guest's clock says %llu where it is %llu",
                           (unsigned long long)guest_s, (unsigned long long)now_s);
    }
    kelpie_output_free(&output);
    ASSERT(!output.stdout_data);
}

void identity_check(struct scenario *scenario, struct kelpie_vm *vm) {
    ASSERT(vm);
    ASSERT(scenario->host);
    if (kelpie_vm_state(vm) == KELPIE_STATE_RUNNING) {
        check_random(scenario, vm);
        check_names(scenario, vm);
        check_clock(scenario, vm);
    }
}
