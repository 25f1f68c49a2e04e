/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * image_internal.h: what the files of src/image/ share. The parsers (kernel header, ELF, module lists, package
 * names) are pure: bytes in, answer out, so that tests and fuzzers drive them without a file.
 *
 * THEORY OF OPERATION
 *
 * The cache folder holds
 *   kernels/<package>_<version>_<arch>/  an unpacked kernel package: boot/, lib/modules/
 *   busybox/<package>_<version>_<arch>/  an unpacked busybox package: bin/busybox
 *   initramfs/<sha256>.cpio              archives by the digest of their bytes
 *   stamps/<name>                        digests remembered for files that have not changed (stamp.c)
 *   tmp/                                 what is being made; renamed into its place when it is whole
 *   <name>.lock                          held by who fetches or builds, so that others wait and then find it
 * Nothing in it is ever written in place. It may be removed at any time that no VM is being started.
 */
#ifndef KELPIE_IMAGE_IMAGE_INTERNAL_H
#define KELPIE_IMAGE_IMAGE_INTERNAL_H

#include "image/image.h"

struct image_path {
    char text[HOST_PATH_SIZE_MAX + 1];
};

/* Formats a path; BAD_CONFIG when it is too long. */
KELPIE_CHECKED enum kelpie_status image_path_format(struct image_path *ret_path,
                                                    struct kelpie_error *err, const char *format,
                                                    ...) ERROR_PRINTF(3, 4);

/* A relative name that stays below its folder: no empty, "." or ".." part, no control character. */
bool image_path_is_plain(const char *name);

/* Whether something exists there. What cannot be looked at does not. */
bool image_path_exists(struct host *host, const char *path);

/* ---- cache.c ---------------------------------------------------------------------------------- */

/* A folder inside the cache, made if it is missing. */
KELPIE_CHECKED enum kelpie_status image_cache_folder(struct host *host, const char *name,
                                                     struct image_path *ret_path,
                                                     struct kelpie_error *err);

/* A fresh name in the cache's temporary space; nothing is made there. */
KELPIE_CHECKED enum kelpie_status image_cache_temporary(struct host *host, const char *prefix,
                                                        struct image_path *ret_path,
                                                        struct kelpie_error *err);

/* Waits for the lock of that name; it is let go when the descriptor is closed. */
KELPIE_CHECKED enum kelpie_status image_cache_lock(struct host *host, const char *name,
                                                   const struct host_wait *wait, int *ret_fd,
                                                   struct kelpie_error *err);

/* Removes what a dead holder of the lock left in the temporary space. What cannot be removed stays. */
void image_cache_sweep(struct host *host, const char *prefix);

/* Removes a folder and everything below it. What is gone already is fine. */
KELPIE_CHECKED enum kelpie_status image_tree_remove(struct host *host, const char *path,
                                                    struct kelpie_error *err);

/* ---- digest.c --------------------------------------------------------------------------------- */

struct image_hasher;
KELPIE_CHECKED enum kelpie_status
image_hasher_create(struct host *host, struct image_hasher **ret_hasher, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status image_hasher_update(struct image_hasher *hasher, const void *data,
                                                      size_t size, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status image_hasher_finish(struct image_hasher *hasher,
                                                      char ret_digest[IMAGE_DIGEST_SIZE],
                                                      struct kelpie_error *err);
void image_hasher_destroy(struct image_hasher *hasher); /* NULL is allowed */

/* The SHA-256 of a whole file of at most size_max bytes. */
KELPIE_CHECKED enum kelpie_status image_digest_file(struct host *host, int fd, uint64_t size_max,
                                                    char ret_digest[IMAGE_DIGEST_SIZE],
                                                    struct kelpie_error *err);

/* ---- stamp.c ---------------------------------------------------------------------------------- */

/* A digest remembered for a set of files. */
struct image_stamp {
    struct host *host;
    struct image_path cache;
    char *text; /* one line for each file */
    size_t size;
    bool settled; /* every file is old enough for its time to tell a change */
};

KELPIE_CHECKED enum kelpie_status image_stamp_init(struct image_stamp *ret_stamp, struct host *host,
                                                   struct kelpie_error *err);
void image_stamp_deinit(struct image_stamp *stamp);

/* Notes the file as it is now, or that there is none. Before its content is read. */
KELPIE_CHECKED enum kelpie_status image_stamp_add(struct image_stamp *stamp, const char *path,
                                                  struct kelpie_error *err);

/* Remembers the digest, if every file is settled. `name` is a plain file name. */
KELPIE_CHECKED enum kelpie_status image_stamp_store(const struct image_stamp *stamp,
                                                    const char *name, const char *digest,
                                                    struct kelpie_error *err);

/* The digest that was stored under the name, if every file of its set is as it was. False: make it again. */
bool image_stamp_find(struct host *host, const char *name, char ret_digest[IMAGE_DIGEST_SIZE]);

/* ---- program.c -------------------------------------------------------------------------------- */

struct image_program {
    const char *const *argv; /* NULL-terminated */
    const char *working_dir; /* NULL: ours */
    int passed_fd;           /* given to the child as descriptor 3, or HOST_FD_NONE */
};

/* Runs a program to its end. What it printed on stdout comes back, zero-terminated, for free(). A code
 * other than 0 is IO_FAILED with the end of its stderr; NOT_FOUND: there is no such program. */
KELPIE_CHECKED enum kelpie_status image_program_run(struct host *host,
                                                    const struct image_program *program,
                                                    const struct host_wait *wait, char **ret_output,
                                                    struct kelpie_error *err);

/* ---- archive.c, package.c --------------------------------------------------------------------- */

/* The content of a file, decompressed when its name ends in .xz, .zst or .gz; for free(). */
KELPIE_CHECKED enum kelpie_status image_file_load(struct host *host, const char *path,
                                                  size_t size_max, char **ret_data,
                                                  size_t *ret_size, struct kelpie_error *err);

/* What of a Debian package is kept: the name below the unpacked folder, or NULL. Pure. */
const char *image_package_kept_name(const char *entry_name);

/* Unpacks what is kept of a .deb into a folder, which must exist. */
KELPIE_CHECKED enum kelpie_status image_package_unpack(struct host *host, const char *package_path,
                                                       const char *folder,
                                                       const struct host_wait *wait,
                                                       struct kelpie_error *err);

/* ---- fetch.c ---------------------------------------------------------------------------------- */

/* Downloads a Debian package and unpacks it to <cache>/<kind>/<package>_<version>_<arch>. */
KELPIE_CHECKED enum kelpie_status image_package_fetch(struct host *host, const char *kind,
                                                      const char *package,
                                                      const struct host_wait *wait,
                                                      struct image_path *ret_folder,
                                                      struct kelpie_error *err);

/* The first package that `package` depends on. */
KELPIE_CHECKED enum kelpie_status image_package_dependency(struct host *host, const char *package,
                                                           const struct host_wait *wait,
                                                           char *ret_name, size_t size,
                                                           struct kelpie_error *err);

/* ---- kernel_header.c -------------------------------------------------------------------------- */

/* Checks a bzImage's setup header and takes out its release. `data` is the file's beginning, up to
 * IMAGE_KERNEL_HEADER_SIZE bytes of `file_size`. Pure. Errors: BAD_CONFIG field "kernel". */
#define IMAGE_KERNEL_HEADER_SIZE 131072 /* 512 * (255 + 1): setup_sects is one byte */
KELPIE_CHECKED enum kelpie_status
image_kernel_header_parse(const void *data, size_t size, uint64_t file_size,
                          char ret_release[IMAGE_RELEASE_SIZE_MAX + 1], struct kelpie_error *err);

/* Where the packed kernel lies in a bzImage whose header was parsed (payload_offset, payload_length). False: the header does
 * not say, or tells of bytes that are not there. Pure. */
bool image_kernel_payload(const void *data, size_t size, uint64_t file_size, uint64_t *ret_offset,
                          uint64_t *ret_length);

/* ---- elf.c ------------------------------------------------------------------------------------ */

/* A program of this machine that needs no dynamic loader. `data` is the file's beginning. Pure. */
bool image_elf_is_static(const void *data, size_t size);

/* A shared library of this machine whose dynamic symbols' names have `symbol`. `data` is the file's beginning, in
 * which its tables must lie. Pure. */
bool image_elf_is_library_with(const void *data, size_t size, const char *symbol);

/* A section of a 64-bit little-endian object, in place. Pure. */
bool image_elf_section(const void *data, size_t size, const char *name, const char **ret_data,
                       size_t *ret_size);

/* ---- module_text.c ---------------------------------------------------------------------------- */

/* A piece of a text, not zero-terminated. */
struct image_slice {
    const char *data;
    size_t size;
};

/* The text's first line, without its end; the text goes on behind it. False: there is none left. */
bool image_slice_line(struct image_slice *text, struct image_slice *ret_line);

/* The first word of a line that ends at one of `separators`; the line goes on behind it. */
bool image_slice_word(struct image_slice *line, const char *separators,
                      struct image_slice *ret_word);

/* Whether a file's path is that of the module: its last part, without .ko and what follows, with '-'
 * and '_' being the same. */
bool image_module_matches(struct image_slice path, struct image_slice module);

/* The line of modules.dep, modules.order or modules.builtin for a module: its path, and what stands
 * behind the colon (empty without one). */
bool image_module_find(struct image_slice text, struct image_slice module,
                       struct image_slice *ret_path, struct image_slice *ret_dependencies);

/* The value of a key in a .modinfo section ("depends"): zero-terminated strings KEY=VALUE. */
bool image_module_info(struct image_slice section, const char *key, struct image_slice *ret_value);

/* ---- busybox.c -------------------------------------------------------------------------------- */

/* A static busybox: $KELPIE_BUSYBOX, /bin, /usr/bin, the cache, Debian's busybox-static. */
KELPIE_CHECKED enum kelpie_status image_busybox_find(struct host *host,
                                                     const struct host_wait *wait,
                                                     struct image_path *ret_path,
                                                     struct kelpie_error *err);

struct image_applet_list {
    char names[IMAGE_APPLET_COUNT_MAX][IMAGE_APPLET_NAME_SIZE_MAX + 1];
    size_t count;
};

/* Its applets, by asking it; for free(). */
KELPIE_CHECKED enum kelpie_status image_busybox_applets(struct host *host, const char *path,
                                                        const struct host_wait *wait,
                                                        struct image_applet_list **ret_list,
                                                        struct kelpie_error *err);

/* ---- cpio.c ----------------------------------------------------------------------------------- */

/* A newc archive on its way into a file. Times and owners are zero: equal input, equal bytes. */
struct image_cpio;
KELPIE_CHECKED enum kelpie_status image_cpio_create(struct host *host, int fd,
                                                    struct image_cpio **ret_cpio,
                                                    struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status image_cpio_folder(struct image_cpio *cpio, const char *path,
                                                    uint32_t mode, struct kelpie_error *err);
KELPIE_CHECKED enum kelpie_status image_cpio_link(struct image_cpio *cpio, const char *path,
                                                  const char *target, struct kelpie_error *err);
struct image_cpio_file {
    const char *path; /* without a leading '/' */
    uint32_t mode;
    const void *data;
    size_t size;
};
KELPIE_CHECKED enum kelpie_status image_cpio_file(struct image_cpio *cpio,
                                                  const struct image_cpio_file *file,
                                                  struct kelpie_error *err);

/* Writes the archive's end. The digest is that of all its bytes. */
KELPIE_CHECKED enum kelpie_status image_cpio_finish(struct image_cpio *cpio,
                                                    char ret_digest[IMAGE_DIGEST_SIZE],
                                                    struct kelpie_error *err);
void image_cpio_destroy(struct image_cpio *cpio); /* NULL is allowed */

/* ---- guest_embed.S ---------------------------------------------------------------------------- */

/* kelpie-guest. */
extern const unsigned char image_guest_data[];
extern const unsigned char image_guest_data_end[];

/* ---- wait.c ----------------------------------------------------------------------------------- */

/* For work that never waits by itself: TIMED_OUT or CANCELLED when the wait is over. */
KELPIE_CHECKED enum kelpie_status image_wait_check(struct host *host, const struct host_wait *wait,
                                                   struct kelpie_error *err);

#endif
