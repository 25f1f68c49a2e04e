/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The simulated guest's files: one flat table of absolute paths, in memory, bounded in count and
 * bytes. Functions that may fail return 0 or the errno that Linux would give. Links only come and go with trees. There are no
 * owners, and permission bits matter only to running a file: every user is root here.
 */
#ifndef KELPIE_BACKEND_MOCK_MOCK_FILES_H
#define KELPIE_BACKEND_MOCK_MOCK_FILES_H

#include "backend/mock/mock_bytes.h"

enum mock_file_type {
    MOCK_FILE_FOLDER = 0,
    MOCK_FILE_REGULAR,
    MOCK_FILE_PROGRAM, /* one of mock_program.h's, found by its name */
    MOCK_FILE_NULL,
    MOCK_FILE_ZERO,
    MOCK_FILE_RANDOM,
    MOCK_FILE_LINK, /* symbolic; its content is its target. Nothing follows it: commands see an empty file */
    MOCK_FILE_TYPE_COUNT
};

struct mock_file {
    enum mock_file_type type;
    uint32_t mode;
    char *path;
    struct mock_bytes content; /* REGULAR and LINK only */
};

struct mock_files {
    struct host *host;
    struct mock_file *entries; /* MOCK_FILE_COUNT_MAX of them */
    size_t count;
    uint64_t bytes; /* of all contents */
};

/* What always holds. */
void mock_files_check(const struct mock_files *files);

/* An empty table: not even "/" is in it. */
KELPIE_CHECKED enum kelpie_status mock_files_init(struct mock_files *files, struct host *host,
                                                  struct kelpie_error *err);
void mock_files_deinit(struct mock_files *files);

/* The tree of a machine that has just booted. */
KELPIE_CHECKED enum kelpie_status mock_files_populate(struct mock_files *files,
                                                      struct kelpie_error *err);

/* Pointers into the table live until the next add, replace or remove. */
struct mock_file *mock_files_find(const struct mock_files *files, const char *path);

/* What a path leads to. ENOENT, ENOTDIR (a parent is no folder). */
int mock_files_lookup(const struct mock_files *files, const char *path,
                      struct mock_file **ret_file);

/* Makes a new file. EEXIST, ENOENT, ENOTDIR, ENOSPC, ENAMETOOLONG. */
int mock_files_add(struct mock_files *files, const char *path, enum mock_file_type type,
                   uint32_t mode, struct mock_file **ret_file);

/* Opens for writing, as the shell's > and >> do. EISDIR and add's errors. */
int mock_files_open(struct mock_files *files, const char *path, bool append);

/* Appends to a regular file; devices swallow. ENOSPC, EISDIR. */
int mock_files_append(struct mock_files *files, struct mock_file *file, const void *data,
                      size_t size);

/* Puts a regular file into place as a rename does, whole; takes the content's memory on success. */
int mock_files_replace(struct mock_files *files, const char *path, uint32_t mode,
                       struct mock_bytes *content);

/* Makes a link, in the place of whatever is there but a folder. EEXIST, and add's errors. */
int mock_files_link(struct mock_files *files, const char *path, const void *target, size_t size);

/* ENOENT; ENOTEMPTY for a folder that holds something. */
int mock_files_remove(struct mock_files *files, const char *path);

/* Joins and normalises: "." and ".." and double slashes go. False: longer than MOCK_PATH_SIZE_MAX.
 * buffer has MOCK_PATH_SIZE_MAX + 1 bytes. */
bool mock_path_resolve(const char *folder, const char *path, char *buffer);

/* The part behind the last slash. */
const char *mock_path_name(const char *path);

/* True when `path` lies directly in `folder`. */
bool mock_path_is_in(const char *path, const char *folder);

#endif
