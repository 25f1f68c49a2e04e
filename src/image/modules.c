/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * modules.c: which module files a guest needs, and in which order they load.
 *
 * THEORY OF OPERATION
 *
 * On an installed system depmod has written modules.dep. A package that was only unpacked has none: then
 * modules.order says where each module is and each module's own .modinfo section says what it needs.
 * Either way the wanted modules and what they need become nodes of a graph, found breadth first; then the
 * first node whose needs are all placed is placed, until all are. A circle, which no kernel has, is an error.
 */
#include "image/image_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"

struct module_graph {
    struct host *host;
    const char *modules_dir;
    struct image_slice index;   /* modules.dep or modules.order */
    struct image_slice builtin; /* modules.builtin */
    bool has_dependencies;      /* the index is modules.dep */
    struct image_module_list nodes;
    bool needs[IMAGE_MODULE_COUNT_MAX][IMAGE_MODULE_COUNT_MAX];
};

static enum kelpie_status modules_wrong(const struct module_graph *graph, const char *why,
                                        struct kelpie_error *err) {
    ASSERT(graph->modules_dir);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, "kernel", "the kernel's modules in %s: %s",
                           graph->modules_dir, why);
}

/* The node of that path, made if it is new. */
static enum kelpie_status graph_node(struct module_graph *graph, struct image_slice path,
                                     size_t *ret_node, struct kelpie_error *err) {
    struct image_module_list *nodes = &graph->nodes;
    ASSERT(nodes->count <= IMAGE_MODULE_COUNT_MAX);
    ASSERT(ret_node);
    for (size_t i = 0; i < nodes->count; i++) {
        if (strlen(nodes->names[i]) == path.size &&
            memcmp(nodes->names[i], path.data, path.size) == 0) {
            *ret_node = i;
            return KELPIE_OK;
        }
    }
    if (nodes->count == IMAGE_MODULE_COUNT_MAX) {
        return modules_wrong(graph, "a guest would need too many of them", err);
    }
    if (path.size > IMAGE_MODULE_NAME_SIZE_MAX) {
        return modules_wrong(graph, "a module's name is too long", err);
    }
    char *name = nodes->names[nodes->count];
    memcpy(name, path.data, path.size);
    name[path.size] = '\0';
    if (!image_path_is_plain(name)) {
        return modules_wrong(graph, "a module's name leads outside its folder", err);
    }
    *ret_node = nodes->count++;
    return KELPIE_OK;
}

/* Adds a module by name, unless it is built in or does not exist. `ret_found` tells. */
static enum kelpie_status graph_add(struct module_graph *graph, struct image_slice module,
                                    size_t *ret_node, bool *ret_found, struct kelpie_error *err) {
    ASSERT(ret_node);
    ASSERT(ret_found);
    struct image_slice path;
    struct image_slice rest;
    bool found = image_module_find(graph->index, module, &path, &rest) &&
                 !image_module_find(graph->builtin, module, &rest, &rest);
    if (found) {
        TRY(graph_node(graph, path, ret_node, err));
    }
    *ret_found = found;
    return KELPIE_OK;
}

static enum kelpie_status needs_by_index(struct module_graph *graph, size_t node,
                                         struct kelpie_error *err) {
    struct image_slice text = graph->index;
    struct image_slice line;
    size_t size = strlen(graph->nodes.names[node]);
    ASSERT(graph->has_dependencies);
    ASSERT(node < graph->nodes.count);
    while (image_slice_line(&text, &line)) {
        if (line.size <= size || line.data[size] != ':' ||
            memcmp(line.data, graph->nodes.names[node], size) != 0) {
            continue;
        }
        struct image_slice rest = {line.data + size + 1, line.size - size - 1};
        struct image_slice word;
        while (image_slice_word(&rest, " \t", &word)) {
            size_t needed = 0;
            TRY(graph_node(graph, word, &needed, err));
            graph->needs[node][needed] = true;
        }
        return KELPIE_OK;
    }
    return KELPIE_OK;
}

/* modules.order names a module as it was built; on the disk it may be compressed. */
static enum kelpie_status find_file(const struct module_graph *graph, const char *name,
                                    struct image_path *ret_path, struct kelpie_error *err) {
    static const char *const endings[] = {"", ".xz", ".zst", ".gz"};
    ASSERT(image_path_is_plain(name));
    ASSERT(ret_path);
    for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
        TRY(image_path_format(ret_path, err, "%s/%s%s", graph->modules_dir, name, endings[i]));
        if (image_path_exists(graph->host, ret_path->text)) {
            return KELPIE_OK;
        }
    }
    return modules_wrong(graph, "modules.order names one that is not there", err);
}

static enum kelpie_status needs_by_modinfo(struct module_graph *graph, size_t node,
                                           struct kelpie_error *err) {
    AUTO_MEM char *data = NULL;
    size_t size = 0;
    struct image_slice section = {NULL, 0};
    struct image_slice names = {NULL, 0};
    struct image_slice name;
    struct image_path path;
    ASSERT(!graph->has_dependencies);
    ASSERT(node < graph->nodes.count);
    TRY(find_file(graph, graph->nodes.names[node], &path, err));
    TRY(image_file_load(graph->host, path.text, IMAGE_MODULE_SIZE_MAX, &data, &size, err));
    if (!image_elf_section(data, size, ".modinfo", &section.data, &section.size)) {
        return modules_wrong(graph, "one has no .modinfo section", err);
    }
    if (!image_module_info(section, "depends", &names)) {
        return KELPIE_OK;
    }
    while (image_slice_word(&names, ",", &name)) {
        size_t needed = 0;
        bool found = false;
        TRY(graph_add(graph, name, &needed, &found, err));
        if (found) {
            ASSERT(needed < graph->nodes.count);
            graph->needs[node][needed] = true;
        }
    }
    return KELPIE_OK;
}

static bool node_is_ready(const struct module_graph *graph, size_t node, const bool *placed) {
    ASSERT(placed);
    ASSERT(node < graph->nodes.count);
    for (size_t i = 0; i < graph->nodes.count; i++) {
        if (graph->needs[node][i] && !placed[i] && i != node) {
            return false;
        }
    }
    return !placed[node];
}

static enum kelpie_status graph_sort(const struct module_graph *graph,
                                     struct image_module_list *ret_list, struct kelpie_error *err) {
    bool placed[IMAGE_MODULE_COUNT_MAX] = {false};
    size_t count = graph->nodes.count;
    ASSERT(count <= IMAGE_MODULE_COUNT_MAX);
    for (size_t place = 0; place < count; place++) {
        size_t node = 0;
        while (node < count && !node_is_ready(graph, node, placed)) {
            node++;
        }
        if (node == count) {
            return modules_wrong(graph, "they need each other in a circle", err);
        }
        placed[node] = true;
        memcpy(ret_list->names[place], graph->nodes.names[node], sizeof(ret_list->names[place]));
    }
    ret_list->count = count;
    ASSERT(ret_list->count == graph->nodes.count);
    return KELPIE_OK;
}

/* Gives the names the endings that the files have. */
static enum kelpie_status name_files(const struct module_graph *graph,
                                     struct image_module_list *list, struct kelpie_error *err) {
    size_t folder_size = strlen(graph->modules_dir) + 1;
    ASSERT(list->count <= IMAGE_MODULE_COUNT_MAX);
    for (size_t i = 0; i < list->count; i++) {
        struct image_path path;
        TRY(find_file(graph, list->names[i], &path, err));
        size_t size = strlen(path.text + folder_size);
        if (size > IMAGE_MODULE_NAME_SIZE_MAX) {
            return modules_wrong(graph, "a module's name is too long", err);
        }
        ASSERT(size >= strlen(list->names[i]));
        memcpy(list->names[i], path.text + folder_size, size + 1);
    }
    return KELPIE_OK;
}

/* A text file of the modules folder; an absent one is empty. */
static enum kelpie_status load_text(const struct module_graph *graph, const char *name,
                                    char **ret_text, struct image_slice *ret_slice,
                                    struct kelpie_error *err) {
    struct image_path path;
    size_t size = 0;
    ASSERT(ret_text && ret_slice);
    ASSERT(!*ret_text);
    TRY(image_path_format(&path, err, "%s/%s", graph->modules_dir, name));
    enum kelpie_status status =
        host_file_load(graph->host, path.text, IMAGE_MODULES_DEP_SIZE_MAX, ret_text, &size, err);
    if (status == KELPIE_NOT_FOUND) {
        error_clear(err);
        return KELPIE_OK;
    }
    TRY(status);
    *ret_slice = (struct image_slice){*ret_text, size};
    return KELPIE_OK;
}

static enum kelpie_status graph_build(struct module_graph *graph, const char *const *wanted,
                                      size_t wanted_count, struct kelpie_error *err) {
    ASSERT(graph->nodes.count == 0);
    ASSERT(wanted || wanted_count == 0);
    for (size_t i = 0; i < wanted_count; i++) {
        struct image_slice module = {wanted[i], strlen(wanted[i])};
        size_t node = 0;
        bool found = false;
        TRY(graph_add(graph, module, &node, &found, err));
    }
    /* The list grows while it is walked, up to IMAGE_MODULE_COUNT_MAX. */
    for (size_t node = 0; node < graph->nodes.count; node++) {
        if (graph->has_dependencies) {
            TRY(needs_by_index(graph, node, err));
        } else {
            TRY(needs_by_modinfo(graph, node, err));
        }
    }
    return KELPIE_OK;
}

enum kelpie_status image_module_order(struct host *host, const char *modules_dir,
                                      const char *const *wanted, size_t wanted_count,
                                      struct image_module_list *ret_list,
                                      struct kelpie_error *err) {
    ASSERT(modules_dir);
    ASSERT(ret_list);
    AUTO_MEM struct module_graph *graph = host_allocate(host, sizeof(*graph), err);
    AUTO_MEM char *index = NULL;
    AUTO_MEM char *builtin = NULL;
    if (!graph) {
        return KELPIE_NO_MEMORY;
    }
    graph->host = host;
    graph->modules_dir = modules_dir;
    TRY(load_text(graph, "modules.builtin", &builtin, &graph->builtin, err));
    TRY(load_text(graph, "modules.dep", &index, &graph->index, err));
    graph->has_dependencies = index != NULL;
    if (!graph->has_dependencies) {
        TRY(load_text(graph, "modules.order", &index, &graph->index, err));
    }
    if (!index) {
        return modules_wrong(graph, "there is neither modules.dep nor modules.order", err);
    }
    TRY(graph_build(graph, wanted, wanted_count, err));
    AUTO_MEM struct image_module_list *sorted = host_allocate(host, sizeof(*sorted), err);
    if (!sorted) {
        return KELPIE_NO_MEMORY;
    }
    TRY(graph_sort(graph, sorted, err));
    TRY(name_files(graph, sorted, err));
    *ret_list = *sorted;
    return KELPIE_OK;
}
