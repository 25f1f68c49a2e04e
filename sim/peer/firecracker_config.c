/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "sim/peer/firecracker_config.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"

#define SOCKET_PATH_SIZE_MAX 107 /* of a UNIX socket's address, without its zero */
#define MAC_TEXT_SIZE 17

static bool wrong(char fault[FIRECRACKER_FAULT_SIZE], const char *text) {
    ASSERT(fault);
    ASSERT(text && strlen(text) < FIRECRACKER_FAULT_SIZE);
    snprintf(fault, FIRECRACKER_FAULT_SIZE, "%s", text);
    return false;
}

static const char *text_of(const json_t *object, const char *name) {
    ASSERT(object);
    ASSERT(name);
    return json_string_value(json_object_get(object, name));
}

static json_t *machine_defaults(void) {
    json_t *machine = json_pack("{s:i, s:i, s:b, s:b, s:s}", "vcpu_count", 1, "mem_size_mib", 128,
                                "smt", 0, "track_dirty_pages", 0, "huge_pages", "None");
    ASSERT(!machine || json_is_object(machine));
    ASSERT(!machine || json_object_size(machine) == 5);
    return machine;
}

json_t *firecracker_config_create(void) {
    json_t *config = json_pack("{s:[], s:[], s:o}", "drives", "network-interfaces",
                               "machine-config", machine_defaults());
    ASSERT(!config || json_is_array(json_object_get(config, "drives")));
    ASSERT(!config || json_is_object(json_object_get(config, "machine-config")));
    return config;
}

const char *firecracker_config_id(const char *part) {
    ASSERT(part);
    ASSERT(part[0]);
    if (strcmp(part, "drives") == 0) {
        return "drive_id";
    }
    return strcmp(part, "network-interfaces") == 0 ? "iface_id" : NULL;
}

/* The index of the device of a list whose field `name` is that text. The list's size: there is none. */
static size_t list_find(const json_t *list, const char *name, const char *text) {
    size_t found = 0;
    ASSERT(json_is_array(list));
    ASSERT(name && text);
    while (found < json_array_size(list)) {
        const char *other = text_of(json_array_get(list, found), name);
        if (other && strcmp(other, text) == 0) {
            break;
        }
        found++;
    }
    return found;
}

/* ---- The machine, the balloon ----------------------------------------------------------------- */

/* As it will be. NULL: no memory. */
static json_t *machine_merge(const json_t *config, const struct firecracker_order *order) {
    const json_t *old = json_object_get(config, "machine-config");
    ASSERT(json_is_object(old));
    ASSERT(json_is_object(order->body));
    json_t *machine = order->operation->partial ? json_copy((json_t *)old) : machine_defaults();
    if (machine && json_object_update(machine, order->body) != 0) {
        json_decref(machine);
        return NULL;
    }
    return machine;
}

static bool check_machine(const json_t *config, const struct firecracker_order *order,
                          char fault[FIRECRACKER_FAULT_SIZE]) {
    ASSERT(order->body);
    if (json_object_size(order->body) == 0) {
        return wrong(fault, "Empty PATCH request.");
    }
    json_t *machine = machine_merge(config, order);
    if (!machine) {
        return wrong(fault, "Out of memory.");
    }
    json_int_t vcpus = json_integer_value(json_object_get(machine, "vcpu_count"));
    json_int_t memory = json_integer_value(json_object_get(machine, "mem_size_mib"));
    bool smt = json_is_true(json_object_get(machine, "smt"));
    bool huge = strcmp(text_of(machine, "huge_pages"), "2M") == 0;
    json_t *balloon = json_object_get(config, "balloon");
    json_int_t amount = json_integer_value(json_object_get(balloon, "amount_mib"));
    json_decref(machine);
    ASSERT(vcpus > 0);
    if (memory == 0 || memory > FIRECRACKER_MEMORY_MIB_MAX || (huge && memory % 2 != 0)) {
        return wrong(fault, "Machine config error: The memory size (MiB) is invalid.");
    }
    if (smt && vcpus > 1 && vcpus % 2 != 0) {
        return wrong(fault, "Machine config error: The vCPU number is invalid! With SMT it is 1 or "
                            "even.");
    }
    return amount <= memory ||
           wrong(fault, "Machine config error: The memory size (MiB) is smaller than the balloon.");
}

static bool check_balloon(const json_t *config, const struct firecracker_order *order,
                          char fault[FIRECRACKER_FAULT_SIZE]) {
    json_t *machine = json_object_get(config, "machine-config");
    json_int_t memory = json_integer_value(json_object_get(machine, "mem_size_mib"));
    json_int_t amount = json_integer_value(json_object_get(order->body, "amount_mib"));
    ASSERT(memory > 0);
    ASSERT(amount >= 0);
    if (order->operation->method == HTTP_PATCH && !json_object_get(config, "balloon")) {
        return wrong(fault, "Balloon update error: No balloon device found.");
    }
    return amount <= memory ||
           wrong(fault, "Balloon config error: Amount of pages requested is too large.");
}

/* ---- Drives, interfaces, the socket device ---------------------------------------------------- */

static bool check_drive(const json_t *config, const struct firecracker_order *order,
                        char fault[FIRECRACKER_FAULT_SIZE]) {
    const json_t *drives = json_object_get(config, "drives");
    const char *id = text_of(order->body, "drive_id");
    ASSERT(id);
    ASSERT(json_is_array(drives));
    size_t found = list_find(drives, "drive_id", id);
    if (order->operation->method == HTTP_PATCH) {
        return found < json_array_size(drives) ||
               wrong(fault, "Drive config error: Invalid block device ID!");
    }
    if (found == FIRECRACKER_DEVICE_COUNT_MAX) {
        return wrong(fault, "Drive config error: There are too many drives.");
    }
    bool has_path = json_object_get(order->body, "path_on_host");
    bool has_socket = json_object_get(order->body, "socket");
    if (has_path == has_socket) {
        return wrong(fault, "Drive config error: Unable to create the virtio block device: either "
                            "`path_on_host` or `socket` is required.");
    }
    bool root = json_is_true(json_object_get(order->body, "is_root_device"));
    for (size_t i = 0; i < json_array_size(drives) && root; i++) {
        if (i != found &&
            json_is_true(json_object_get(json_array_get(drives, i), "is_root_device"))) {
            return wrong(fault, "Drive config error: A root block device already exists!");
        }
    }
    return true;
}

static bool is_mac(const char *text) {
    ASSERT(text);
    for (size_t i = 0; i < MAC_TEXT_SIZE; i++) {
        char c = text[i];
        bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (i % 3 == 2 ? c != ':' : !hex) {
            return false; /* also at its end */
        }
    }
    return text[MAC_TEXT_SIZE] == '\0';
}

static bool check_interface(const json_t *config, const struct firecracker_order *order,
                            char fault[FIRECRACKER_FAULT_SIZE]) {
    const json_t *interfaces = json_object_get(config, "network-interfaces");
    const char *mac = text_of(order->body, "guest_mac");
    size_t count = json_array_size(interfaces);
    size_t found = list_find(interfaces, "iface_id", text_of(order->body, "iface_id"));
    ASSERT(found <= count);
    ASSERT(count <= FIRECRACKER_DEVICE_COUNT_MAX);
    if (order->operation->method == HTTP_PATCH) {
        return found < count || wrong(fault, "Network config error: Invalid interface ID!");
    }
    if (found == FIRECRACKER_DEVICE_COUNT_MAX) {
        return wrong(fault, "Network config error: There are too many interfaces.");
    }
    if (mac && !is_mac(mac)) {
        return wrong(fault, "An error occurred when deserializing the json body of a request: "
                            "invalid MAC address `guest_mac`.");
    }
    size_t same_mac = mac ? list_find(interfaces, "guest_mac", mac) : count;
    if (same_mac < count && same_mac != found) {
        return wrong(fault, "Network config error: The MAC address is already in use.");
    }
    size_t same_tap = list_find(interfaces, "host_dev_name", text_of(order->body, "host_dev_name"));
    return same_tap == count || same_tap == found ||
           wrong(fault, "Network config error: The host device name is already in use.");
}

static bool check_vsock(const struct firecracker_order *order, char fault[FIRECRACKER_FAULT_SIZE]) {
    const char *path = text_of(order->body, "uds_path");
    ASSERT(path);
    ASSERT(order->effect == FIRECRACKER_EFFECT_VSOCK);
    return (path[0] != '\0' && strlen(path) <= SOCKET_PATH_SIZE_MAX) ||
           wrong(fault, "Vsock config error: Cannot create backend for vsock device: the path is "
                        "empty, or too long for a socket.");
}

static bool check_load(const struct firecracker_order *order, char fault[FIRECRACKER_FAULT_SIZE]) {
    const json_t *backend = json_object_get(order->body, "mem_backend");
    const char *huge = text_of(order->body, "huge_pages");
    bool path = json_object_get(order->body, "mem_file_path");
    ASSERT(order->effect == FIRECRACKER_EFFECT_LOAD);
    if (path == (backend != NULL)) {
        return wrong(fault, path ? "An error occurred when deserializing the json body of a "
                                   "request: too many fields: either `mem_backend` or "
                                   "`mem_file_path` exclusively is required."
                                 : "An error occurred when deserializing the json body of a "
                                   "request: missing field: either `mem_backend` or "
                                   "`mem_file_path` is required.");
    }
    bool file = !backend || strcmp(text_of(backend, "backend_type"), "File") == 0;
    ASSERT(!path || file);
    return !huge || strcmp(huge, "2M") != 0 || !file ||
           wrong(fault, "Load snapshot error: Failed to restore from snapshot: hugetlbfs pages "
                        "require a UFFD memory backend.");
}

bool firecracker_config_check(const json_t *config, const struct firecracker_order *order,
                              char fault[FIRECRACKER_FAULT_SIZE]) {
    const struct firecracker_schema *schema = order->operation->schema;
    ASSERT(json_is_object(config));
    ASSERT(schema && order->body);
    if (schema == &firecracker_schema_machine) {
        return check_machine(config, order, fault);
    }
    if (schema == &firecracker_schema_balloon || schema == &firecracker_schema_balloon_update) {
        return check_balloon(config, order, fault);
    }
    if (schema == &firecracker_schema_drive || schema == &firecracker_schema_partial_drive) {
        return check_drive(config, order, fault);
    }
    if (schema == &firecracker_schema_network || schema == &firecracker_schema_partial_network) {
        return check_interface(config, order, fault);
    }
    if (schema == &firecracker_schema_vsock) {
        return check_vsock(order, fault);
    }
    return schema != &firecracker_schema_snapshot_load || check_load(order, fault);
}

/* ---- Changing it ------------------------------------------------------------------------------ */

static bool put_in_list(json_t *list, const char *id_name, const struct firecracker_order *order) {
    ASSERT(json_is_array(list));
    ASSERT(id_name);
    size_t found = list_find(list, id_name, text_of(order->body, id_name));
    if (order->operation->method == HTTP_PATCH) {
        ASSERT(found < json_array_size(list));
        return json_object_update(json_array_get(list, found), order->body) == 0;
    }
    json_t *device = json_deep_copy(order->body);
    if (found < json_array_size(list)) {
        return json_array_set_new(list, found, device) == 0;
    }
    return json_array_append_new(list, device) == 0;
}

bool firecracker_config_put(json_t *config, const struct firecracker_order *order) {
    const char *part = order->operation->part;
    ASSERT(part);
    ASSERT(json_is_object(config));
    const char *id_name = firecracker_config_id(part);
    if (id_name) {
        return put_in_list(json_object_get(config, part), id_name, order);
    }
    if (strcmp(part, "machine-config") == 0) {
        return json_object_set_new(config, part, machine_merge(config, order)) == 0;
    }
    if (order->operation->method == HTTP_PATCH) {
        return json_object_update(json_object_get(config, part), order->body) == 0;
    }
    return json_object_set_new(config, part, json_deep_copy(order->body)) == 0;
}

/* ---- Snapshots -------------------------------------------------------------------------------- */

static bool override_interfaces(json_t *config, const json_t *overrides,
                                char fault[FIRECRACKER_FAULT_SIZE]) {
    json_t *interfaces = json_object_get(config, "network-interfaces");
    ASSERT(json_is_array(interfaces));
    ASSERT(!overrides || json_is_array(overrides));
    for (size_t i = 0; i < json_array_size(overrides); i++) {
        const json_t *one = json_array_get(overrides, i);
        size_t found = list_find(interfaces, "iface_id", text_of(one, "iface_id"));
        if (found == json_array_size(interfaces)) {
            return wrong(fault, "Load snapshot error: Failed to restore from snapshot: Unknown "
                                "Network Device.");
        }
        if (json_object_set(json_array_get(interfaces, found), "host_dev_name",
                            json_object_get(one, "host_dev_name")) != 0) {
            return wrong(fault, "Out of memory.");
        }
    }
    return true;
}

static bool override_vsock(json_t *config, const json_t *override,
                           char fault[FIRECRACKER_FAULT_SIZE]) {
    json_t *vsock = json_object_get(config, "vsock");
    ASSERT(json_is_object(config));
    ASSERT(!override || json_is_object(override));
    if (!override) {
        return true;
    }
    if (!vsock) {
        return wrong(fault, "Load snapshot error: Failed to restore from snapshot: Unknown Vsock "
                            "Device.");
    }
    return json_object_update(vsock, (json_t *) override) == 0 || wrong(fault, "Out of memory.");
}

/* As far as the peer relies on it: a state file is an input like any other. */
static bool is_saved_config(const json_t *saved) {
    const json_t *machine = json_object_get(saved, "machine-config");
    const json_t *interfaces = json_object_get(saved, "network-interfaces");
    const json_t *vsock = json_object_get(saved, "vsock");
    for (size_t i = 0; i < json_array_size(interfaces); i++) {
        if (!text_of(json_array_get(interfaces, i), "iface_id")) {
            return false;
        }
    }
    json_int_t memory = json_integer_value(json_object_get(machine, "mem_size_mib"));
    return memory > 0 && memory <= FIRECRACKER_MEMORY_MIB_MAX && json_is_array(interfaces) &&
           json_array_size(interfaces) <= FIRECRACKER_DEVICE_COUNT_MAX &&
           json_is_array(json_object_get(saved, "drives")) &&
           (!vsock || (json_is_object(vsock) && text_of(vsock, "uds_path")));
}

json_t *firecracker_config_restore(const json_t *saved, const json_t *body,
                                   char fault[FIRECRACKER_FAULT_SIZE]) {
    ASSERT(json_is_object(body));
    ASSERT(fault);
    if (!is_saved_config(saved)) {
        (void)wrong(fault, "Load snapshot error: Failed to restore from snapshot: the state file "
                           "describes no microVM.");
        return NULL;
    }
    json_t *config = json_deep_copy(saved);
    if (!config) {
        (void)wrong(fault, "Out of memory.");
        return NULL;
    }
    bool tracks = json_is_true(json_object_get(body, "track_dirty_pages")) ||
                  json_is_true(json_object_get(body, "enable_diff_snapshots"));
    if (!override_interfaces(config, json_object_get(body, "network_overrides"), fault) ||
        !override_vsock(config, json_object_get(body, "vsock_override"), fault)) {
        json_decref(config);
        return NULL;
    }
    if (json_object_set_new(json_object_get(config, "machine-config"), "track_dirty_pages",
                            json_boolean(tracks)) != 0) {
        (void)wrong(fault, "Out of memory.");
        json_decref(config);
        return NULL;
    }
    return config;
}
