/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* kelpie doctor [--json]: what this machine can run, and what to do so that it can run more. */
#include <string.h>

#include "base/assert.h"
#include "cli/cli.h"
#include "cli/doctor_parts.h"
#include "cli/output.h"
#include "cli/vm_json.h"

struct doctor_options {
    bool json;
};

static const struct option_spec doctor_specs[] = {
    {
        .name = "json",
        .help = "print one JSON object",
        .set = option_set_flag,
        .offset = offsetof(struct doctor_options, json),
    },
};

/* A backend and what a look at it found. */
struct finding {
    struct kelpie_backend backend;
    struct kelpie_probe probe;
};

static void finding_check(const struct finding *finding) {
    ASSERT(finding);
    ASSERT(finding->backend.name[0] != 0);
}

static size_t examine(struct finding *findings) {
    ASSERT(findings);
    struct kelpie_backend backends[KELPIE_BACKEND_COUNT_MAX];
    size_t count = kelpie_backend_list(backends, KELPIE_BACKEND_COUNT_MAX);
    ASSERT(count <= KELPIE_BACKEND_COUNT_MAX);
    for (size_t i = 0; i < count; i++) {
        struct kelpie_error err;
        findings[i] = (struct finding){.backend = backends[i]};
        struct kelpie_probe *probe = &findings[i].probe;
        if (kelpie_backend_probe(backends[i].name, probe, &err) != KELPIE_OK) {
            snprintf(probe->reason, sizeof(probe->reason), "cannot be examined: %.400s",
                     err.message);
        }
        output_clean(probe->reason);
        output_clean(probe->install);
        output_clean(probe->version);
        output_clean(probe->shares);
    }
    return count;
}

/* The mock runs no guest: it is there for tests. */
static bool is_real(const struct finding *finding) {
    finding_check(finding);
    return strcmp(finding->backend.name, "mock") != 0;
}

static const char *or_dash(const char *text) {
    ASSERT(text);
    return text[0] != 0 ? text : "-";
}

static void print_kernel_mode(const struct kelpie_probe *probe) {
    ASSERT(probe);
    if (probe->ring0_ns == 0) {
        return;
    }
    bool fast = probe->usable && strcmp(probe->accelerator, "kvm") == 0;
    printf("%-13skernel mode: a short payload took %.3f ms on /dev/kvm: %s\n", "",
           (double)probe->ring0_ns / 1e6,
           fast ? "the processor runs it, so Linux boots at full speed"
                : "it is interpreted, far too slowly to boot Linux, so KVM is not used");
}

static void print_finding(const struct finding *finding) {
    finding_check(finding);
    const struct kelpie_probe *probe = &finding->probe;
    printf("%-13s%-8s%-13s%-12s%s\n", finding->backend.name, probe->usable ? "yes" : "no",
           or_dash(probe->accelerator), or_dash(probe->version), finding->backend.description);
    if (probe->reason[0] != 0) {
        printf("%-13s%s: %s\n", "", probe->usable ? "why" : "why not", probe->reason);
    }
    if (probe->install[0] != 0) {
        printf("%-13sto do: %s\n", "", probe->install);
    }
    if (probe->shares[0] != 0) {
        printf("%-10sshared folders: %s\n", "", probe->shares);
    }
    print_kernel_mode(probe);
}

static void print_findings(const struct finding *findings, size_t count) {
    ASSERT(findings);
    ASSERT(count <= KELPIE_BACKEND_COUNT_MAX);
    printf("kelpie %s\n\n", kelpie_version());
    printf("%-13s%-8s%-13s%-12s%s\n", "BACKEND", "USABLE", "ACCELERATOR", "VERSION", "WHAT IT IS");
    for (size_t i = 0; i < count; i++) {
        print_finding(&findings[i]);
    }
}

static json_t *json_of_finding(const struct finding *finding) {
    finding_check(finding);
    const struct kelpie_probe *probe = &finding->probe;
    return json_pack("{s:s, s:s, s:b, s:s, s:s, s:s, s:s, s:I, s:s, s:o}", "name",
                     finding->backend.name, "description", finding->backend.description, "usable",
                     probe->usable, "reason", probe->reason, "install", probe->install, "version",
                     probe->version, "accelerator", probe->accelerator, "ring0_ns",
                     (json_int_t)probe->ring0_ns, "shares", probe->shares, "capabilities",
                     vm_json_capabilities(finding->backend.capabilities));
}

static json_t *json_of_findings(const struct finding *findings, size_t count, bool usable) {
    ASSERT(findings);
    ASSERT(count <= KELPIE_BACKEND_COUNT_MAX);
    json_t *backends = json_array();
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(backends, json_of_finding(&findings[i]));
    }
    return json_pack("{s:s, s:b, s:o}", "version", kelpie_version(), "usable", usable, "backends",
                     backends);
}

static int doctor_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(words);
    ASSERT(table);
    struct doctor_options options = {0};
    int code = CLI_EXIT_OK;
    if (!cli_parse(&cli_doctor, words, &options, 0, &code)) {
        return code;
    }
    struct finding findings[KELPIE_BACKEND_COUNT_MAX];
    size_t count = examine(findings);
    bool usable = false;
    for (size_t i = 0; i < count; i++) {
        usable |= findings[i].probe.usable && is_real(&findings[i]);
    }
    code = usable ? CLI_EXIT_OK : CLI_EXIT_NOT_USABLE;
    struct doctor_part parts[DOCTOR_PART_COUNT];
    doctor_find_parts(parts);
    if (options.json) {
        json_t *object = json_of_findings(findings, count, usable);
        if (object) {
            json_object_set_new(object, "parts", doctor_json_parts(parts));
        }
        return output_json(object, code);
    }
    print_findings(findings, count);
    doctor_print_parts(parts);
    printf("\n%s\n", usable ? "This machine can run guests: try 'kelpie run -- uname -a'."
                            : "This machine cannot run a guest yet: see \"to do\" above.");
    return fflush(stdout) == 0 ? code : CLI_EXIT_FAILED;
}

static const struct option_table doctor_table = {doctor_specs, ARRAY_SIZE(doctor_specs)};

const struct cli_command cli_doctor = {
    .name = "doctor",
    .summary = "Says which backends this machine can run, why, and what to install",
    .synopsis = "[--json]",
    .notes =
        "The exit code is 0 when a backend other than the mock can run a guest here, else 1.\n",
    .options = &doctor_table,
    .run = doctor_run,
    .group = CLI_GROUP_HOST,
    .json =
        "version   of kelpie\n"
        "usable    a backend other than the mock can run a guest here\n"
        "backends  each with name, description, usable, reason, install, version, accelerator, "
        "shares (how guests get shared folders: live, ... or copied, ...), ring0_ns (how long a "
        "short kernel-mode payload took; 0: not run) and capabilities\n"
        "parts     each with name, purpose, present, detail and install\n",
};
