/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * kelpie cp: files and folders between this host and a VM, files between two VMs.
 *
 * THEORY OF OPERATION
 *
 * Each side is a path here, VM:PATH, or "-". A word is VM:PATH when what stands before its first colon is a name and no '/';
 * "./a:b" is a file here. The library copies whole files, and its target is there whole or not at all, so what has
 * no file here ("-", or the way between two VMs) goes through one in $TMPDIR that is unlinked at the end.
 *
 * Where it goes is what docker cp does: a target that is a folder, or ends in '/', gets the file or folder under its own name;
 * a folder whose path ends in "/." gives what is in it. Here stat(2) tells what is a folder. In the guest a copy does:
 * of a file onto a folder, and of a folder as a file, it fails at once with EISDIR, before any data went over.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "cli/verb.h"
#include "kelpie_store.h"

struct cp_options {
    bool json;
};

static const struct option_spec cp_specs[] = {
    {
        .name = "json",
        .help = "print one JSON object",
        .set = option_set_flag,
        .offset = offsetof(struct cp_options, json),
    },
};
static const struct option_table cp_table = {cp_specs, ARRAY_SIZE(cp_specs)};

/* One side of a copy. */
struct side {
    const char *word;
    char vm[KELPIE_NAME_SIZE_MAX + 1]; /* empty: here */
    const char *path;
    bool stream; /* "-" */
};

struct copy {
    struct side source;
    struct side target;
    bool folder;                         /* the source is one here */
    struct kelpie_tree_report report;    /* of a folder */
    char temp[KELPIE_PATH_SIZE_MAX + 1]; /* a file of ours; empty: none */
    char path[KELPIE_PATH_SIZE_MAX + 1]; /* the target, when it is not the word's */
};

static enum kelpie_status parse_side(const char *word, struct side *ret_side,
                                     struct kelpie_error *err) {
    ASSERT(word);
    ASSERT(ret_side);
    struct side side = {.word = word, .path = word, .stream = strcmp(word, "-") == 0};
    const char *colon = strchr(word, ':');
    const char *slash = strchr(word, '/');
    if (colon && colon > word && word[0] != '.' && (!slash || colon < slash)) {
        size_t size = (size_t)(colon - word);
        if (size >= sizeof(side.vm)) {
            return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\": the VM's name is too long", word);
        }
        memcpy(side.vm, word, size);
        side.path = colon + 1;
    }
    if (side.path[0] == 0) {
        return error_set(err, KELPIE_BAD_CONFIG, "\"%.100s\": the path is missing", word);
    }
    if (side.vm[0] != 0 && side.path[0] != '/') {
        return error_set(err, KELPIE_BAD_CONFIG,
                         "\"%.100s\": a path in a VM is absolute: it begins with a '/'", word);
    }
    *ret_side = side;
    return KELPIE_OK;
}

static bool ends_in_slash(const char *path) {
    ASSERT(path);
    ASSERT(path[0] != 0);
    return path[strlen(path) - 1] == '/';
}

/* The last part of a path: "b" of "/a/b". */
static const char *base_name(const char *path) {
    ASSERT(path);
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    ASSERT(!strchr(name, '/'));
    return name;
}

/* The same, of "/a/b/" too; empty of "/". Returns the name's beginning; *ret_size is its size. */
static const char *own_name(const char *path, size_t *ret_size) {
    ASSERT(path);
    ASSERT(ret_size);
    size_t end = strlen(path);
    while (end > 0 && path[end - 1] == '/') {
        end--;
    }
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    *ret_size = end - start;
    return path + start;
}

/* "<folder>/<the source's name>", in copy->path. */
static enum kelpie_status below(struct copy *copy, const char *folder, struct kelpie_error *err) {
    ASSERT(copy);
    ASSERT(folder);
    size_t name_size = 0;
    const char *name = own_name(copy->source.path, &name_size);
    bool has_name = name_size > 0 && !copy->source.stream && strncmp(name, "..", name_size) != 0;
    if (!has_name) {
        return error_set(err, KELPIE_BAD_CONFIG, "%.200s is a folder: give the name too",
                         copy->target.word);
    }
    int size = snprintf(copy->path, sizeof(copy->path), "%s%s%.*s", folder,
                        ends_in_slash(folder) ? "" : "/", (int)name_size, name);
    if (size < 0 || (size_t)size >= sizeof(copy->path)) {
        return error_set(err, KELPIE_BAD_CONFIG, "the path is too long");
    }
    return KELPIE_OK;
}

/* ---- Files of ours, and streams --------------------------------------------------------------- */

static enum kelpie_status make_temp(struct copy *copy, struct kelpie_error *err) {
    ASSERT(copy->temp[0] == 0);
    const char *folder = getenv("TMPDIR");
    char path[KELPIE_PATH_SIZE_MAX + 1];
    int size = snprintf(path, sizeof(path), "%s/kelpie-cp-XXXXXX",
                        folder && folder[0] == '/' ? folder : "/tmp");
    if (size < 0 || (size_t)size >= sizeof(path)) {
        return error_set(err, KELPIE_BAD_CONFIG, "TMPDIR is too long");
    }
    int fd = mkstemp(path);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot make a temporary file %s", path);
    }
    close(fd);
    memcpy(copy->temp, path, sizeof(path));
    ASSERT(copy->temp[0] == '/');
    return KELPIE_OK;
}

static enum kelpie_status pump(int from, int to, struct kelpie_error *err) {
    ASSERT(from >= 0);
    ASSERT(to >= 0);
    AUTO_MEM char *buffer = malloc(CLI_CHUNK_SIZE);
    if (!buffer) {
        return error_set(err, KELPIE_NO_MEMORY, "no memory");
    }
    while (true) {
        ssize_t count = read(from, buffer, CLI_CHUNK_SIZE);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return error_set_os(err, errno, "cannot read what is copied");
        }
        if (count == 0) {
            return KELPIE_OK;
        }
        for (ssize_t done = 0; done < count;) {
            ssize_t written = write(to, buffer + done, (size_t)(count - done));
            if (written < 0 && errno != EINTR) {
                return error_set_os(err, errno, "cannot write what is copied");
            }
            done += written > 0 ? written : 0;
        }
    }
}

/* Between a descriptor of ours and copy->temp. */
static enum kelpie_status pump_temp(const struct copy *copy, bool in, struct kelpie_error *err) {
    ASSERT(copy);
    ASSERT(copy->temp[0] != 0);
    int fd = open(copy->temp, (in ? O_WRONLY | O_TRUNC : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return error_set_os(err, errno, "cannot open %s", copy->temp);
    }
    enum kelpie_status status = in ? pump(STDIN_FILENO, fd, err) : pump(fd, STDOUT_FILENO, err);
    if (close(fd) != 0 && status == KELPIE_OK) {
        status = error_set_os(err, errno, "cannot write %s", copy->temp);
    }
    return status;
}

/* ---- In and out ------------------------------------------------------------------------------- */

/* A file into the guest, under its own name when that is a folder there. */
static enum kelpie_status file_in(struct copy *copy, struct kelpie_vm *vm, const char *host_path,
                                  struct kelpie_error *err) {
    ASSERT(vm);
    ASSERT(host_path);
    /* What comes through a file of ours has its mode, 0600, which means nothing. */
    struct kelpie_copy_options options = {.mode = copy->source.stream ? 0644 : 0};
    const char *path = copy->target.path;
    if (!ends_in_slash(path)) {
        enum kelpie_status status = kelpie_copy_in(vm, host_path, path, &options, err);
        if (status == KELPIE_OK || err->os_error != EISDIR) {
            return status;
        }
    }
    TRY(below(copy, path, err));
    return kelpie_copy_in(vm, host_path, copy->path, &options, err);
}

/* Asks for a byte of it as if it were a file. */
static bool is_guest_folder(struct copy *copy, struct kelpie_vm *vm, const char *path) {
    struct kelpie_error err;
    struct kelpie_copy_options options = {.bytes_max = 1};
    ASSERT(vm);
    ASSERT(path);
    if (copy->temp[0] == 0 && make_temp(copy, &err) != KELPIE_OK) {
        return false;
    }
    return kelpie_copy_out(vm, path, copy->temp, &options, &err) != KELPIE_OK &&
           err.os_error == EISDIR;
}

static enum kelpie_status folder_in(struct copy *copy, struct kelpie_vm *vm,
                                    struct kelpie_error *err) {
    const char *path = copy->target.path;
    ASSERT(vm);
    ASSERT(copy->source.vm[0] == 0);
    bool contents = strcmp(base_name(copy->source.path), ".") == 0;
    if (!contents && is_guest_folder(copy, vm, path)) {
        TRY(below(copy, path, err));
        path = copy->path;
    }
    return kelpie_copy_tree_in(vm, copy->source.path, path, NULL, &copy->report, err);
}

static enum kelpie_status copy_in(struct copy *copy, const char *host_path,
                                  struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(copy->target.vm[0] != 0);
    ASSERT(host_path);
    TRY(kelpie_vm_open(NULL, copy->target.vm, &vm, err));
    enum kelpie_status status =
        copy->folder ? folder_in(copy, vm, err) : file_in(copy, vm, host_path, err);
    kelpie_vm_close(vm);
    return status;
}

/* Where a file goes here: the target, or below it when that is a folder. */
static enum kelpie_status host_target(struct copy *copy, const char **ret_path,
                                      struct kelpie_error *err) {
    struct stat info = {0};
    const char *path = copy->target.path;
    ASSERT(copy->target.vm[0] == 0);
    ASSERT(ret_path);
    bool exists = stat(path, &info) == 0;
    if (!exists && ends_in_slash(path)) {
        return error_set_os(err, ENOENT, "there is no folder %s", path);
    }
    if (!exists || !S_ISDIR(info.st_mode)) {
        *ret_path = path;
        return KELPIE_OK;
    }
    TRY(below(copy, path, err));
    *ret_path = copy->path;
    return KELPIE_OK;
}

static enum kelpie_status copy_out(struct copy *copy, const char *host_path,
                                   struct kelpie_error *err) {
    struct kelpie_vm *vm = NULL;
    ASSERT(copy->source.vm[0] != 0);
    ASSERT(host_path);
    TRY(kelpie_vm_open(NULL, copy->source.vm, &vm, err));
    const char *path = copy->source.path;
    enum kelpie_status status = kelpie_copy_out(vm, path, host_path, NULL, err);
    if (status != KELPIE_OK && err->os_error == EISDIR && copy->temp[0] == 0) {
        status = kelpie_copy_tree_out(vm, path, host_path, NULL, &copy->report, err);
    } else if (status != KELPIE_OK && err->os_error == EISDIR) {
        status = error_set(err, KELPIE_BAD_CONFIG, "%.200s is a folder: copy it to a folder here",
                           copy->source.word);
    }
    kelpie_vm_close(vm);
    return status;
}

/* Whether what is copied is a folder here. */
static enum kelpie_status check_source(struct copy *copy, struct kelpie_error *err) {
    struct stat info = {0};
    const struct side *source = &copy->source;
    ASSERT(source->path);
    ASSERT(!copy->folder);
    if (source->vm[0] != 0 || source->stream) {
        return KELPIE_OK;
    }
    if (stat(source->path, &info) != 0) {
        return error_set_os(err, errno, "cannot read %.400s", source->path);
    }
    copy->folder = S_ISDIR(info.st_mode);
    return KELPIE_OK;
}

static enum kelpie_status perform(struct copy *copy, struct kelpie_error *err) {
    bool from_vm = copy->source.vm[0] != 0;
    bool to_vm = copy->target.vm[0] != 0;
    ASSERT(from_vm || to_vm);
    ASSERT(copy->temp[0] == 0);
    TRY(check_source(copy, err));
    if (from_vm && !to_vm && !copy->target.stream) {
        const char *path = NULL;
        TRY(host_target(copy, &path, err));
        return copy_out(copy, path, err);
    }
    if (to_vm && !from_vm && !copy->source.stream) {
        return copy_in(copy, copy->source.path, err);
    }
    TRY(make_temp(copy, err));
    TRY(from_vm ? copy_out(copy, copy->temp, err) : pump_temp(copy, true, err));
    return to_vm ? copy_in(copy, copy->temp, err) : pump_temp(copy, false, err);
}

static enum kelpie_status parse_sides(const char *source, const char *target, struct copy *copy,
                                      struct kelpie_error *err) {
    ASSERT(source);
    ASSERT(target);
    TRY(parse_side(source, &copy->source, err));
    TRY(parse_side(target, &copy->target, err));
    if (copy->source.vm[0] == 0 && copy->target.vm[0] == 0) {
        return error_set(err, KELPIE_BAD_CONFIG, "neither side is VM:PATH: kelpie cp SRC DST");
    }
    return KELPIE_OK;
}

/* ---- The command ------------------------------------------------------------------------------ */

static int copy_words(const char *source, const char *target, bool json) {
    struct kelpie_error err;
    AUTO_MEM struct copy *copy = calloc(1, sizeof(*copy));
    if (!copy) {
        return output_no_memory();
    }
    ASSERT(source);
    ASSERT(target);
    if (parse_sides(source, target, copy, &err) != KELPIE_OK) {
        output_error(NULL, &err);
        output_hint("'kelpie cp --help' explains the two sides");
        return CLI_EXIT_FAILED;
    }
    enum kelpie_status status = perform(copy, &err);
    if (copy->temp[0] != 0) {
        (void)unlink(copy->temp);
    }
    if (status != KELPIE_OK) {
        bool missing = status == KELPIE_NOT_FOUND && err.os_error == 0;
        output_error(NULL, &err);
        if (missing) {
            verb_hint_vms(copy->target.vm[0] != 0 ? copy->target.vm : copy->source.vm);
        }
        return CLI_EXIT_FAILED;
    }
    if (copy->report.skipped_count > 0) {
        output_hint("%llu were left out, since they are no files, folders or links within the "
                    "folder: %s",
                    (unsigned long long)copy->report.skipped_count, copy->report.skipped);
    }
    if (json && !copy->target.stream) {
        return output_json(json_pack("{s:s, s:s, s:I}", "source", source, "target", target,
                                     "skipped_count", (json_int_t)copy->report.skipped_count),
                           CLI_EXIT_OK);
    }
    return CLI_EXIT_OK;
}

static int cp_run(const struct cli_table *table, struct option_words *words) {
    ASSERT(table);
    ASSERT(words);
    struct cp_options options = {0};
    int code = CLI_EXIT_OK;
    AUTO_MEM struct cli_operands *operands = calloc(1, sizeof(*operands));
    if (!operands) {
        return output_no_memory();
    }
    if (!cli_parse_all(&cli_cp, words, &options, operands, &code)) {
        return code;
    }
    return copy_words(operands->words[0], operands->words[1], options.json);
}

const struct cli_command cli_cp = {
    .name = "cp",
    .summary = "Copies files and folders into a VM and out of it, files from one to another",
    .synopsis = "[OPTIONS] SRC DST",
    .notes = "Each side is a path here, VM:/PATH, or '-' for standard input or output (of a file). "
             "A path here\n"
             "that has a colon is written ./a:b. A target that is a folder, or ends in '/', gets "
             "the file or\n"
             "folder under its own name; SRC/. is what is in a folder. A file is there whole or "
             "not at all. Into a\n"
             "VM, what is there already stays, and files in the way are replaced; out of one, a "
             "folder of that\n"
             "name must not be there. Owners are not copied.\n",
    .options = &cp_table,
    .run = cp_run,
    .group = CLI_GROUP_VMS,
    .operands = {CLI_OPERAND_COPY, CLI_OPERAND_COPY},
    .json = "source, target  as they were given\n"
            "skipped_count   what was left out of a folder: neither file, folder nor link\n",
    .examples = "kelpie cp main.c web:/src/\nkelpie cp web:/var/log/messages -\n"
                "# what is in a folder\nkelpie cp src/. web:/src\n",
    .rule = {2, 2, "a source, or a target,"},
};
