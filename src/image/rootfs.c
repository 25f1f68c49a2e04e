/* SPDX-License-Identifier: Apache-2.0 OR MIT */
#include "image/rootfs.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "image/erofs.h"
#include "image/layout.h"

/* What is being made. Files are closed, trees freed with it. */
struct build {
    struct host *host;
    const struct image_rootfs_options *options;
    const struct host_wait *wait;
    struct image_unpack root;
    struct image_unpack outer; /* an archive of an OCI layout */
    struct image_layout_image *image;
};

static void unpack_deinit(struct image_unpack *unpack) {
    ASSERT(unpack);
    if (unpack->host) {
        image_tree_destroy(unpack->tree);
        host_close(unpack->host, unpack->data_fd);
    }
}

static void build_cleanup(struct build *build) {
    ASSERT(build);
    unpack_deinit(&build->root);
    unpack_deinit(&build->outer);
    image_layout_free(build->image);
}

static enum kelpie_status unpack_init(struct build *build, struct image_unpack *ret_unpack,
                                      struct kelpie_error *err) {
    ASSERT(!ret_unpack->host);
    ASSERT(build->options->bytes_max > 0);
    *ret_unpack = (struct image_unpack){
        .host = build->host,
        .wait = build->wait,
        .data_fd = HOST_FD_NONE,
        .bytes_max = build->options->bytes_max,
    };
    TRY(image_tree_create(build->host, &ret_unpack->tree, err));
    return image_scratch_file(build->host, &ret_unpack->data_fd, err);
}

static enum kelpie_status source_wrong(const struct build *build, struct kelpie_error *err,
                                       const char *why) {
    ASSERT(build->options->path);
    ASSERT(why);
    return error_set_field(err, KELPIE_BAD_CONFIG, "path", "the image's source %.512s %s",
                           build->options->path, why);
}

/* Says what the source is; the user named it, so that links are followed. */
static enum kelpie_status open_source(const struct build *build, int *ret_fd,
                                      struct host_file_info *ret_info, struct kelpie_error *err) {
    AUTO_FD struct host_fd fd = {build->host, HOST_FD_NONE};
    ASSERT(ret_fd);
    ASSERT(ret_info);
    enum kelpie_status status =
        host_file_open(build->host, build->options->path, HOST_OPEN_READ, 0, &fd.fd, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_NOT_FOUND, "there is no source for the image");
    }
    TRY(status);
    TRY(host_file_stat(build->host, fd.fd, ret_info, err));
    *ret_fd = host_fd_take(&fd);
    return KELPIE_OK;
}

/* ---- The three sources ------------------------------------------------------------------------ */

static enum kelpie_status unpack_file(struct image_unpack *unpack, int fd, uint64_t size,
                                      struct kelpie_error *err) {
    const struct image_blob blob = {fd, 0, size};
    struct image_stream_digests digests;
    ASSERT(fd != HOST_FD_NONE);
    ASSERT(unpack->tree);
    return image_unpack_tar(unpack, &blob, IMAGE_COMPRESSION_ANY, false, &digests, err);
}

static enum kelpie_status take_tar(struct build *build, struct image_unpack *unpack,
                                   struct kelpie_error *err) {
    struct host_file_info info;
    AUTO_FD struct host_fd fd = {build->host, HOST_FD_NONE};
    ASSERT(unpack == &build->root || unpack == &build->outer);
    ASSERT(unpack->tree);
    TRY(open_source(build, &fd.fd, &info, err));
    if (info.type != HOST_FILE_REGULAR) {
        return source_wrong(build, err, "is not a regular file");
    }
    return unpack_file(unpack, fd.fd, info.size, err);
}

/* Owners, attributes and links of a folder as tar writes them down, so that there is one way in. */
static enum kelpie_status take_folder(struct build *build, struct kelpie_error *err) {
    struct host_file_info info;
    struct image_path folder;
    AUTO_MEM char *output = NULL;
    AUTO_FD struct host_fd fd = {build->host, HOST_FD_NONE};
    AUTO_FD struct host_fd scratch = {build->host, HOST_FD_NONE};
    ASSERT(build->root.tree);
    TRY(open_source(build, &fd.fd, &info, err));
    if (info.type != HOST_FILE_FOLDER) {
        return source_wrong(build, err, "is not a folder");
    }
    TRY(image_path_format(&folder, err, "--directory=%s", build->options->path));
    TRY(image_scratch_file(build->host, &scratch.fd, err));
    const char *const argv[] = {"tar",
                                "--create",
                                "--file=/proc/self/fd/3",
                                folder.text,
                                "--format=posix",
                                "--numeric-owner",
                                "--sort=name",
                                "--sparse",
                                "--one-file-system",
                                "--acls",
                                "--xattrs",
                                "--xattrs-include=*",
                                ".",
                                NULL};
    const struct image_program program = {.argv = argv, .passed_fd = scratch.fd};
    enum kelpie_status status = image_program_run(build->host, &program, build->wait, &output, err);
    if (status == KELPIE_NOT_FOUND) {
        return error_wrap(err, KELPIE_BACKEND_MISSING, "a folder as an image takes GNU tar");
    }
    TRY(status);
    ASSERT(scratch.fd != HOST_FD_NONE);
    TRY(host_file_stat(build->host, scratch.fd, &info, err));
    return unpack_file(&build->root, scratch.fd, info.size, err);
}

static enum kelpie_status take_layer(struct build *build, const struct image_layout *layout,
                                     size_t index, struct kelpie_error *err) {
    const struct image_oci_descriptor *layer = &build->image->manifest.layers[index];
    struct image_stream_digests digests;
    struct image_blob blob;
    ASSERT(index < build->image->config.layer_count);
    TRY(image_layout_open(layout, layer, &blob, err));
    enum kelpie_status status =
        image_unpack_tar(&build->root, &blob, layer->compression, true, &digests, err);
    image_layout_close(layout, &blob);
    TRY(status);
    ASSERT(digests.packed[0] != '\0');
    if (strcmp(digests.packed, layer->digest) != 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the layer %.16s... has another digest than its name",
                               layer->digest);
    }
    if (strcmp(digests.unpacked, build->image->config.unpacked[index]) != 0) {
        return error_set_field(err, KELPIE_BAD_CONFIG, "path",
                               "the layer %.16s... is unpacked not what the config says (diff_ids)",
                               layer->digest);
    }
    return KELPIE_OK;
}

static enum kelpie_status take_oci(struct build *build, struct kelpie_error *err) {
    struct host_file_info info;
    AUTO_FD struct host_fd fd = {build->host, HOST_FD_NONE};
    const struct image_rootfs_options *options = build->options;
    struct image_layout layout = {build->host, build->wait, options->path, NULL};
    TRY(open_source(build, &fd.fd, &info, err));
    if (info.type != HOST_FILE_FOLDER) {
        TRY(unpack_init(build, &build->outer, err));
        TRY(take_tar(build, &build->outer, err));
        layout.unpack = &build->outer;
    }
    TRY(image_layout_read(&layout, options->reference, options->architecture, &build->image, err));
    ASSERT(build->image);
    for (size_t i = 0; i < build->image->manifest.layer_count; i++) {
        TRY(take_layer(build, &layout, i, err));
    }
    ASSERT(build->image->config.layer_count == build->image->manifest.layer_count);
    return KELPIE_OK;
}

/* ---- What its maker wants run ----------------------------------------------------------------- */

static bool append_all(json_t *list, const json_t *items) {
    ASSERT(json_is_array(list));
    ASSERT(!items || json_is_array(items));
    for (size_t i = 0; i < json_array_size(items); i++) {
        if (json_array_append(list, json_array_get(items, i)) != 0) {
            return false;
        }
    }
    return true;
}

static enum kelpie_status fill(const struct build *build, struct image_rootfs *rootfs,
                               struct kelpie_error *err) {
    ASSERT(!rootfs->argv);
    rootfs->argv = json_array();
    rootfs->env = json_array();
    if (!rootfs->argv || !rootfs->env) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an image's description");
    }
    if (!build->image) {
        return KELPIE_OK;
    }
    const struct image_oci_config *config = &build->image->config;
    ASSERT(config->document);
    if (!append_all(rootfs->argv, config->entrypoint) ||
        !append_all(rootfs->argv, config->command) || !append_all(rootfs->env, config->env)) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory for an image's description");
    }
    const char *architecture = image_oci_architecture(config->architecture);
    rootfs->entrypoint_count = json_array_size(config->entrypoint);
    memcpy(rootfs->working_dir, config->working_dir, strlen(config->working_dir) + 1);
    strncpy(rootfs->architecture, architecture, sizeof(rootfs->architecture) - 1);
    return image_rootfs_user(&build->root, config->user, &rootfs->uid, &rootfs->gid, err);
}

void image_rootfs_deinit(struct image_rootfs *rootfs) {
    ASSERT(rootfs);
    json_decref(rootfs->argv);
    json_decref(rootfs->env);
    rootfs->argv = NULL;
    rootfs->env = NULL;
}

static enum kelpie_status take_source(struct build *build, struct kelpie_error *err) {
    ASSERT(build->options->path);
    TRY(unpack_init(build, &build->root, err));
    switch (build->options->source) {
    case IMAGE_ROOTFS_FOLDER:
        return take_folder(build, err);
    case IMAGE_ROOTFS_TAR:
        return take_tar(build, &build->root, err);
    case IMAGE_ROOTFS_OCI:
        return take_oci(build, err);
    default:
        UNREACHABLE();
    }
}

enum kelpie_status image_rootfs_build(struct host *host, const struct image_rootfs_options *options,
                                      const struct host_wait *wait, int fd,
                                      struct image_rootfs *ret_rootfs, struct kelpie_error *err) {
    ASSERT(options->architecture);
    ASSERT(fd != HOST_FD_NONE && ret_rootfs);
    __attribute__((cleanup(build_cleanup))) struct build build = {
        .host = host, .options = options, .wait = wait};
    struct image_rootfs rootfs = {.size = 0};
    TRY(take_source(&build, err));
    const struct image_erofs erofs = {build.root.tree, build.root.data_fd, wait};
    enum kelpie_status status = fill(&build, &rootfs, err);
    if (status == KELPIE_OK) {
        status = image_erofs_write(host, &erofs, fd, &rootfs.size, rootfs.digest, err);
    }
    if (status != KELPIE_OK) {
        image_rootfs_deinit(&rootfs);
        return status;
    }
    *ret_rootfs = rootfs;
    return KELPIE_OK;
}
